"""TriviaQA: trivia questions with documents found by a web search; token F1 over all aliases."""

from __future__ import annotations

from pydantic import BaseModel

from ..base import Question
from ..rows import Filled, RowError
from .base import PublicDataset, deal, first_words, stable_hash


class _Answer(BaseModel):
    value: str | None = None
    aliases: list[str] | None = None


class _Searched(BaseModel):
    title: list[str] | None = None
    search_context: list[str | None] | None = None


class _Pages(BaseModel):
    title: list[str] | None = None
    wiki_context: list[str | None] | None = None


class TriviaQA(PublicDataset):
    """TriviaQA, reading comprehension (Joshi et al., 2017).

    The documents (search results, then Wikipedia pages) are dealt out to the agents in turn, each
    cut to its first words; the gold answer is not looked at, so one half may suffice. Rows without
    documents are asked closed-book.
    """

    name, task = "triviaqa", "exchange"
    hub_id, config, licence = (
        "mandarjoshi/trivia_qa",
        "rc",
        "not stated by the card (code: Apache-2.0)",
    )
    fields = {
        "question": Filled,
        "question_id": Filled | None,
        "answer": _Answer,
        "search_results": _Searched | None,
        "entity_pages": _Pages | None,
    }

    def question(self, row: dict, words: int) -> Question:
        answer = row["answer"]
        known = [answer.get("value"), *(answer.get("aliases") or [])]
        answers = tuple(dict.fromkeys(a.strip() for a in known if a and a.strip()))
        if not answers:
            raise RowError("answer", "neither 'value' nor 'aliases' holds a text")
        documents = [
            *self._documents(row, "search_results", "search_context"),
            *self._documents(row, "entity_pages", "wiki_context"),
        ]
        identity = row.get("question_id") or f"{stable_hash(row['question']):016x}"
        passages = [first_words(text, words) for text in documents]
        # Documents are long: each agent gets as many as it has room for when every one keeps an
        # equal part.
        each = max(40, words // max(1, (len(passages) + 1) // 2))
        views, _ = deal([first_words(text, each) for text in passages], [], words, identity)
        return Question(
            f"{self.name}-{identity}",
            row["question"].strip(),
            answers,
            views,
            {"family": "trivia", "neither_suffices": False},
        )

    @staticmethod
    def _documents(row: dict, group: str, column: str) -> list[str]:
        part = row.get(group) or {}
        titles, texts = part.get("title") or [], part.get(column) or []
        if len(titles) != len(texts):
            raise RowError(
                group,
                f"{len(titles)} titles but {len(texts)} texts in '{column}'; expected as many of "
                "both",
            )
        return [
            f"{title}: {' '.join(text.split())}"
            for title, text in zip(titles, texts, strict=True)
            if text and text.strip()
        ]
