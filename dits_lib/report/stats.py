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
