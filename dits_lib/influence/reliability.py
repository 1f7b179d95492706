"""How far scores can be trusted: repeat them on other validation questions and compare the
rankings."""

from __future__ import annotations

import numpy as np
import scipy

from .base import Scores, mean_and_stderr


def resampled_rows(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One bootstrap sample of whole groups: the indices of their members."""
    names, member = np.unique(groups, return_inverse=True)
    rows_of = [np.flatnonzero(member == i) for i in range(len(names))]
    return np.concatenate([rows_of[i] for i in rng.integers(len(names), size=len(names))])


def rank_correlation(
    a: np.ndarray, b: np.ndarray, groups=None, seed: int = 0, resamples: int = 500
) -> dict[str, float]:
    """Spearman's rho with a 95 % percentile-bootstrap interval; NaN where a side does not vary.

    Args:
        groups: [n] labels of what is resampled together (the pairs of one question); None: each
            alone.
    """
    nothing = {"low": float("nan"), "high": float("nan"), "n": len(a)}
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"rho": float("nan")} | nothing
    groups = np.arange(len(a)) if groups is None else np.asarray(groups)
    if len(np.unique(groups)) < 2:
        return {"rho": float(scipy.stats.spearmanr(a, b).statistic)} | nothing
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        rows = resampled_rows(groups, rng)
        if np.ptp(a[rows]) > 0 and np.ptp(b[rows]) > 0:
            draws.append(scipy.stats.spearmanr(a[rows], b[rows]).statistic)
    low, high = np.percentile(draws, [2.5, 97.5]) if draws else (float("nan"), float("nan"))
    return {
        "rho": float(scipy.stats.spearmanr(a, b).statistic),
        "low": float(low),
        "high": float(high),
        "n": len(a),
    }


def reliability(first: Scores, second: Scores, alpha: float = 0.5, groups=None) -> dict[str, float]:
    """Agreement of two scorings of the same pairs on disjoint validation sets.

    Adds to the rank correlation the overlap of the two top-alpha sets, a mean over random tie
    breaks that the two sets do not share; by chance it is alpha.
    """
    rng, count = np.random.default_rng(0), max(1, round(alpha * len(first.value)))
    overlaps = []
    for _ in range(100):
        tops = [
            set(np.lexsort((rng.random(len(s.value)), -s.value))[:count]) for s in (first, second)
        ]
        overlaps.append(len(tops[0] & tops[1]) / count)
    correlation = rank_correlation(first.value, second.value, groups)
    return correlation | {"overlap": float(np.mean(overlaps)), "chance": count / len(first.value)}


def by_group(scores: Scores, groups: list) -> Scores:
    """Scores of groups of pairs (all pairs of one question): the sum of theirs, as for one step on
    all at once, to first order.

    Returns scores in the order in which the groups first occur.
    """
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=float)
    known = scores.per_question
    # A question that a pair did not play counts as the pair's mean.
    filled = np.where(np.isnan(known), np.nanmean(known, axis=1, keepdims=True), known)
    table = member @ filled
    return Scores(f"{scores.estimator} by group", *mean_and_stderr(table), scores.cost, table)
