"""Whether a free answer is right: exactly, or by a judge model with a strict reply.

A judge sees all answers of a batch at once (`prepare`), and keeps its verdicts. What it says that
is neither `correct` nor `incorrect` counts as no verdict: the answer is then scored by exact match,
and `nonsense` tells how often that happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from .base import Question
from .metrics import best_f1, exact_match
from .thoughts import without_thoughts

PROMPT = """Question: {question}
Reference answer: {gold}
Answer to be judged: {answer}

Does the answer to be judged say the same as the reference answer? Reply with one word: correct or incorrect."""  # noqa: E501


class JudgeError(RuntimeError):
    """A judge that cannot be asked."""


class Judge(Protocol):
    """Scores answers."""

    def prepare(self, pairs: list[tuple[Question, str | None]]) -> None:
        """Look at these answers, all at once, before they are scored."""

    def score(self, question: Question, answer: str | None) -> float:
        """1 for a right answer, 0 for a wrong one or none."""

    def unclear(self, question: Question, answer: str | None) -> bool:
        """Whether its reply on this answer was no verdict."""


class ExactMatch:
    """Right when it equals a gold answer after SQuAD's normalisation."""

    def prepare(self, pairs) -> None:
        pass

    def score(self, question: Question, answer: str | None) -> float:
        return exact_match(answer, question.answers)

    def unclear(self, question, answer) -> bool:
        return False


class ModelJudge:
    """A language model judges.

    Args:
        ask: prompts -> replies, all at once: a local engine's or a server's
            (`judge_server.server`).

    Attributes:
        nonsense: replies that were no verdict.
        verdicts: {(question id, answer): right or not, None without a verdict}.
    """

    def __init__(self, ask: Callable[[list[str]], list[str]]):
        self.ask, self.nonsense, self.verdicts = ask, 0, {}

    def prepare(self, pairs: list[tuple[Question, str | None]]) -> None:
        new = {(q.id, a): q for q, a in pairs if a is not None and (q.id, a) not in self.verdicts}
        if not new:
            return
        prompts = [
            PROMPT.format(question=q.text, gold=" or ".join(q.answers), answer=answer)
            for (_, answer), q in new.items()
        ]
        for key, reply in zip(new, self.ask(prompts), strict=True):
            self.verdicts[key] = read_verdict(reply)
            self.nonsense += self.verdicts[key] is None

    def score(self, question: Question, answer: str | None) -> float:
        if answer is None:
            return 0.0
        self.prepare([(question, answer)])
        verdict = self.verdicts[question.id, answer]
        return exact_match(answer, question.answers) if verdict is None else float(verdict)

    def unclear(self, question: Question, answer: str | None) -> bool:
        return self.verdicts.get((question.id, answer), False) is None


def read_verdict(reply: str) -> bool | None:
    """True for `correct`, False for `incorrect`, None for anything else; a full stop or markup
    around the word is allowed, and a thought before it, if it ends."""
    word = re.sub(r"[^a-z]", "", without_thoughts(reply).lower())
    return {"correct": True, "incorrect": False}.get(word)


def agreement(judge: Judge, pairs: list[tuple[Question, str | None]]) -> dict[str, float]:
    """How a judge's scores stand to exact match and F1: means of the three over all dialogues, and
    the share of the answers given on which judge and exact match agree."""
    judge.prepare(pairs)
    return compared(
        [judge.score(q, a) for q, a in pairs], [a for _, a in pairs], [q.answers for q, _ in pairs]
    )


def compared(
    scores: list[float], answers: list[str | None], golds: list[tuple[str, ...]]
) -> dict[str, float]:
    """As `agreement`, for answers that were judged before."""
    exact, count = (
        [exact_match(a, g) for a, g in zip(answers, golds, strict=True)],
        max(1, len(answers)),
    )
    given = [
        score == match
        for score, match, answer in zip(scores, exact, answers, strict=True)
        if answer is not None
    ]
    return {
        "judge": sum(scores) / count,
        "exact match": sum(exact) / count,
        "F1": sum(best_f1(a, g) for a, g in zip(answers, golds, strict=True)) / count,
        "dialogues": len(answers),
        "answers": len(given),
        "agreement": sum(given) / max(1, len(given)),
    }
