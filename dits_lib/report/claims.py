"""Verdicts on the paper's claims, computed from estimates and their errors: never typed in.

A claim rests on comparisons, each of one task. A comparison keeps its estimate, standard error and
degrees of freedom, so that its interval can be made anew at another level: wherever several
comparisons decide together, their intervals hold together (Bonferroni)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from .names import plain
from .paper import CLAIM_TEXTS
from .stats import detectable_distance, half_width, joint_level, paired_effect, power_at

CLAIMS = CLAIM_TEXTS
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "not decided at this size"
NO_VALUE = "no value"
MOST = 100_000
"""Seeds or groups at which `Comparison.count_needed` gives up."""


@dataclass(frozen=True)
class Comparison:
    """One effect that a claim rests on: claimed is that it lies between `lower` and `upper`.

    NaN in `estimate`, `stderr` or `df` says that there is no value, and then there is no verdict.

    Raises:
        ValueError: for a scale that is not known, a negative error, or bounds in the wrong order.
    """

    task: str
    name: str
    """What is compared, such as `gamma_0 minus random`."""
    estimate: float
    stderr: float
    """Standard error, on `scale`."""
    df: float
    """Its degrees of freedom, of Student's t; inf: normal."""
    scale: str = "linear"
    """`linear`, or `correlation`: the error is that of Fisher's z, where the interval is made."""
    lower: float = 0.0
    """Claimed: greater than this (-inf: no bound)."""
    upper: float = math.inf
    """And smaller than this."""
    shared: float = 0.0
    """Standard error beside it, of the questions that seeds share; more seeds do not shrink it."""
    shared_df: float = math.inf
    """Its degrees of freedom."""
    count: int = 0
    """Independent units behind the error: seeds, or questions of a rank correlation; 0: unknown."""
    reach: float = 1.0
    """Share of a true correlation, 0 to 1, that noise leaves to be seen, at least. A small one
    supports the claim only within the bounds times this; a large one contradicts it whatever the
    noise, which only shrinks."""

    def __post_init__(self) -> None:
        if self.scale not in ("linear", "correlation"):
            raise ValueError(f"scale {self.scale!r}; allowed: linear, correlation")
        if self.stderr < 0 or self.shared < 0 or self.df <= 0 or self.shared_df <= 0:
            raise ValueError("errors and degrees of freedom must be positive")
        if not self.lower < self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        if math.isinf(self.lower) and math.isinf(self.upper):
            raise ValueError("lower or upper must be finite, or nothing is claimed")
        if not 0 <= self.reach <= 1:
            raise ValueError(f"reach {self.reach} must lie between 0 and 1")

    @property
    def has_value(self) -> bool:
        """Whether there is an estimate with an error (of Fisher's z there is none at 1 and -1)."""
        return math.isfinite(self.to_scale(self.estimate)) and not (
            math.isnan(self.stderr) or math.isnan(self.df)
        )

    def interval(self, level: float) -> dict[str, float]:
        """{"low", "high"} at a level such as 0.95; NaN without a value."""
        if not self.has_value:
            return {"low": math.nan, "high": math.nan}
        half = float(half_width(level, **self._error()))
        middle = self.to_scale(self.estimate)
        return {"low": self.from_scale(middle - half), "high": self.from_scale(middle + half)}

    def detectable(self, power: float = 0.8, level: float = 0.95) -> float:
        """The smallest distance from the bound at which a true effect is seen, by an interval of
        this level in this share of the runs: on the claim's side, and where the claim is one
        between two bounds, beyond the upper. NaN without a value, and where no effect within the
        scale would be."""
        if not self.has_value or self.stderr == 0:
            return math.nan
        far = detectable_distance(power, level, **self._error())
        if math.isinf(self.lower):
            seen = self.from_scale(self.to_scale(self._seen(self.upper)) - far)
            if self.scale == "correlation" and not -self.reach < seen:
                return math.nan  # not even a correlation of -1 would show
            return self.upper - seen / self.reach
        if math.isfinite(self.upper):
            return self.from_scale(self.to_scale(self.upper) + far) - self.upper
        return self.from_scale(self.to_scale(self.lower) + far) - self.lower

    def count_needed(self, power: float = 0.8, level: float = 0.95) -> float:
        """How many seeds (or questions of a correlation) would decide, whichever way, in this share
        of the runs, were the true effect as estimated: the error shrinks with the root of their
        number. It is as uncertain as the estimate. NaN where it is not known, inf where even `MOST`
        would not do, or where noise (`reach`) bars the verdict."""
        if not self.has_value or self.stderr == 0 or self.count < 2:
            return math.nan
        bounds = [bound for bound in (self.lower, self.upper) if math.isfinite(bound)]
        if self.lower < self.estimate < self.upper:
            bounds = [self._seen(bound) for bound in bounds]
            if not self._is_within(self.estimate, self.estimate):
                return math.inf
        bounds = [self.to_scale(bound) for bound in bounds]
        distance = min(abs(self.to_scale(self.estimate) - bound) for bound in bounds)

        def enough(count: int) -> bool:
            stderr = self.stderr * math.sqrt(self.count / count)
            df = self.df * (count - 1) / (self.count - 1)
            error = self._error() | {"stderr": stderr, "df": df}
            return power_at(distance, level, **error) >= power

        if not enough(MOST):
            return math.inf
        low, high = 1, MOST
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def verdict(self, level: float) -> str:
        """Supported, when the interval lies within the bounds; contradicted, when it lies wholly
        beyond one; else not decided. Runs without any spread tell nothing of their error, and
        decide nothing."""
        if not self.has_value:
            return NO_VALUE
        found = self.interval(level)
        if self.stderr == 0:
            return OPEN
        if found["high"] < self.lower or found["low"] > self.upper:
            return CONTRADICTED
        return SUPPORTED if self._is_within(**found) else OPEN

    def barred(self, level: float) -> str:
        """What noise has to do with a verdict that is open; empty where it has nothing to."""
        if self.reach == 1 or self.verdict(level) != OPEN:
            return ""
        return f"noise leaves {self.reach:.2f} of a true correlation"

    def text(self, level: float, digits: int = 3) -> str:
        """`estimate [low, high]`, with signs; `no value` where there is none."""
        if not self.has_value:
            return NO_VALUE
        found = self.interval(level)
        mean, low, high = (f"{x:+.{digits}f}" for x in (self.estimate, found["low"], found["high"]))
        return f"{mean} [{low}, {high}]"

    def claimed(self) -> str:
        """What is claimed of the effect, in signs."""
        if math.isinf(self.upper):
            return f"> {self.lower:g}"
        return (
            f"< {self.upper:g}" if math.isinf(self.lower) else f"{self.lower:g} to {self.upper:g}"
        )

    def _is_within(self, low: float, high: float) -> bool:
        """Whether an interval lies within what is claimed, as far as noise lets it be seen."""
        return self._seen(self.lower) < low and high < self._seen(self.upper)

    def _seen(self, bound: float) -> float:
        """What noise leaves of a correlation at a bound."""
        return bound * self.reach if math.isfinite(bound) else bound

    def _error(self) -> dict[str, float]:
        names = ("stderr", "df", "shared", "shared_df")
        return {name: getattr(self, name) for name in names}

    def to_scale(self, value: float) -> float:
        """A value of the effect, on the scale of its error: Fisher's z of a correlation."""
        if self.scale == "linear":
            return value
        return math.atanh(value) if abs(value) < 1 else math.copysign(math.inf, value)

    def from_scale(self, value: float) -> float:
        """The inverse of `to_scale`."""
        return value if self.scale == "linear" else math.tanh(value)


def paired(
    task: str,
    name: str,
    first: Sequence,
    second: Sequence,
    questions: Sequence[Sequence] | None = None,
    **bounds,
) -> Comparison:
    """The mean of first - second, paired by seed and question.

    Args:
        first, second: for each seed an array over questions, the same questions in the same order
            under both; or for each seed a number. NaN (a run without a value) gives no value.
        questions: for each seed the ids of its questions, where seeds may share some; None: no
            two seeds do.
        bounds: `lower`, `upper`, `reach` of `Comparison`.

    Raises:
        ValueError: when the two sides differ in shape.
    """
    found = paired_effect(first, second, questions)
    return Comparison(task, name, **found, **bounds)


def correlation(
    task: str,
    name: str,
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence | None = None,
    seed: int = 0,
    resamples: int = 500,
    **bounds,
) -> Comparison:
    """Spearman's rank correlation of a and b, with the standard error of its Fisher's z.

    The error is Bonett and Wright's (2000), sqrt((1 + rho^2 / 2) / (n - 3)); with groups it is at
    least the standard deviation of z over bootstrap samples of whole groups.

    Args:
        a, b: [n]; NaN anywhere, less than four values or a side that does not vary give no value.
        groups: [n] labels of what belongs together (the pairs of one question); None: each alone.
        bounds: `lower`, `upper`, `reach` of `Comparison`.

    Raises:
        ValueError: when the lengths differ.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    groups = np.arange(len(a)) if groups is None else np.asarray(groups)
    if not len(a) == len(b) == len(groups):
        raise ValueError(f"a, b and groups have {len(a)}, {len(b)} and {len(groups)} values")
    count = len(np.unique(groups))
    nothing = Comparison(
        task, name, math.nan, math.nan, math.nan, "correlation", **bounds, count=count
    )
    if count < 4 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return nothing
    rho = float(scipy.stats.spearmanr(a, b).statistic)
    stderr = math.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    if count < len(a):
        stderr = max(stderr, _bootstrap_stderr(a, b, groups, seed, resamples))
    return Comparison(task, name, rho, stderr, count - 1, "correlation", **bounds, count=count)


def mean_correlation(task: str, name: str, rhos: Sequence[float], **bounds) -> Comparison:
    """The mean of the rank correlations of several seeds, on Fisher's scale, with the error of
    Student's t over seeds.

    Args:
        rhos: [seeds]; a seed with NaN has no value and is left out, 1 and -1 count as 0.999.
        bounds: `lower`, `upper`, `reach` of `Comparison`.
    """
    known = np.asarray(rhos, dtype=float)
    z = np.arctanh(np.clip(known[~np.isnan(known)], -0.999, 0.999))
    if len(z) < 2:
        return Comparison(
            task, name, math.nan, math.nan, math.nan, "correlation", **bounds, count=len(z)
        )
    stderr = float(z.std(ddof=1) / math.sqrt(len(z)))
    mean = math.tanh(float(z.mean()))
    return Comparison(task, name, mean, stderr, len(z) - 1, "correlation", **bounds, count=len(z))


def _bootstrap_stderr(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, seed: int, resamples: int
) -> float:
    """Standard deviation of Fisher's z over bootstrap samples of whole groups."""
    from ..influence import resampled_rows

    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = resampled_rows(groups, rng)
        if np.ptp(a[rows]) > 0 and np.ptp(b[rows]) > 0:
            rho = scipy.stats.spearmanr(a[rows], b[rows]).statistic
            found.append(math.atanh(np.clip(rho, -0.999, 0.999)))
    return float(np.std(found, ddof=1)) if len(found) > 1 else math.inf


def together(verdicts: Iterable[str]) -> str:
    """One verdict of several that must all hold: contradicted if one is, supported if all are."""
    found = set(verdicts)
    if not found or found == {NO_VALUE}:
        return NO_VALUE
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else OPEN


def by_task(comparisons: Sequence[Comparison], level: float) -> dict[str, str]:
    """{task: verdict}, in the order in which the tasks first occur."""
    tasks = dict.fromkeys(c.task for c in comparisons)
    return {
        task: together(c.verdict(level) for c in comparisons if c.task == task) for task in tasks
    }


def claim_text(number: str, comparisons: Sequence[Comparison], note: str = "") -> str:
    """What a notebook prints: the verdict over all, of each task, and the evidence. The intervals
    hold together at 95 % over these comparisons."""
    level = joint_level(max(1, len(comparisons)))
    tasks = by_task(comparisons, level)
    lines = [f"Claim {number}: {CLAIMS[number]}", f"  over all: {together(tasks.values())}"]
    lines += [f"  {task}: {found}" for task, found in tasks.items()]
    if comparisons:
        lines.append(f"  intervals of {level:.2%}, which hold together at 95 %:")
    lines += [
        f"    {c.task}, {plain(c.name)} (claimed: {c.claimed()}): {_found(c, level)}"
        for c in comparisons
    ]
    return "\n".join(lines + ([f"  {note}"] if note else []))


def _found(comparison: Comparison, level: float) -> str:
    """Interval, verdict, and what could have been seen."""
    if not comparison.has_value:
        return NO_VALUE
    parts = [f"{comparison.text(level)}, {comparison.verdict(level)}"]
    seen = comparison.detectable(level=level)
    if not math.isnan(seen):
        parts.append(f"detectable at 80 % power: {seen:.3f}")
    barred = comparison.barred(level)
    return "; ".join(parts + ([barred] if barred else []))
