"""Verdicts on the paper's claims, computed from intervals: never typed in."""

from __future__ import annotations

import math

from .paper import CLAIM_TEXTS

CLAIMS = CLAIM_TEXTS
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "not decided at this size"


def verdict(intervals: list[dict[str, float]], threshold: float = 0.0) -> str:
    """Verdict on "every effect is greater than the threshold".

    Args:
        intervals: effects, each with `low` and `high`. Where several decide together, give
            intervals of `joint_level`: one of six at 95 % would lie on the wrong side by chance in
            one run of seven.

    Returns:
        supported, when every interval lies above the threshold; contradicted, when one lies below
        it; else not decided.
    """
    if not intervals or any(math.isnan(i["low"]) or math.isnan(i["high"]) for i in intervals):
        return OPEN
    if any(i["high"] < threshold for i in intervals):
        return CONTRADICTED
    return SUPPORTED if all(i["low"] > threshold for i in intervals) else OPEN


def describe(name: str, interval: dict[str, float], digits: int = 3) -> str:
    """`name: mean [low, high]`, with a sign; `no value` where there is none."""
    value = interval["mean"] if "mean" in interval else interval["rho"]
    if math.isnan(value):
        return f"{name}: no value"
    mean, low, high = (f"{x:+.{digits}f}" for x in (value, interval["low"], interval["high"]))
    return f"{name}: {mean} [{low}, {high}]"
