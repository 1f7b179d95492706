"""Notebook 05: rounds of search, score, select, SFT and DPO, by influence (DITS), on all pairs
(Optima), or on the half of highest Q."""

from __future__ import annotations

import numpy as np

from ...selection import combined_score, drawn_share, top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline
from ..store import Artifact
from .common import (
    influence_values,
    measured,
    q_values,
    scale_of,
    seeds_of,
    sft_stage,
    step_size_of,
    steps_of,
)

DITS, OPTIMA, Q_HALF = "DITS-iSFT-DPO", "Optima-iSFT-DPO", "Q-value half"
METHODS = (DITS, OPTIMA, Q_HALF)
"""What each round keeps: the half of highest influence plus Q-value; all pairs; the half of highest
Q-value."""


def keys(params: Params) -> list[tuple]:
    """One job for each task, method and seed."""
    return [
        (task, method, seed)
        for seed in seeds_of(params, params.iterations.seeds)
        for task in params.tasks
        for method in METHODS
    ]


def iterations_job(params: Params, task: str, method: str, seed: int) -> list[dict]:
    """One row for each round, with the metric of each test question (`by_question`).

    Each round searches with the last round's model (round 1: with the first SFT model), trains SFT
    from the first SFT model on the best dialogues found, and DPO from there on the selected pairs,
    for the same number of epochs whatever their number. With `iterations.search_with: start` the
    pairs come from a second search of the round, by the model that DPO starts from. Influence is
    measured on the same validation questions in every round, so that rounds can be compared.
    """
    pipeline, p = Pipeline(params, task), params.iterations
    first_sft, _ = sft_stage(pipeline, seed)
    size = step_size_of(pipeline)
    run = {"task": task, "method": method, "seed": seed}
    policy, rows = first_sft, [run | {"round": 0, **measured(pipeline, first_sft, seed)}]
    for number in range(1, p.rounds + 1):
        start, searched = _round(pipeline, first_sft, policy, number, seed)
        score = q_values(searched)
        row = run | {"round": number, "pairs": len(score)}
        kept = np.arange(len(score))
        if method == DITS:
            count = params.influence.validation_questions
            influence = influence_values(pipeline, start, searched, size, count, seed)
            score = combined_score(influence, score, p.gamma, **scale_of(params, size))
            row |= _moments(influence) | {"step_size": size}
        if method != OPTIMA:
            ties = np.random.default_rng([seed, number])
            kept = top_share(score, params.selection.alpha, ties)
            row["drawn"] = drawn_share(score, params.selection.alpha)
        steps = steps_of(p.epochs, len(kept), params.dpo.batch)
        policy = pipeline.dpo(start, searched, kept, seed, steps)
        row |= {"kept": len(kept), "steps": steps}
        rows.append(row | measured(pipeline, policy, seed))
    return rows


def _round(
    pipeline: Pipeline, first_sft: ModelRef, policy: ModelRef, number: int, seed: int
) -> tuple[ModelRef, Artifact]:
    """The SFT model of a round, and the search that its pairs come from."""
    sizes, p = pipeline.params.sizes, pipeline.params.iterations
    again = p.search_with == "start"
    skip = sizes.sft_questions + sizes.train_questions
    skip += (number - 1) * p.questions * (2 if again else 1)
    searched = pipeline.search(policy, "train", p.questions, seed, skip=skip)
    start = pipeline.sft(first_sft, [searched], seed)
    if again:
        searched = pipeline.search(start, "train", p.questions, seed, skip=skip + p.questions)
    return start, searched


def _moments(influence: np.ndarray) -> dict:
    """Mean and variance; NaN where there are too few pairs."""
    count, nothing = len(influence), float("nan")
    return {
        "influence_mean": float(influence.mean()) if count else nothing,
        "influence_variance": float(influence.var(ddof=1)) if count > 1 else nothing,
    }
