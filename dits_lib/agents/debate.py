"""Debate: a solver proposes an answer with its reasoning, a critic comments without giving the answer."""

from __future__ import annotations

from dataclasses import dataclass

from ..tasks.base import Question
from ..tasks.metrics import choice_accuracy
from .base import Turn, chat_messages, parse_answer


@dataclass(frozen=True)
class Debate:
    """Solver, critic, solver: it ends when the critic agrees or after `max_turns`; the solver's last answer counts
    (accuracy). `instructions` and `opening` are as in `Exchange`."""

    max_turns: int
    max_new_tokens: int
    instructions: tuple[str, str]
    opening: str
    agreement: str = "agree"
    name: str = "debate"
    agents: tuple[str, ...] = ("solver", "critic")
    metric_name: str = "accuracy"

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        agreed = bool(turns) and turns[-1].agent == "critic" and turns[-1].text.strip(" .!\n").lower() == self.agreement
        return None if agreed or len(turns) >= self.max_turns else self.agents[len(turns) % 2]

    def messages(self, question: Question, turns: tuple[Turn, ...], agent: str) -> list[dict[str, str]]:
        return chat_messages(self, question, turns, agent)

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        spoken = [turn for turn in turns if turn.agent == "solver"]
        return parse_answer(spoken[-1].text) if spoken else None

    def score(self, question: Question, answer: str | None) -> float:
        return choice_accuracy(answer, question.answers)
