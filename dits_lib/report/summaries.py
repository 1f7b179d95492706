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


def seed_differences(runs: pd.DataFrame, reference: str, equal: str | None = None) -> pd.DataFrame:
    """What each seed has of every arm minus a reference arm, as dots of a figure show it: columns
    task, arm, equal, seed, difference.

    Args:
        runs: columns task, arm, equal, seed, metric; several runs of a seed are one mean.
        equal: the arms that are trained in this way alone; None: all. The reference is that trained
            in the same way, or in the only one that it has.
    """
    keys = ["task", "arm", "equal", "seed"]
    means = runs.groupby(keys, sort=False)["metric"].mean().reset_index()
    base = means[means["arm"] == reference].set_index(["task", "seed", "equal"])["metric"]
    only = base.groupby(level=["task", "seed"]).first()
    rows = []
    for row in means.itertuples():
        if row.arm == reference or equal not in (None, row.equal):
            continue
        there = base.get((row.task, row.seed, row.equal), only.get((row.task, row.seed)))
        rows.append(
            {
                "task": row.task,
                "arm": row.arm,
                "equal": row.equal,
                "seed": row.seed,
                "difference": row.metric - there,
            }
        )
    return pd.DataFrame(rows)
