"""Several folders' evidence on the same comparison taken together: the mean over all their seeds.

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
    found: dict[str, list[Evidence]], models: dict[str, str], shared: Shared
) -> dict[str, list[Evidence]]:
    """{claim: evidence} in which each comparison of a task stands once for each base model.

    Args:
        models: {results folder: its base model}; folders of different models are never mixed.
        shared: see `mean_effect`.
    """
    told: dict[str, list[Evidence]] = {}
    for claim, evidence in found.items():
        groups: dict[tuple, list[Evidence]] = {}
        for e in evidence:
            key = models[e.results], e.comparison.task, e.comparison.name
            groups.setdefault(key, []).append(e)
        told[claim] = [_one(group, shared) for group in groups.values()]
    return told


def _one(group: list[Evidence], shared: Shared) -> Evidence:
    known = [e for e in group if e.comparison.has_value]
    folders = list(dict.fromkeys(e.results for e in known))
    if len(known) < 2:
        return (known or group)[0]
    notebooks = list(dict.fromkeys(e.notebook for e in known))
    name = f"the mean of {len(folders)} folders" if len(folders) > 1 else folders[0]
    return Evidence(name, ", ".join(notebooks), mean_effect(known, shared), pooled=True)


def mean_effect(evidence: Sequence[Evidence], shared: Shared) -> Comparison:
    """The mean of several estimates of one comparison, each weighted by its `count` (seeds).

    The weights do not depend on what was found, so that the mean is an unbiased estimate of the
    weighted mean of the folders' true effects, whether these are alike or not (the fixed effects of
    a meta-analysis; Rice, Higgins and Lumley, 2018). Its error has the degrees of freedom of Welch
    and Satterthwaite. Estimates that rest on the same seeds are not independent: their errors are
    added as they are, not as squares, as if one seed's luck were the same in all of them. What
    noise leaves of a correlation (`reach`) is the mean of what it leaves in each.

    Args:
        evidence: of the same task and comparison; each with a value.
        shared: whether two of them rest on the same seeds.

    Raises:
        ValueError: for estimates on different scales, or with different claims.
    """
    comparisons = [e.comparison for e in evidence]
    first = comparisons[0]
    for c in comparisons:
        if (c.scale, c.lower, c.upper) != (first.scale, first.lower, first.upper):
            raise ValueError(f"{first.task}, {first.name}: different claims cannot be pooled")
    total = sum(max(1, c.count) for c in comparisons)
    weights = [max(1, c.count) / total for c in comparisons]
    groups = _groups(evidence, shared)

    def added(errors: list[float], freedoms: list[float]) -> tuple[float, float]:
        """The error of the mean, and its degrees of freedom."""
        parts = [sum(weights[i] * errors[i] for i in group) ** 2 for group in groups]
        dfs = [min(freedoms[i] for i in group) for group in groups]
        variance = sum(parts)
        known = sum(part**2 / df for part, df in zip(parts, dfs, strict=True))
        return math.sqrt(variance), variance**2 / known if known else math.inf

    stderr, df = added([c.stderr for c in comparisons], [c.df for c in comparisons])
    of_questions, its_df = added(
        [c.shared for c in comparisons], [c.shared_df for c in comparisons]
    )
    middle = sum(w * c.to_scale(c.estimate) for w, c in zip(weights, comparisons, strict=True))
    # More seeds than are independent would promise too much.
    count = sum(max(comparisons[i].count for i in group) for group in groups)
    return replace(
        first,
        estimate=first.from_scale(middle),
        stderr=stderr,
        df=df,
        shared=of_questions,
        shared_df=its_df,
        count=count,
        reach=sum(w * c.reach for w, c in zip(weights, comparisons, strict=True)),
    )


def _groups(evidence: Sequence[Evidence], shared: Shared) -> list[list[int]]:
    """Indices of evidence that hangs together through shared seeds."""
    groups: list[list[int]] = []
    for i, e in enumerate(evidence):
        touched = [g for g in groups if any(shared(e, evidence[j]) for j in g)]
        groups = [g for g in groups if g not in touched]
        groups.append(sorted([i, *(j for g in touched for j in g)]))
    return groups
