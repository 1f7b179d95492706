"""Notebook 05: rounds of search, score, select, SFT and DPO, by influence (DITS) or by Q
(Optima)."""

from __future__ import annotations

import numpy as np

from ...influence import ESTIMATORS
from ...selection import combined_score, top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline
from .common import influence_values, q_values, seeds_of, sft_stage, step_size_of

METHODS = ("DITS-iSFT-DPO", "Optima-iSFT-DPO")


def keys(params: Params) -> list[tuple]:
    """One job for each task, method and seed."""
    return [
        (task, method, seed)
        for seed in seeds_of(params, params.iterations.seeds)
        for task in params.tasks
        for method in METHODS
    ]


def iterations_job(params: Params, task: str, method: str, seed: int) -> list[dict]:
    """One row for each round.

    Each round searches with the last round's model (round 1: with the first SFT model), trains SFT
    from the first SFT model on the best dialogues found, and DPO from there on the selected pairs.
    DITS selects by influence plus Q-value; Optima keeps the half of highest Q and needs no scores.
    """
    pipeline, sizes, iterations = Pipeline(params, task), params.sizes, params.iterations
    first_sft, _ = sft_stage(pipeline, seed)
    size, _ = step_size_of(pipeline)
    run = {"task": task, "method": method, "seed": seed}
    policy, rows = first_sft, [run | {"round": 0, **_measured(pipeline, first_sft, seed)}]
    for number in range(1, iterations.rounds + 1):
        skip = sizes.sft_questions + sizes.train_questions + (number - 1) * iterations.questions
        searched = pipeline.search(policy, "train", iterations.questions, seed, skip=skip)
        start = pipeline.sft(first_sft, [searched], seed)
        score = q_values(searched)
        row = run | {"round": number, "pairs": len(score)}
        if method == METHODS[0]:
            v = params.influence.validation_questions
            influence = influence_values(pipeline, start, searched, size, v, seed, skip=number * v)
            divisor = ESTIMATORS[params.influence.estimator].divisor(size)
            scale = params.selection.scale
            score = combined_score(influence, score, iterations.gamma, scale, divisor)
            row |= _moments(influence) | {"step_size": size}
        ties = np.random.default_rng([seed, number])
        policy = pipeline.dpo(start, searched, top_share(score, params.selection.alpha, ties), seed)
        rows.append(row | _measured(pipeline, policy, seed))
    return rows


def _moments(influence: np.ndarray) -> dict:
    """Mean and variance; NaN where there are too few pairs."""
    count, nothing = len(influence), float("nan")
    return {
        "influence_mean": float(influence.mean()) if count else nothing,
        "influence_variance": float(influence.var(ddof=1)) if count > 1 else nothing,
    }


def _measured(pipeline: Pipeline, model: ModelRef, seed: int) -> dict:
    metric = float(pipeline.evaluate(model, seed).mean())
    return {"metric": metric, "artifact": pipeline.evaluation(model, seed).name}
