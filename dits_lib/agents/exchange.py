"""Information exchange: Alice and Bob each read half of the context and talk until both give the
same answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tasks.base import Question, standing_in
from ..tasks.metrics import best_f1, normalize_answer
from ..tasks.micro import make_questions
from .base import System, Turn, chat_messages, parse_answer
from .task import Task

_CHAT = """You are {name}. You and {partner} answer a question together. Each of you reads one half of the context, and often neither half is enough.
In each turn, either tell {partner} in one short sentence what your half says about the question, or ask for what you lack.
When you know the answer, reply with <A>answer</A>: the answer alone, in as few words as possible. You are done when both of you have given the same answer.

Your half of the context:
{view}"""  # noqa: E501 (line breaks would change what the model reads)

_OPTIMA = """You are {name}, a program that exchanges messages with another program, {partner}. Nobody else reads them, and every token costs: write no full sentences but the shortest form that {partner} understands, such as key: value pairs or symbols.
Find the answer to the question together. You hold one part of the information and {partner} holds the other; neither may be enough, so tell what yours says and ask for what is missing. Think in steps, and rely on your information and on what {partner} tells, on nothing else.
When the answer is known, end your message with <A>answer</A>, where the answer is as short as it can be. The exchange is over when both of you have given the same answer in this form.

Your information:
{view}"""  # noqa: E501

STYLES = {
    "micro": {
        "max_turns": 6,
        "max_new_tokens": 10,
        "instructions": ("{role} : {view} ask {question}",) * 2,
        "opening": "",
    },
    "chat": {
        "max_turns": 6,
        "max_new_tokens": 64,
        "instructions": (_CHAT, _CHAT),
        "opening": "Question: {question}",
    },
    "optima": {
        "max_turns": 10,
        "max_new_tokens": 512,
        "instructions": (_OPTIMA, _OPTIMA),
        "opening": "Question: {question}",
    },
}
"""Limits and prompts by style. {view} is what the agent may read, {question} the question, {name}
the agent's name and {partner} the other's. `optima` asks for what Optima's prompts ask for (Chen et
al., 2024; its utils/prompt_template.py), in words of our own: a terse language of programs."""

_NOTHING = "My half says nothing about this."


@dataclass(frozen=True)
class Exchange(System):
    """Two agents in turns; the answer counts once both have given it (token F1).

    Attributes:
        max_turns: of a dialogue.
        instructions: the system message of each agent; takes {view}, {question}, {name}, {partner}.
        opening: the first user message, if any; takes the same.
    """

    max_turns: int
    max_new_tokens: int
    instructions: tuple[str, str]
    opening: str
    name: str = "exchange"
    agents: tuple[str, ...] = ("alice", "bob")
    metric_name: str = "F1"

    def expected_turns(self) -> int:
        return self.max_turns

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        if len(turns) >= self.max_turns or self.answer(question, turns) is not None:
            return None
        return self.agents[len(turns) % 2]

    def messages(
        self, question: Question, turns: tuple[Turn, ...], agent: str
    ) -> list[dict[str, str]]:
        return chat_messages(self, question, turns, agent)

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        if len(turns) < 2:
            return None
        last, before = parse_answer(turns[-1].text), parse_answer(turns[-2].text)
        if last is None or before is None:
            return None
        return last if normalize_answer(last) == normalize_answer(before) else None

    def score(self, question: Question, answer: str | None) -> float:
        return best_f1(answer, question.answers)


def gold_exchange(question: Question, rng: np.random.Generator) -> list[Turn]:
    """Each agent tells its supporting sentences, of those that its view holds; then both give the
    gold answer."""
    answer, script = f"<A>{question.answers[0]}</A>", question.meta.get("script", {})
    alice, bob = (
        " ".join(standing_in(script.get(agent, ()), question.views[agent]))
        for agent in ("alice", "bob")
    )
    return [
        Turn("alice", alice or _NOTHING),
        Turn("bob", f"{bob} {answer}".strip()),
        Turn("alice", answer),
    ]


TASK = Task(
    name="exchange",
    title="information exchange",
    metric="F1",
    system=lambda style, limits: Exchange(**STYLES[style] | limits),
    questions=lambda split, count, seed, world: make_questions(
        "exchange", split, count, seed, world.facts_per_view, world.harmful
    ),
    styles=("micro", "chat", "optima"),
    readers=("alice", "bob"),
    limits={"max_turns": (2, 100), "max_new_tokens": (1, 32768)},
    warm_start=gold_exchange,
    can_be_harmed=True,
)
