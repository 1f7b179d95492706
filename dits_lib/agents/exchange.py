"""Information exchange: Alice and Bob each read half of the context and talk until both give the same answer."""

from __future__ import annotations

from dataclasses import dataclass

from ..tasks.base import Question
from ..tasks.metrics import best_f1, normalize_answer
from .base import Turn, chat_view, parse_answer


@dataclass(frozen=True)
class Exchange:
    """Two agents in turns, at most `max_turns`; the answer counts once both have given it (token F1)."""

    max_turns: int = 6
    max_new_tokens: int = 10
    instruction: str = "{agent} : {view} ask {question}"
    name: str = "exchange"
    agents: tuple[str, ...] = ("alice", "bob")
    metric_name: str = "F1"

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        if len(turns) >= self.max_turns or self.answer(question, turns) is not None:
            return None
        return self.agents[len(turns) % 2]

    def messages(self, question: Question, turns: tuple[Turn, ...], agent: str) -> list[dict[str, str]]:
        content = self.instruction.format(agent=agent, view=question.views[agent], question=question.text)
        return [{"role": "system", "content": content}, *chat_view(turns, agent)]

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        if len(turns) < 2:
            return None
        last, before = parse_answer(turns[-1].text), parse_answer(turns[-2].text)
        agreed = last is not None and before is not None and normalize_answer(last) == normalize_answer(before)
        return last if agreed else None

    def score(self, question: Question, answer: str | None) -> float:
        return best_f1(answer, question.answers)
