"""What was found, in a few sentences, from the same comparisons as the verdicts: nothing is typed
in."""

from __future__ import annotations

from collections.abc import Sequence

from .claims import CLAIMS, CONTRADICTED, NO_VALUE, OPEN, SUPPORTED, Comparison, by_task, together
from .names import plain
from .verdicts import Evidence, detectable_range, level_of

MOST = 5
"""Claims that are decided on all tasks have a sentence each, up to so many; two sentences more tell
of the others."""
_WORDS = {SUPPORTED: "holds", CONTRADICTED: "does not hold"}


def findings(found: dict[str, Sequence[Evidence]], by_results: bool = False) -> list[str]:
    """At most seven sentences: what was decided, with the intervals that hold together at 95 %,
    and what was not, with the effects that would have been seen.

    Args:
        found: {claim: evidence}, as `evidence_of` gives it.
        by_results: name the results folder of each comparison.
    """
    whole, partly, undecided = [], [], []
    for number, evidence in found.items():
        one = _Claim(number, evidence, by_results)
        verdict = together(one.tasks.values())
        if verdict in _WORDS:
            whole.append(one)
        elif set(one.tasks.values()) & set(_WORDS):
            partly.append(one)
        elif verdict == OPEN:
            undecided.append(one)
    sentences = [one.whole() for one in whole[:MOST]]
    short = [one.short() for one in [*whole[MOST:], *partly]]
    if short:
        sentences.append(f"**Decided for single tasks**: {'; '.join(short)}.")
    if undecided:
        told = ", ".join(one.seen() for one in undecided)
        sentences.append(
            f"**Not decided at this size**: {told}; in brackets the effects, from the best to the "
            "worst comparison, that 80 % of such runs would show."
        )
    return sentences


class _Claim:
    """One claim's evidence, and how sentences put it."""

    def __init__(self, number: str, evidence: Sequence[Evidence], by_results: bool):
        self.number, self.evidence, self.by_results = number, evidence, by_results
        self.level = level_of(evidence)
        self.comparisons = [e.comparison for e in evidence]
        self.tasks = by_task(self.comparisons, self.level)

    def whole(self) -> str:
        """A claim that is decided: each decided task with the comparison that decides it."""
        verdict = together(self.tasks.values())
        told = "; ".join(
            f"{_task(task)}: {self._effect(task)}"
            for task, decided in self.tasks.items()
            if decided == verdict
        )
        left = [_task(task) for task, decided in self.tasks.items() if decided == OPEN]
        rest = f" (not decided: {', '.join(left)})" if left else ""
        claim = CLAIMS[self.number].rstrip(".")
        return f"**Claim {self.number} {_WORDS[verdict]}** ({claim}). {told}{rest}."

    def short(self) -> str:
        """A claim that is decided for some tasks."""
        told = [
            f"{_WORDS[verdict]} for the {_task(task)} ({self._effect(task)})"
            for task, verdict in self.tasks.items()
            if verdict in _WORDS
        ]
        return f"claim {self.number} {' and '.join(told)}"

    def seen(self) -> str:
        """A claim that is not decided, with the effects that would have been seen."""
        seen = detectable_range(self.comparisons, self.level)
        return f"claim {self.number}" + (f" ({seen})" if seen else "")

    def _effect(self, task: str) -> str:
        """The comparison that a task's verdict hangs on: of those that hold the one nearest to its
        bound, else the one that lies farthest beyond it."""
        known = [
            e
            for e in self.evidence
            if e.comparison.task == task and self._verdict(e) not in (OPEN, NO_VALUE)
        ]
        contradicted = [e for e in known if self._verdict(e) == CONTRADICTED]
        chosen = (
            max(contradicted, key=self._margin) if contradicted else min(known, key=self._margin)
        )
        own = chosen.comparison
        place = f" in {chosen.results}" if self.by_results else ""
        told = f"{plain(own.name)} {own.text(self.level)}{place}"
        return f"{told} where {own.claimed()} is claimed"

    def _verdict(self, e: Evidence) -> str:
        return e.comparison.verdict(self.level)

    def _margin(self, e: Evidence) -> float:
        return _margin(e.comparison, self.level)


def _margin(comparison: Comparison, level: float) -> float:
    """Distance of an interval from the nearest bound of what is claimed."""
    ends = comparison.interval(level).values()
    return min(abs(end - b) for end in ends for b in (comparison.lower, comparison.upper))


def _task(name: str) -> str:
    return name.replace("_", " ")
