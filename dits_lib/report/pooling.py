"""Several folders' evidence on the same comparison taken together: the mean over their seeds.

To ask that a claim hold in every folder at once would make a verdict rarer with each folder that is
added, even where all agree. What is judged over all results is therefore the mean effect, in which
every seed counts alike; what each folder finds by itself stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from .claims import Comparison
from .verdicts import Evidence

Shared = Callable[[Evidence, Evidence], bool]
"""Whether two pieces of evidence rest on the same seeds."""


def pooled(
    found: dict[str, list[Evidence]], world: Callable[[Evidence], str], shared: Shared
) -> dict[str, list[Evidence]]:
    """{claim: evidence} in which each comparison of a task stands once for each world.

    Args:
        world: what evidence is never mixed with other such: the base model and the questions, in
            words; empty for the usual one.
        shared: see `mean_effect`.
    """
    told: dict[str, list[Evidence]] = {}
    for claim, evidence in found.items():
        groups: dict[tuple, list[Evidence]] = {}
        for e in evidence:
            c = e.comparison
            key = world(e), c.task, c.name, c.scale, c.lower, c.upper
            groups.setdefault(key, []).append(e)
        told[claim] = [_one(group, key[0], shared) for key, group in groups.items()]
    return told


def _one(group: list[Evidence], world: str, shared: Shared) -> Evidence:
    # Runs without any spread tell nothing of their error.
    known = [e for e in group if e.comparison.has_value and e.comparison.stderr > 0]
    known = speaking(known, shared)
    if len(known) < 2:
        return (known or group)[0]
    folders, notebooks = (
        list(dict.fromkeys(names))
        for names in ([e.results for e in known], [e.notebook for e in known])
    )
    name = f"the mean of {len(folders)} folders" if len(folders) > 1 else folders[0]
    name += f" ({world})" if world else ""
    return Evidence(name, ", ".join(notebooks), mean_effect(known, shared), pooled=True)


def speaking(evidence: Sequence[Evidence], shared: Shared) -> list[Evidence]:
    """Of evidence that shares seeds, that with the most: another look at the same runs is no
    further evidence. Several with as many all stay."""
    kept = []
    for group in _groups(evidence, shared):
        most = max(evidence[i].comparison.count for i in group)
        kept += [i for i in group if evidence[i].comparison.count == most]
    return [evidence[i] for i in sorted(kept)]


def mean_effect(evidence: Sequence[Evidence], shared: Shared) -> Comparison:
    """The mean of several estimates of one comparison, each weighted by its `count` (seeds); of
    several that share seeds, each by its part of them.

    The weights do not depend on what was found, so that the mean is an unbiased estimate of the
    weighted mean of the folders' true effects, whether these are alike or not (the fixed effects of
    a meta-analysis; Rice, Higgins and Lumley, 2018). Its error has the degrees of freedom of Welch
    and Satterthwaite. Estimates that share seeds are not independent: their errors are added as
    they are, not as squares, as if one seed's luck were the same in all of them; so are those of
    the questions that seeds share (`Comparison.shared`), since folders may ask the same. What noise
    leaves of a correlation (`reach`) is the mean of what it leaves in each.

    Args:
        evidence: of the same comparison with the same claim, each with a value.
        shared: whether two of them rest on the same seeds.
    """
    comparisons = [e.comparison for e in evidence]
    first, groups = comparisons[0], _groups(evidence, shared)
    sizes = [max(1, *(comparisons[i].count for i in group)) for group in groups]
    weights = [0.0] * len(comparisons)
    for group, size in zip(groups, sizes, strict=True):
        for i in group:
            weights[i] = size / len(group) / sum(sizes)

    def mean(values: Sequence[float]) -> float:
        return sum(w * value for w, value in zip(weights, values, strict=True))

    parts = [sum(weights[i] * comparisons[i].stderr for i in group) ** 2 for group in groups]
    freedoms = [min(comparisons[i].df for i in group) for group in groups]
    lost = sum(part**2 / df for part, df in zip(parts, freedoms, strict=True))
    known = all(c.count for c in comparisons)
    return replace(
        first,
        estimate=first.from_scale(mean([c.to_scale(c.estimate) for c in comparisons])),
        stderr=math.sqrt(sum(parts)),
        df=sum(parts) ** 2 / lost if lost else math.inf,
        shared=mean([c.shared for c in comparisons]),
        shared_df=min(c.shared_df for c in comparisons),
        count=sum(sizes) if known else 0,
        reach=mean([c.reach for c in comparisons]),
    )


def _groups(evidence: Sequence[Evidence], shared: Shared) -> list[list[int]]:
    """Indices of evidence that hangs together through shared seeds."""
    groups: list[list[int]] = []
    for i, e in enumerate(evidence):
        touched = [g for g in groups if any(shared(e, evidence[j]) for j in g)]
        groups = [g for g in groups if g not in touched]
        groups.append(sorted([i, *(j for g in touched for j in g)]))
    return groups
