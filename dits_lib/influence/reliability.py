"""How far scores can be trusted: repeat them on other validation questions and compare the rankings."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from .base import Scores


def rank_correlation(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = 1000) -> dict[str, float]:
    """Spearman's rho with a 95 % percentile-bootstrap interval over the pairs; NaN where a side does not vary."""
    if len(a) < 3 or np.std(a) == 0 or np.std(b) == 0:
        return {"rho": float("nan"), "low": float("nan"), "high": float("nan"), "n": len(a)}
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        rows = rng.integers(len(a), size=len(a))
        if np.std(a[rows]) > 0 and np.std(b[rows]) > 0:
            draws.append(spearmanr(a[rows], b[rows]).statistic)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"rho": float(spearmanr(a, b).statistic), "low": float(low), "high": float(high), "n": len(a)}


def reliability(first: Scores, second: Scores, alpha: float = 0.5) -> dict[str, float]:
    """Agreement of two scorings of the same pairs on disjoint validation sets.

    Adds to the rank correlation the overlap of the two top-alpha sets; by chance it is alpha.
    """
    count = max(1, round(alpha * len(first.value)))
    tops = [set(np.argsort(-scores.value, kind="stable")[:count]) for scores in (first, second)]
    return rank_correlation(first.value, second.value) | {"overlap": len(tops[0] & tops[1]) / count, "chance": alpha}
