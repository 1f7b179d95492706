"""Means and paired differences with 95 % intervals over seeds."""

from __future__ import annotations

import numpy as np
import scipy


def mean_interval(values, level: float = 0.95) -> dict[str, float]:
    """Mean with Student's t interval over independent runs; NaN bounds for one run. NaN values (a
    run that had none) are left out."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    count, mean = len(values), float(np.mean(values)) if len(values) else float("nan")
    if count < 2:
        return {"mean": mean, "low": float("nan"), "high": float("nan"), "n": count}
    half = float(
        scipy.stats.t.ppf(0.5 + level / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    )
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": count}


def paired_interval(first, second, level: float = 0.95) -> dict[str, float]:
    """Mean of first - second, paired by run (same seed: same questions, same noise), with Student's
    t interval; NaN where a run lacks a value.

    Raises:
        ValueError: when the two have different lengths.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"paired values of different lengths: {first.shape} and {second.shape}")
    found = first - second
    if np.isnan(found).any():
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": len(found)}
    return mean_interval(found, level)


def joint_level(count: int, level: float = 0.95) -> float:
    """Level of each of `count` intervals so that all hold together at `level` (Bonferroni)."""
    return 1 - (1 - level) / count


def paired_effect(first, second, questions=None) -> dict[str, float]:
    """The mean of first - second over seeds, with its standard error and degrees of freedom.

    Args:
        first, second: for each seed an array over questions, or a number.
        questions: for each seed the ids of its questions, where seeds may share some.

    Returns:
        {"estimate", "stderr", "df", "count"} (count: seeds); NaN for less than two seeds, and where
        a run lacks a value.

    Raises:
        ValueError: when the two sides differ in shape.
    """
    first, second = (
        [np.atleast_1d(np.asarray(x, float)) for x in side] for side in (first, second)
    )
    shapes = [[x.shape for x in side] for side in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"paired values of different shapes: {shapes[0]} and {shapes[1]}")
    means = np.array([float(np.mean(a - b)) for a, b in zip(first, second, strict=True)])
    count, nothing = len(means), float("nan")
    if count < 2 or np.isnan(means).any():
        return {"estimate": nothing, "stderr": nothing, "df": nothing, "count": count}
    stderr = float(means.std(ddof=1) / np.sqrt(count))
    return {"estimate": float(means.mean()), "stderr": stderr, "df": count - 1, "count": count}


def noncentrality(df: float, level: float, power: float = 0.8) -> float:
    """How many standard errors from a bound a true effect must lie, so that an interval of this
    level lies beyond the bound in this share of the runs (the noncentral t distribution)."""
    bound = float(scipy.stats.t.ppf(0.5 + level / 2, df))
    if np.isinf(df) or df > 1e6:
        return bound + float(scipy.stats.norm.ppf(power))

    def missing(shift: float) -> float:
        return float(scipy.stats.nct.sf(bound, df, shift)) - power

    return float(scipy.optimize.brentq(missing, 0.0, 2 * bound + 10))
