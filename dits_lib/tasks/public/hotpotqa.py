"""HotpotQA and 2WikiMultiHopQA: questions over two or more paragraphs; token F1."""

from __future__ import annotations

from pydantic import BaseModel

from ..base import Question, standing_in
from ..rows import Filled, RowError
from .base import PublicDataset, deal


class _Facts(BaseModel):
    title: list[str]
    sent_id: list[int]


class _Context(BaseModel):
    title: list[str]
    sentences: list[list[str]]


class HotpotQA(PublicDataset):
    """HotpotQA, distractor setting (Yang et al., 2018): ten paragraphs, two of them supporting.

    The supporting paragraphs go to different agents, so that neither half suffices; distractors are
    dealt out in turn as long as the word limit allows.
    """

    name, task = "hotpotqa", "exchange"
    hub_id, config, licence = "hotpotqa/hotpot_qa", "distractor", "CC BY-SA 4.0"
    fields = {
        "id": Filled,
        "question": Filled,
        "answer": Filled,
        "type": Filled,
        "supporting_facts": _Facts,
        "context": _Context,
    }

    def question(self, row: dict, words: int) -> Question:
        titles, sentences = row["context"]["title"], row["context"]["sentences"]
        if not titles or len(titles) != len(sentences):
            raise RowError(
                "context",
                f"{len(titles)} titles but {len(sentences)} lists of sentences; expected as many "
                "of both, and one at least",
            )
        needed = self._needed(row["supporting_facts"], titles, sentences)
        passages = [
            f"{title}: {' '.join(''.join(parts).split())}"
            for title, parts in zip(titles, sentences, strict=True)
        ]
        essential = list(dict.fromkeys(titles.index(title) for title, _ in needed))
        views, holder = deal(passages, essential, words, row["id"])
        script: dict[str, list[str]] = {"alice": [], "bob": []}
        for title, number in needed:
            parts, agent = sentences[titles.index(title)], holder[titles.index(title)]
            if 0 <= number < len(parts):  # some rows point past the end
                sentence = " ".join(parts[number].split())
                # What was cut from the view is nothing that the agent could tell.
                script[agent] += standing_in([sentence], views[agent])
        meta = {"family": row["type"], "script": script, "neither_suffices": len(essential) > 1}
        return Question(
            f"{self.name}-{row['id']}",
            row["question"].strip(),
            (row["answer"].strip(),),
            views,
            meta,
        )

    @staticmethod
    def _needed(
        facts: dict, titles: list[str], sentences: list[list[str]]
    ) -> list[tuple[str, int]]:
        """(title, number of the sentence) of every supporting fact."""
        if len(facts["title"]) != len(facts["sent_id"]):
            raise RowError(
                "supporting_facts",
                f"{len(facts['title'])} titles but {len(facts['sent_id'])} sentence numbers; "
                "expected as many of both",
            )
        if not facts["title"] or any(title not in titles for title in facts["title"]):
            raise RowError(
                "supporting_facts", "names no paragraph of the context; expected titles of it"
            )
        for title in facts["title"]:
            if not "".join(sentences[titles.index(title)]).strip():
                raise RowError("context.sentences", "a supporting paragraph is empty")
        return list(zip(facts["title"], facts["sent_id"], strict=True))


class TwoWikiMultiHopQA(HotpotQA):
    """2WikiMultiHopQA (Ho et al., 2020): the same schema, two to four supporting paragraphs of
    ten."""

    name = "2wikimultihopqa"
    hub_id, config, licence = "framolfese/2WikiMultihopQA", None, "Apache-2.0"
