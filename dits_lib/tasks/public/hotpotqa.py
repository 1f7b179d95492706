"""HotpotQA and 2WikiMultiHopQA: questions over two or more paragraphs; token F1."""

from __future__ import annotations

from ..base import Question
from .base import PublicDataset, RowError, deal


class HotpotQA(PublicDataset):
    """HotpotQA, distractor setting (Yang et al., 2018): ten paragraphs, two of them supporting.

    The supporting paragraphs go to different agents, so that neither half suffices; distractors are
    dealt out in turn as long as the word limit allows.
    """

    name, task = "hotpotqa", "exchange"
    hub_id, config, licence = "hotpotqa/hotpot_qa", "distractor", "CC BY-SA 4.0"
    fields = {
        "id": str,
        "question": str,
        "answer": str,
        "type": str,
        "supporting_facts": dict,
        "context": dict,
    }

    def question(self, row: dict, words: int) -> Question:
        context, facts = row["context"], row["supporting_facts"]
        titles, sentences = list(context.get("title", ())), list(context.get("sentences", ()))
        if not titles or len(titles) != len(sentences):
            raise RowError(
                "context",
                f"{len(titles)} titles but {len(sentences)} lists of sentences; expected as many "
                "of both, and one at least",
            )
        needed = [
            (title, number)
            for title, number in zip(facts.get("title", ()), facts.get("sent_id", ()), strict=False)
        ]
        if not needed or any(title not in titles for title, _ in needed):
            raise RowError(
                "supporting_facts", "names no paragraph of the context; expected titles of it"
            )
        if not row["answer"].strip():
            raise RowError("answer", "empty")
        passages = [
            f"{title}: {' '.join(''.join(parts).split())}"
            for title, parts in zip(titles, sentences, strict=False)
        ]
        essential = list(dict.fromkeys(titles.index(title) for title, _ in needed))
        views, holder = deal(passages, essential, words, row["id"])
        script: dict[str, list[str]] = {"alice": [], "bob": []}
        for title, number in needed:
            parts = sentences[titles.index(title)]
            if 0 <= number < len(parts):  # some rows point past the end
                script[holder[titles.index(title)]].append(" ".join(parts[number].split()))
        meta = {"family": row["type"], "script": script, "neither_suffices": len(essential) > 1}
        return Question(
            f"{self.name}-{row['id']}",
            row["question"].strip(),
            (row["answer"].strip(),),
            views,
            meta,
        )


class TwoWikiMultiHopQA(HotpotQA):
    """2WikiMultiHopQA (Ho et al., 2020): the same schema, two to four supporting paragraphs of
    ten."""

    name = "2wikimultihopqa"
    hub_id, config, licence = "framolfese/2WikiMultihopQA", None, "Apache-2.0"
