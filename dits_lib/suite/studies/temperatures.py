"""Notebook 03: some models tested at every temperature of `testing.temperatures`."""

from __future__ import annotations

from ..params import Params
from ..pipeline import Pipeline
from .selection_ablation import STEPS, trained_runs

SHOWN = ("base", "sft", "full", "random", "gamma_0")
"""The arms that are tested so; of several random halves or orders of the pairs, the first."""


def temperature_job(params: Params, task: str, seed: int) -> list[dict]:
    """One row for each arm and temperature: `task`, `seed`, `arm`, `temperature`, `metric` (mean
    over the test questions), `answered` (share of the dialogues) and `artifact`."""
    pipeline = Pipeline(params, task)
    first = {
        run.arm: run.model
        for run in trained_runs(pipeline, seed, SHOWN)
        if (run.equal, run.half, run.order) == (STEPS, 0, 0)
    }
    return [
        {
            "task": task,
            "seed": seed,
            "arm": arm,
            "temperature": temperature,
            "metric": float(pipeline.evaluate(model, seed, temperature).mean()),
            "answered": pipeline.endings(model, seed, temperature)["answered"],
            "artifact": pipeline.evaluation(model, seed, temperature).name,
        }
        for arm, model in first.items()
        for temperature in params.testing.temperatures
    ]
