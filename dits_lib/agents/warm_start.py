"""Scripted dialogues built from a question's supporting facts and gold answer, to teach a small model the protocol.

They are gold: who is told the answer so learns more than the form. A run that starts from them says so.
"""

from __future__ import annotations

import numpy as np

from ..tasks.base import Question
from .base import System, Turn

_NOTHING = "My half says nothing about this."
_DOUBT = "Look at the question again and compare all the options."


def gold_dialogue(system: System, question: Question, rng: np.random.Generator) -> tuple[Turn, ...]:
    """A dialogue that ends in the gold answer: each agent of an exchange tells its supporting sentences; in a debate the solver
    is right at once, or (every other time) after the critic's doubt. The wrong answer before that doubt is shown, not learned."""
    build = _debate if system.name == "debate" else _exchange
    return tuple(Turn(agent, text, trainable=learned) for agent, text, learned in build(question, rng))


def _exchange(question: Question, rng: np.random.Generator) -> list[tuple[str, str, bool]]:
    answer, told = f"<A>{question.answers[0]}</A>", question.meta.get("script", {})
    alice, bob = (" ".join(told.get(agent, ())) for agent in ("alice", "bob"))
    return [("alice", alice or _NOTHING, True), ("bob", f"{bob} {answer}".strip(), True), ("alice", answer, True)]


def _debate(question: Question, rng: np.random.Generator) -> list[tuple[str, str, bool]]:
    letters = [line[0] for line in question.text.split("\n") if len(line) > 2 and line[1:3] == ". "]
    wrong = [letter for letter in letters if letter not in question.answers]
    right = f"<A>{question.answers[0]}</A>"
    if wrong and rng.random() < 0.5:
        return [("solver", f"<A>{wrong[rng.integers(len(wrong))]}</A>", False), ("critic", _DOUBT, True), ("solver", right, True)]
    return [("solver", right, True), ("critic", "agree", True)]
