"""Notebook 04: for a fixed set of questions, tokens spent on more dialogues from each selected node
(Optima) or on influence (DITS), against the metric after DPO."""

from __future__ import annotations

import numpy as np

from ...selection import drawn_share, top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline
from ..store import Artifact
from .common import (
    epochs_of,
    influence_values,
    measured,
    q_values,
    sft_stage,
    step_size_of,
    steps_of,
    task_and_seed_keys,
)
from .selection_ablation import EPOCHS, STEPS

ALL, Q_HALF, INFLUENCE = "search, all pairs", "search, half by Q", "influence"
"""What the tokens go to and what is kept: more search and all its pairs (Optima), more search and
the half of highest Q, or influence, by the parameters' estimator, and the half of highest
influence."""


def keys(params: Params) -> list[tuple]:
    """One job for each task and seed."""
    return task_and_seed_keys(params, params.budget.seeds)


def budget_job(params: Params, task: str, seed: int) -> list[dict]:
    """Rows of every budget, each trained for equal steps and for equal epochs (the half of highest
    Q for equal steps alone)."""
    pipeline, budget, alpha = Pipeline(params, task), params.budget, params.selection.alpha
    model, _ = sft_stage(pipeline, seed)
    fewest = budget.rollouts[0]
    searches = {d: _searched(pipeline, model, d, seed) for d in budget.rollouts}
    reference = len(q_values(searches[fewest]))

    def rows(
        label: str, d: int, v: int, kept: np.ndarray, tokens: int, drawn: float = 0.0
    ) -> list[dict]:
        spent = {"spent_on": label, "rollouts": d, "V": v, "generated_tokens": tokens}
        spent["drawn"] = drawn  # share of the kept pairs that a draw among ties decided
        return [
            _row(pipeline, spent, model, searches[d], kept, seed, equal, reference)
            for equal in ((STEPS,) if label == Q_HALF else (STEPS, EPOCHS))
        ]

    found = []
    for d, searched in searches.items():
        q_value, tokens = q_values(searched), _tokens(searched)
        half = top_share(q_value, alpha, np.random.default_rng([seed, d]))
        found += rows(ALL, d, 0, np.arange(len(q_value)), tokens)
        found += rows(Q_HALF, d, 0, half, tokens, drawn_share(q_value, alpha))
    searched, size = searches[fewest], step_size_of(pipeline)
    scorings = [(INFLUENCE, None, v, [seed, v]) for v in budget.validation]
    scorings += [
        (name, name, v, [seed, v, number])
        for number, (name, v) in enumerate(budget.estimators.items())
    ]
    for label, estimator, v, ties in scorings:
        # With fewer questions than scores are made for, one seed's may all be equal: the half is a
        # draw then.
        few = label == INFLUENCE and v < pipeline.params.influence.validation_questions
        how = {"estimator": estimator, "may_tie": few}
        value = influence_values(pipeline, model, searched, size, v, seed, **how)
        tokens = _tokens(searched)
        if len(value):
            scored = pipeline.score(model, searched, size, v, seed, **how)
            tokens += _tokens(scored)
        kept = top_share(value, alpha, np.random.default_rng(ties)) if len(value) else value
        found += rows(label, fewest, v, kept, tokens, drawn_share(value, alpha))
    return found


def _searched(pipeline: Pipeline, model: ModelRef, rollouts: int, seed: int) -> Artifact:
    """A search of the fixed questions with so many dialogues from each selected node."""
    p = pipeline.params
    changed = p.model_copy(update={"search": p.search.changed(rollouts=rollouts)})
    wide = Pipeline(changed, pipeline.task, pipeline.store)
    return wide.search(model, "train", p.budget.questions, seed, skip=p.sizes.sft_questions)


def _tokens(artifact: Artifact) -> int:
    return artifact.manifest["cost"]["generated_tokens"]


def _row(
    pipeline: Pipeline,
    spent: dict,
    model: ModelRef,
    searched: Artifact,
    kept: np.ndarray,
    seed: int,
    equal: str,
    reference: int,
) -> dict:
    """One trained model; equal epochs are those of all pairs of the smallest search, `reference`
    in number."""
    settings = pipeline.params.dpo
    steps = settings.steps if len(kept) else 0
    if equal == EPOCHS:
        whole = epochs_of(settings.steps, reference, settings.batch)
        steps = steps_of(whole, len(kept), settings.batch)
    trained = pipeline.dpo(model, searched, kept, seed, steps)
    return {
        "task": pipeline.task,
        "seed": seed,
        **spent,
        "equal": equal,
        "pairs": len(kept),
        "steps": steps,
        "epochs": epochs_of(steps, len(kept), settings.batch),
        **measured(pipeline, trained, seed),
    }


def at_budget(own: list[dict], tokens: float) -> np.ndarray:
    """The metric of each test question that search reaches for so many tokens: interpolated between
    the two nearest budgets, NaN beyond the largest.

    Args:
        own: rows of one task, seed, kept set and training, of `budget_job`.
    """
    ordered = sorted(own, key=lambda row: row["generated_tokens"])
    spent = np.array([row["generated_tokens"] for row in ordered])
    metric = np.array([row["by_question"] for row in ordered])
    if not spent[0] <= tokens <= spent[-1]:
        return np.full(metric.shape[1], np.nan)
    above = min(max(1, int(np.searchsorted(spent, tokens))), len(spent) - 1)
    gap = spent[above] - spent[above - 1]
    weight = (tokens - spent[above - 1]) / gap if gap else 0.0
    return (1 - weight) * metric[above - 1] + weight * metric[above]
