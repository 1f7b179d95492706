"""Debate: a solver proposes an answer with its reasoning, a critic comments without giving it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tasks.base import Question
from ..tasks.choices import read_choice
from ..tasks.metrics import choice_accuracy
from ..tasks.micro import make_questions
from .base import System, Turn, chat_messages, parse_answer
from .task import Task

_SOLVER = """You answer multiple-choice questions. Reason in one or two sentences, then give the letter of your choice as <A>letter</A>.
A critic comments on your answer; then answer once more in the same form."""  # noqa: E501

_CRITIC = """You are shown a multiple-choice question and a solver's answer. If the answer is right, reply with the one word: agree
Otherwise say in one sentence what to reconsider. Never give the letter of the right option."""  # noqa: E501

_TERSE = """You are a program that exchanges messages with another program. Nobody else reads them, and every token costs: write no full sentences but the shortest form that the other understands, such as key: value pairs or symbols."""  # noqa: E501

_OPTIMA_SOLVER = f"""{_TERSE}
Answer a multiple-choice question from what you know. Think in steps, then end your message with <A>letter</A>, the letter of your choice.
A critic tells what may be wrong with it; weigh that, then answer once more in the same form."""  # noqa: E501

_OPTIMA_CRITIC = f"""{_TERSE}
You are shown a multiple-choice question and a solver's answer. Look for mistakes in its steps. If there is none, reply with the one word: agree
Otherwise tell what is wrong and what to reconsider. Never give the answer yourself."""  # noqa: E501

STYLES = {
    "micro": {
        "max_turns": 3,
        "max_new_tokens": 20,
        "instructions": ("{role} : {view} ask {question}",) * 2,
        "opening": "",
    },
    "chat": {
        "max_turns": 3,
        "max_new_tokens": 128,
        "instructions": (_SOLVER, _CRITIC),
        "opening": "{question}",
    },
    "optima": {
        "max_turns": 10,
        "max_new_tokens": 512,
        "instructions": (_OPTIMA_SOLVER, _OPTIMA_CRITIC),
        "opening": "{question}",
    },
}
"""Limits and prompts by style, as in `exchange`."""

_DOUBT = "Look at the question again and compare all the options."


@dataclass(frozen=True)
class Debate(System):
    """Solver, critic, solver: it ends when the critic agrees or after `max_turns`; the solver's
    last answer counts (accuracy). `instructions` and `opening` are as in `Exchange`."""

    max_turns: int
    max_new_tokens: int
    instructions: tuple[str, str]
    opening: str
    agreement: str = "agree"
    name: str = "debate"
    agents: tuple[str, ...] = ("solver", "critic")
    metric_name: str = "accuracy"

    def expected_turns(self) -> int:
        return self.max_turns

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        critic_spoke = bool(turns) and turns[-1].agent == "critic"
        agreed = critic_spoke and turns[-1].text.strip(" .!\n").lower() == self.agreement
        return None if agreed or len(turns) >= self.max_turns else self.agents[len(turns) % 2]

    def messages(
        self, question: Question, turns: tuple[Turn, ...], agent: str
    ) -> list[dict[str, str]]:
        return chat_messages(self, question, turns, agent)

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        """The option that the solver's last reply names; None where it names none, or several."""
        solved = [turn for turn in turns if turn.agent == "solver"]
        said = parse_answer(solved[-1].text) if solved else None
        return None if said is None else read_choice(said, question.options)

    def score(self, question: Question, answer: str | None) -> float:
        return choice_accuracy(answer, question.answers, question.options)


def gold_debate(question: Question, rng: np.random.Generator) -> list[Turn]:
    """The solver is right at once, or (every other time) after the critic's doubt. The wrong answer
    before that doubt is shown, not learned."""
    gold = {answer.strip().lower() for answer in question.answers}
    wrong = [letter for letter in question.letters if letter.strip().lower() not in gold]
    right = f"<A>{question.answers[0]}</A>"
    if wrong and rng.random() < 0.5:
        mistaken = f"<A>{wrong[rng.integers(len(wrong))]}</A>"
        return [
            Turn("solver", mistaken, trainable=False),
            Turn("critic", _DOUBT),
            Turn("solver", right),
        ]
    return [Turn("solver", right), Turn("critic", "agree")]


TASK = Task(
    name="debate",
    title="debate",
    metric="accuracy",
    system=lambda style, limits: Debate(**STYLES[style] | limits),
    questions=lambda split, count, seed, world: make_questions(
        "debate", split, count, seed, world.facts_per_view, world.harmful
    ),
    styles=("micro", "chat", "optima"),
    readers=("solver", "critic"),
    limits={"max_turns": (2, 100), "max_new_tokens": (1, 32768)},
    warm_start=gold_debate,
    can_be_harmed=True,
    choice=True,
)
