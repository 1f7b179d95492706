"""Information exchange: Alice and Bob each read half of the context and talk until both give the same answer."""

from __future__ import annotations

from dataclasses import dataclass

from ..tasks.base import Question
from ..tasks.metrics import best_f1, normalize_answer
from .base import Turn, chat_messages, parse_answer


@dataclass(frozen=True)
class Exchange:
    """Two agents in turns, at most `max_turns`; the answer counts once both have given it (token F1).

    `instructions` (system message) and `opening` (first user message, if any) take {view}, {question}, {name} and {partner}.
    """

    max_turns: int
    max_new_tokens: int
    instructions: tuple[str, str]
    opening: str
    name: str = "exchange"
    agents: tuple[str, ...] = ("alice", "bob")
    metric_name: str = "F1"

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        if len(turns) >= self.max_turns or self.answer(question, turns) is not None:
            return None
        return self.agents[len(turns) % 2]

    def messages(self, question: Question, turns: tuple[Turn, ...], agent: str) -> list[dict[str, str]]:
        return chat_messages(self, question, turns, agent)

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        if len(turns) < 2:
            return None
        last, before = parse_answer(turns[-1].text), parse_answer(turns[-2].text)
        agreed = last is not None and before is not None and normalize_answer(last) == normalize_answer(before)
        return last if agreed else None

    def score(self, question: Question, answer: str | None) -> float:
        return best_f1(answer, question.answers)
