"""Notebook 03: DPO on what each arm keeps of one search's pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...engines import derive_seed
from ...influence import ESTIMATORS
from ...selection import ARMS, select_arm, top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline, read_pairs, read_scores
from ..store import Artifact, read_rows
from .common import (
    influence_values,
    model_row,
    pair_stage,
    q_values,
    sft_stage,
    step_size_of,
    task_and_seed_keys,
)

SMALL = "gamma_0_small"
"""The arm of highest influence that keeps `selection.small_alpha` of the pairs."""


def keys(params: Params) -> list[tuple]:
    """One job for each task and seed."""
    return task_and_seed_keys(params, params.ablation.seeds)


def arms_of(params: Params) -> tuple[str, ...]:
    """What is compared: models before DPO, then one for each selection."""
    warm = () if params.sft.warm_start == "none" else ("warm_start",)
    return ("base", *warm, "sft", *ARMS, SMALL)


def classic_values(
    pipeline: Pipeline, model: ModelRef, searched: Artifact, step_size: float, seed: int
) -> np.ndarray:
    """`Pipeline.score_by_loss` against the pairs of validation questions [n_pairs]; zeros, so a
    random order, where those gave none."""
    count = pipeline.params.sizes.loss_questions
    validation = pipeline.search(model, "validation", count, seed)
    if not read_pairs(searched) or not read_pairs(validation):
        return np.zeros(len(read_pairs(searched)))
    scored = pipeline.score_by_loss(model, searched, validation, step_size, seed)
    return read_scores(scored, searched).value


def selection_stage(
    pipeline: Pipeline, seed: int
) -> tuple[ModelRef, Artifact, dict[str, np.ndarray]]:
    """The SFT model, the search that gave the pairs, and which of them each arm keeps."""
    p = pipeline.params
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    size, _ = step_size_of(pipeline)
    count = p.influence.validation_questions
    influence = influence_values(pipeline, model, searched, size, count, seed)
    classic = classic_values(pipeline, model, searched, size, seed)
    q_value, kept = q_values(searched), {}
    scale = {"scale": p.selection.scale}
    scale["step_size"] = ESTIMATORS[p.influence.estimator].divisor(size)
    for arm in ARMS:
        rng = np.random.default_rng([seed, len(arm), abs(derive_seed(arm)) % 2**32])
        kept[arm] = select_arm(arm, p.selection.alpha, rng, q_value, influence, classic, **scale)
    rng = np.random.default_rng([seed, 7])
    kept[SMALL] = top_share(influence, p.selection.small_alpha, rng)
    return model, searched, kept


def trained_arms(pipeline: Pipeline, seed: int, arms: tuple[str, ...]) -> dict[str, ModelRef]:
    """The models of some of `arms_of`; pairs are searched and scored only if one of the arms
    selects among them."""
    before = {
        "base": pipeline.base_model,
        "warm_start": lambda: pipeline.start_model(seed),
        "sft": lambda: sft_stage(pipeline, seed)[0],
    }
    if set(arms) <= set(before):
        return {arm: before[arm]() for arm in arms}
    model, searched, kept = selection_stage(pipeline, seed)
    return {
        arm: before[arm]() if arm in before else pipeline.dpo(model, searched, kept[arm], seed)
        for arm in arms
    }


def arm_job(params: Params, task: str, seed: int, arm: str) -> None:
    """One arm of `ablation_job`, for what is computed ahead."""
    pipeline = Pipeline(params, task)
    pipeline.evaluate(trained_arms(pipeline, seed, (arm,))[arm], seed)


def ablation_job(params: Params, task: str, seed: int) -> dict:
    """Every arm for one seed: its metric, the artifact behind it, its drift, how its dialogues
    ended; and the number of pairs."""
    pipeline = Pipeline(params, task)
    models = trained_arms(pipeline, seed, arms_of(params))
    searched = pair_stage(pipeline, models["sft"], seed)
    return {
        "task": task,
        "seed": seed,
        "pairs": len(q_values(searched)),
        "model": model_row(models["sft"], searched),
        "drift": {arm: _drift(models[arm]) for arm in (*ARMS, SMALL)},
        "metric": {arm: float(pipeline.evaluate(m, seed).mean()) for arm, m in models.items()},
        "artifact": {arm: pipeline.evaluation(m, seed).name for arm, m in models.items()},
        "endings": {arm: pipeline.endings(m, seed) for arm, m in models.items()},
    }


def _drift(trained: ModelRef) -> dict:
    """Of a model after DPO; zero where no pair was there to train on."""
    file = Path(trained.path).parent / "drift.json"
    last = read_rows(file)[0][-1] if file.exists() else {}
    return {name: last.get(name, 0.0) for name in ("drift_chosen", "drift_rejected")}


def source_rows(jobs: list[dict]) -> list[dict]:
    """One row for each run: its metric, and the folder below `runs/<profile>` that it comes from.
    The manifest there names the model and the questions."""
    return [
        {
            "task": job["task"],
            "seed": job["seed"],
            "arm": arm,
            "metric": metric,
            "artifact": job["artifact"][arm],
        }
        for job in jobs
        for arm, metric in job["metric"].items()
    ]
