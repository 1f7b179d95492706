"""Tables of means over seeds."""

from __future__ import annotations

import pandas as pd

from .stats import mean_interval


def seed_means(
    runs: pd.DataFrame, by: list[str], value: str = "metric", means: tuple[str, ...] = ()
) -> pd.DataFrame:
    """One row for each group of runs, in the order in which the groups first occur.

    Args:
        runs: a row for each run, with the columns `by`, `value` and `means`.
        by: what tells the groups apart.
        value: whose `mean`, `low` and `high` (95 %, Student's t) and number `n` are given.
        means: columns whose rounded means stand beside.
    """
    rows = []
    for key, part in runs.groupby(by, sort=False):
        row = dict(zip(by, key, strict=True)) | mean_interval(part[value])
        rows.append(row | {name: round(part[name].mean()) for name in means})
    return pd.DataFrame(rows)
