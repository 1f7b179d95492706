"""Means and paired differences with 95 % intervals over seeds."""

from __future__ import annotations

import itertools
import math

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


def reach_of(repeated: float) -> float:
    """How much of a true correlation noise leaves to be seen, 0 to 1, where two halves of a
    measurement correlate by `repeated` and their mean is used: the root of its reliability
    2 r / (1 + r) (Spearman and Brown). 0 where the halves do not repeat, or that is not known."""
    return math.sqrt(2 * repeated / (1 + repeated)) if repeated > 0 else 0.0


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
    """The mean of first - second over seeds, and its error: Student's t over the seeds' means, and
    beside it what seeds that share questions have in common, which their spread does not show.

    Write m_s for the mean of seed s. Questions that seeds s and t share give m_s and m_t a
    covariance C_st = var_q * sum_q c_sq c_tq / (n_s n_t), with c_sq how often s asks q and var_q
    the variance of the effect between questions (estimated by its covariance between seeds). The
    mean over S seeds then has the variance E[var(m)] / S + C, C the mean of C_st over pairs: in a
    balanced two-way layout these are the usual variance components. No mixed model and no other
    interval is narrower than t where seeds share nothing and holds its level at every ratio of
    the two variances (benchmarks/intervals.md).

    Args:
        first, second: for each seed an array over questions, or a number.
        questions: for each seed the ids of its questions, where seeds may share some.

    Returns:
        {"estimate", "stderr", "df", "shared", "shared_df", "count"}: `stderr` over the seeds' means
        with `df` = seeds - 1, `shared` the root of C with about `shared_df` degrees of freedom,
        `count` seeds. NaN for less than two seeds, and where a run lacks a value.

    Raises:
        ValueError: when the two sides, or the ids, differ in shape.
    """
    first, second = (
        [np.atleast_1d(np.asarray(x, dtype=float)) for x in side] for side in (first, second)
    )
    shapes = [[x.shape for x in side] for side in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"paired values of different shapes: {shapes[0]} and {shapes[1]}")
    effects = [a - b for a, b in zip(first, second, strict=True)]
    if questions is not None and [len(ids) for ids in questions] != [len(x) for x in effects]:
        raise ValueError("questions must give one id for each value")
    count, nothing = len(effects), float("nan")
    if count < 2 or any(not len(x) or np.isnan(x).any() for x in effects):
        missing = dict.fromkeys(("estimate", "stderr", "df"), nothing)
        return missing | {"shared": 0.0, "shared_df": float("inf"), "count": count}
    means = np.array([x.mean() for x in effects])
    shared, shared_df = (0.0, float("inf"))
    if questions is not None:
        shared, shared_df = _shared_stderr(effects, questions)
    return {
        "estimate": float(means.mean()),
        "stderr": float(means.std(ddof=1) / np.sqrt(count)),
        "df": float(count - 1),
        "shared": shared,
        "shared_df": shared_df,
        "count": count,
    }


def _shared_stderr(effects: list[np.ndarray], questions) -> tuple[float, float]:
    """The root of C of `paired_effect`, and its degrees of freedom: questions that more than one
    seed asks, less one."""
    asked = []
    for values, ids in zip(effects, questions, strict=True):
        names, place, times = np.unique(ids, return_inverse=True, return_counts=True)
        asked.append((names, np.bincount(place, weights=values) / times, times / len(values)))
    products, weight, overlap, common = 0.0, 0, 0.0, set()
    pairs = list(itertools.combinations(asked, 2))
    for (names, means, shares), (other_names, other_means, other_shares) in pairs:
        both, i, j = np.intersect1d(names, other_names, return_indices=True)
        overlap += float(shares[i] @ other_shares[j])
        common |= set(both.tolist())
        if len(both) > 1:
            products += float(np.cov(means[i], other_means[j])[0, 1]) * len(both)
            weight += len(both)
    if not weight:
        return 0.0, float("inf")
    variance = max(0.0, products / weight)
    return float(np.sqrt(variance * overlap / len(pairs))), float(max(1, len(common) - 1))


def half_width(level: float, stderr, df: float, shared: float = 0.0, shared_df: float = np.inf):
    """Half of an interval over seeds that may share questions: each part with its own quantile of
    Student's t, added as squares (as in the intervals of Graybill and Wang, 1980, for sums of
    variance components), so that few seeds widen their own part alone."""
    own = scipy.stats.t.ppf(0.5 + level / 2, df) * stderr
    return np.hypot(own, scipy.stats.t.ppf(0.5 + level / 2, shared_df) * shared)


def power_at(
    distance: float,
    level: float,
    stderr: float,
    df: float,
    shared: float = 0.0,
    shared_df: float = np.inf,
) -> float:
    """Share of runs whose interval lies beyond a bound, when the true effect does by `distance`.

    Where nothing is shared this is the power of the t test, by the noncentral t distribution; the
    chance in the error is that of the seeds' part, as a mean over its chi-squared distribution.
    """
    ratio = np.ones(1)  # of the estimated to the true variance
    if np.isfinite(df):
        ratio = scipy.stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, df) / df
    half = half_width(level, stderr * np.sqrt(ratio), df, shared, shared_df)
    return float(scipy.stats.norm.cdf((distance - half) / np.hypot(stderr, shared)).mean())


def detectable_distance(power: float, level: float, **error: float) -> float:
    """The distance at which `power_at` reaches a power; `error` is what that takes."""
    far = 2 * half_width(level, **error) + 10 * np.hypot(error["stderr"], error.get("shared", 0.0))
    while power_at(far, level, **error) < power:
        far *= 2
    return float(scipy.optimize.brentq(lambda x: power_at(x, level, **error) - power, 0.0, far))
