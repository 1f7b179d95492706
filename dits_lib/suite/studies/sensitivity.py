"""Notebook 07: the metric after DPO on the half of highest score, one setting changed at a time,
beside that on a random half."""

from __future__ import annotations

import numpy as np

from ...pairs import upper_half_of
from ...selection import combined_score, top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline, read_pairs, read_scores
from .common import measured, pair_stage, scale_of, sft_stage, step_size_of, task_and_seed_keys


def keys(params: Params) -> list[tuple]:
    """One job for each task and seed."""
    return task_and_seed_keys(params, params.sensitivity.seeds)


def sensitivity_job(params: Params, task: str, seed: int) -> list[dict]:
    """One row for each setting and value.

    The pairs of all filters come from one search: that of the loosest filter, of which a stricter
    one keeps a part, before the upper half of each tree is taken. What guides the search is changed
    in searches of their own. Where a seed after the first finds no pairs, its model stays the SFT
    model.
    """
    s, p = params.sensitivity, params
    pipeline = Pipeline(params, task)
    loose = p.pairs.changed(
        min_value=min(s.min_value + [p.pairs.min_value]),
        min_gap=min(s.min_gap + [p.pairs.min_gap]),
        upper_half=False,
    )
    model, _ = sft_stage(pipeline, seed)
    size = step_size_of(pipeline)
    wide = Pipeline(params.model_copy(update={"pairs": loose}), task)
    searched = pair_stage(wide, model, seed)
    pairs, usual = read_pairs(searched), p.influence.validation_questions
    most = max(s.validation + [usual])
    q_value = np.array([pair.q_chosen for pair in pairs])
    gap = np.array([pair.q_chosen - pair.q_rejected for pair in pairs])

    def scored(step: float, count: int) -> np.ndarray:
        if not pairs:
            return np.zeros((0, count))
        found = wide.score(model, searched, step, count, seed, estimator="one_step")
        return read_scores(found, searched).per_question

    table, scale = scored(size, most), scale_of(p, size, "one_step")

    def influence(v: int) -> np.ndarray:
        return table[:, :v].mean(1).round(9)

    def passing(
        min_value: float = p.pairs.min_value, min_gap: float = p.pairs.min_gap
    ) -> np.ndarray:
        own = np.flatnonzero((q_value > min_value) & (gap > min_gap))
        if not p.pairs.upper_half:
            return own
        return own[np.array(upper_half_of([pairs[i] for i in own]), dtype=int)]

    base = passing()
    known: dict[tuple, dict] = {}

    def measure(kept: np.ndarray) -> dict:
        if tuple(kept) not in known:
            trained = wide.dpo(model, searched, kept, seed)
            known[tuple(kept)] = measured(wide, trained, seed)
        return known[tuple(kept)]

    def row(
        setting: str,
        value: float,
        own: np.ndarray,
        score: np.ndarray,
        alpha: float = p.selection.alpha,
    ) -> dict:
        kept = own[top_share(score[own], alpha, np.random.default_rng([seed, 3]))]
        run = {"task": task, "seed": seed, "setting": setting, "value": value, "pairs": len(kept)}
        return run | measure(kept)

    rows = [row("random", 0.0, base, np.zeros(len(pairs)))]
    rows += [row("V", v, base, influence(v)) for v in s.validation]
    rows += [row("alpha", a, base, influence(usual), a) for a in s.alpha]
    for gamma in s.gamma:
        combined = np.zeros(len(pairs))
        combined[base] = combined_score(influence(usual)[base], q_value[base], gamma, **scale)
        rows.append(row("gamma", gamma, base, combined))
    for factor in s.step:
        other = table if factor == 1 else scored(factor * size, usual)
        rows.append(row("step size", factor, base, other[:, :usual].mean(1).round(9)))
    for name, values in (("min_value", s.min_value), ("min_gap", s.min_gap)):
        for value in values:
            own = passing(**{name: value})
            if len(own) > 1:
                rows.append(row(name, value, own, influence(usual)))
    return rows + [_guided(pipeline, model, size, guide, seed) for guide in s.guide]


def _guided(
    pipeline: Pipeline, model: ModelRef, step_size: float, guide: str, seed: int
) -> dict[str, object]:
    """DPO on all pairs of a search that Q-values, influence or both guide: by the parameters'
    estimator, with the chosen step size."""
    p = pipeline.params
    changed = p.model_copy(update={"search": p.search.changed(guide=guide)})
    steered, sizes = Pipeline(changed, pipeline.task, pipeline.store), p.sizes
    step = None if guide == "q" else step_size
    searched = steered.search(
        model, "train", sizes.train_questions, seed, skip=sizes.sft_questions, step_size=step
    )
    kept = np.arange(len(read_pairs(searched)))
    trained = pipeline.dpo(model, searched, kept, seed)
    run = {"task": pipeline.task, "seed": seed, "setting": "guide", "value": guide}
    return run | {"pairs": len(kept)} | measured(pipeline, trained, seed)
