"""Notebook 04: tokens spent on more search (Optima) or on influence (DITS), against the metric
after DPO on half of the pairs."""

from __future__ import annotations

import numpy as np

from ...selection import top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline
from ..store import Artifact
from .common import influence_values, q_values, sft_stage, step_size_of, task_and_seed_keys


def keys(params: Params) -> list[tuple]:
    """One job for each task and seed."""
    return task_and_seed_keys(params, params.budget.seeds)


def budget_job(params: Params, task: str, seed: int) -> list[dict]:
    """One row for each budget."""
    pipeline, budget, alpha = Pipeline(params, task), params.budget, params.selection.alpha
    model, _ = sft_stage(pipeline, seed)
    rows, skip = [], params.sizes.sft_questions
    for count in budget.q_questions:
        searched = pipeline.search(model, "train", count, seed, skip=skip)
        kept = top_share(q_values(searched), alpha, np.random.default_rng([seed, count]))
        spent = {"spent_on": "Q-values", "questions": count, "V": 0}
        tokens = _tokens(searched)
        rows.append(_row(pipeline, spent, model, searched, kept, seed, tokens))
    count = budget.dits_questions
    searched = pipeline.search(model, "train", count, seed, skip=skip)
    size, _ = step_size_of(pipeline)
    scorings = [("influence", None, v, [seed, v]) for v in budget.validation]
    scorings += [
        (name, name, v, [seed, v, number])
        for number, (name, v) in enumerate(budget.estimators.items())
    ]
    for label, estimator, v, ties in scorings:
        value = influence_values(pipeline, model, searched, size, v, seed, estimator=estimator)
        kept = top_share(value, alpha, np.random.default_rng(ties))
        tokens = _tokens(searched)
        if len(value):
            scored = pipeline.score(model, searched, size, v, seed, estimator=estimator)
            tokens += _tokens(scored)
        spent = {"spent_on": label, "questions": count, "V": v}
        rows.append(_row(pipeline, spent, model, searched, kept, seed, tokens))
    return rows


def _tokens(artifact: Artifact) -> int:
    return artifact.manifest["cost"]["generated_tokens"]


def _row(
    pipeline: Pipeline,
    spent: dict,
    model: ModelRef,
    searched: Artifact,
    kept: np.ndarray,
    seed: int,
    tokens: int,
) -> dict:
    trained = pipeline.dpo(model, searched, kept, seed)
    return {
        "task": pipeline.task,
        "seed": seed,
        **spent,
        "pairs": len(kept),
        "generated_tokens": tokens,
        "metric": float(pipeline.evaluate(trained, seed).mean()),
        "artifact": pipeline.evaluation(trained, seed).name,
    }
