"""Names and numbers as pages and figures show them. Code, parameters and csv files keep the short
names and full precision."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .names import plain

HEADERS = {
    "rho": "rank correlation",
    "mean_change": "mean change of the metric",
    "changed": "share changed",
    "floor": "share changed without a step",
    "peak_memory_mb": "peak memory (MB)",
    "seconds": "seconds",
}
"""Columns whose short name says too little."""
NAMED = ("arm", "minus", "comparison", "estimator", "setting", "selected by")
"""Columns whose cells hold names of arms or estimators."""


def header(column: str) -> str:
    """The name of a column as it is shown."""
    return HEADERS.get(column, column.replace("_", " "))


def number(value: float, digits: int = 3) -> str:
    """A number as people write it: so many digits after the point at most, and no more than three
    digits that count above one; whole numbers in groups of three from 10,000 on; from ten million
    on as 2.0e7. Nothing for NaN."""
    if pd.isna(value):
        return ""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if abs(value) >= 1e7:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(power)}"
    if float(value).is_integer():
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.0f}"
    whole = len(str(int(abs(value)))) if abs(value) > 1 else 0
    return f"{value:,.{min(digits, max(0, 3 - whole)) if whole else digits}f}"


def column_of_numbers(values: pd.Series, digits: int) -> list[str]:
    """A column as it is shown. Whole numbers have no point, round ones (0.3, 1, 10) no zeros at
    their end; other numbers between -1 and 1 all have the same digits, and two that count where
    all are tiny."""
    known = values[np.isfinite(values)]
    if (known == known.round()).all():
        return [number(value) for value in values]
    if all(float(f"{value:.1g}") == value for value in known):
        return ["" if pd.isna(value) else f"{value:g}" for value in values]
    largest = known.abs().max()
    if largest < 0.1:
        digits = max(digits, 1 - math.floor(math.log10(largest)))
    return [
        f"{value:.{digits}f}" if 0 < abs(value) <= 1 else number(value, digits) for value in values
    ]


def shown(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """A table as a reader sees it: plain names, and numbers as people write them."""
    made = table.copy()
    for column in made.select_dtypes("number"):
        if column != "seed":
            made[column] = column_of_numbers(made[column].astype(float), digits)
    for column in made.columns.intersection(NAMED):
        made[column] = made[column].map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
    return made.rename(columns=header)
