"""How long a profile takes on several GPUs, at the least: `make plan GPUS=8`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .params import Params
from .studies import ahead, influence_fidelity, selection_ablation

if TYPE_CHECKING:
    import pandas as pd

_TRAINED = ("dpo", "evaluate")
"""Stages of which each arm's can run beside the others'."""


def side_by_side(params: Params) -> dict[tuple[str, str], int]:
    """{(notebook, stage): jobs of it that can run at once}, over all tasks; of a stage that is not
    named, the jobs of its notebook ("")."""
    found: dict[tuple[str, str], int] = {}

    def add(notebook: str, stage: str, jobs: int) -> None:
        found[notebook, stage] = found.get((notebook, stage), 0) + jobs

    for part in params.parts():
        for name in part.notebooks:
            if name not in ahead.STUDIES:  # 00, which runs one thing after another
                add(name, "", len(part.tasks))
                continue
            job, keys = ahead.STUDIES[name]
            count = max(1, len(keys(part)))
            add(name, "", count)
            if name in ("03_selection_ablation", "08_deep_search"):
                for stage in _TRAINED:
                    add(name, stage, count * len(selection_ablation.arms_of(part)))
            if job is influence_fidelity.use_job:
                own = len(keys(part))
                scored = len(influence_fidelity.keys(part)) + own * len(part.fidelity.use)
                halves = len(influence_fidelity.half_keys(part))
                trained = halves + own * len(influence_fidelity.use_arms(part))
                add(name, "score", max(1, scored))
                for stage in _TRAINED:
                    add(name, stage, max(1, trained))
    return found


def least_hours(params: Params, work: pd.DataFrame, gpus: int) -> tuple[float, str]:
    """Hours by the clock that `gpus` GPUs, each with one process, take at the least, and the
    notebook that keeps them; empty where all are busy to the end.

    Two things bound it: all hours divided by the GPUs, and of each notebook its stages one after
    another, each divided by the jobs of it that can run at once. A search, a scoring and a training
    are one job each, whatever their size.

    Args:
        work: rows with `notebook`, `stage` and `hours`, as `make plan` shows them.
    """
    jobs = side_by_side(params)
    longest, keeper = work["hours"].sum() / gpus, ""
    for name, rows in work.groupby("notebook"):
        chain = 0.0
        for row in rows.itertuples():
            at_once = jobs.get((name, row.stage), jobs.get((name, ""), 1))
            chain += row.hours / min(gpus, at_once)
        if chain > longest and (name, "") in jobs:
            longest, keeper = chain, name
    return float(longest), str(keeper)
