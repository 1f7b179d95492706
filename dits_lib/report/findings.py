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
Told = list[tuple[Comparison, str]]
"""Comparisons with what is said of where they come from."""
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
        level = level_of(evidence)
        own = [(e.comparison, f" in {e.results}" if by_results else "") for e in evidence]
        tasks = by_task([comparison for comparison, _ in own], level)
        verdict = together(tasks.values())
        if verdict in _WORDS:
            whole.append((number, own, level))
        elif set(tasks.values()) & set(_WORDS):
            partly.append((number, own, level))
        elif verdict == OPEN:
            undecided.append((number, own, level))
    sentences = [_whole(*one) for one in whole[:MOST]]
    short = [_short(*one) for one in [*whole[MOST:], *partly]]
    if short:
        sentences.append(f"**Decided for single tasks**: {'; '.join(short)}.")
    if undecided:
        told = ", ".join(_seen(*one) for one in undecided)
        sentences.append(
            f"**Not decided at this size**: {told}; in brackets the effects, from the best to the "
            "worst comparison, that 80 % of such runs would show."
        )
    return sentences


def _whole(number: str, own: Told, level: float) -> str:
    """A claim that is decided: each decided task with the comparison that decides it."""
    tasks = _by_task(own, level)
    verdict = together(tasks.values())
    told = "; ".join(
        f"{_task(task)}: {_effect(own, task, level)}"
        for task, decided in tasks.items()
        if decided == verdict
    )
    left = [_task(task) for task, decided in tasks.items() if decided == OPEN]
    rest = f" (not decided: {', '.join(left)})" if left else ""
    return f"**Claim {number} {_WORDS[verdict]}** ({CLAIMS[number].rstrip('.')}). {told}{rest}."


def _short(number: str, own: Told, level: float) -> str:
    """A claim that is decided for some tasks."""
    told = [
        f"{_WORDS[verdict]} for the {_task(task)} ({_effect(own, task, level)})"
        for task, verdict in _by_task(own, level).items()
        if verdict in _WORDS
    ]
    return f"claim {number} {' and '.join(told)}"


def _seen(number: str, own: Told, level: float) -> str:
    seen = detectable_range([comparison for comparison, _ in own], level)
    return f"claim {number}" + (f" ({seen})" if seen else "")


def _effect(own: Told, task: str, level: float) -> str:
    """The comparison that a task's verdict hangs on: of those that hold the one nearest to its
    bound, else the one that lies farthest beyond it."""
    known = [
        (c, place)
        for c, place in own
        if c.task == task and c.verdict(level) not in (OPEN, NO_VALUE)
    ]
    contradicted = [one for one in known if one[0].verdict(level) == CONTRADICTED]
    chosen, place = (
        max(contradicted, key=lambda one: _margin(one[0], level))
        if contradicted
        else min(known, key=lambda one: _margin(one[0], level))
    )
    claimed = f"where {chosen.claimed()} is claimed"
    return f"{plain(chosen.name)} {chosen.text(level)}{place} {claimed}"


def _by_task(own: Told, level: float) -> dict[str, str]:
    """{task: verdict}."""
    return by_task([comparison for comparison, _ in own], level)


def _margin(comparison: Comparison, level: float) -> float:
    """Distance of an interval from the nearest bound of what is claimed."""
    ends = comparison.interval(level).values()
    return min(abs(end - b) for end in ends for b in (comparison.lower, comparison.upper))


def _task(name: str) -> str:
    return name.replace("_", " ")
