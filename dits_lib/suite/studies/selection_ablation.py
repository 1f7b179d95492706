"""Notebook 03: DPO on what each arm keeps of one search's pairs.

Sets of different size cannot be trained alike: for as many optimiser steps a small set is seen more
often, for as many epochs it gets fewer steps. So what is compared with all pairs, or with a smaller
share, is trained both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engines import derive_seed
from ...report import reach_of
from ...report.names import plain
from ...selection import ARMS, drawn_share, select_arm, top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline, read_pairs, read_scores
from ..store import Artifact, read_rows
from .common import (
    epochs_of,
    influence_values,
    model_row,
    pair_stage,
    q_values,
    scale_of,
    sft_stage,
    spearman,
    step_size_of,
    steps_of,
    task_and_seed_keys,
)

SMALL = "gamma_0_small"
"""The arm of highest influence that keeps `selection.small_alpha` of the pairs."""
SELECTIONS = (*ARMS, SMALL)
"""The arms that train on what they select."""
UNSCORED = ("full", "random", "q_value")
"""Those of them that need no influence."""
SCORED = tuple(arm for arm in SELECTIONS if arm not in UNSCORED)
"""Those that go by influence, of one kind or the other."""
STEPS, EPOCHS = "steps", "epochs"
"""What is equal over sets of different size: optimiser steps, or epochs."""
BOTH_WAYS = ("random", "gamma_0", "gamma_1", SMALL)
"""Arms that are trained for equal epochs too; of `random` the first half."""


def keys(params: Params) -> list[tuple]:
    """One job for each task and seed."""
    return task_and_seed_keys(params, params.ablation.seeds)


def arms_of(params: Params) -> tuple[str, ...]:
    """What is compared: models before DPO, then one for each selection."""
    warm = () if params.sft.warm_start == "none" else ("warm_start",)
    return ("base", *warm, "sft", *SELECTIONS)


@dataclass(frozen=True)
class Run:
    """One trained model of an arm.

    Attributes:
        arm: a name in `arms_of`.
        equal: `STEPS` or `EPOCHS`.
        half, order: number of the random half, and of the order that the pairs are trained in.
        pairs, steps, epochs: that DPO was given; 0 for a model before DPO, or without pairs.
        model: the result.
    """

    arm: str
    equal: str
    half: int
    order: int
    pairs: int
    steps: int
    epochs: float
    model: ModelRef


def classic_values(
    pipeline: Pipeline, model: ModelRef, searched: Artifact, step_size: float, seed: int
) -> np.ndarray | None:
    """`Pipeline.score_by_loss` against the pairs of validation questions [n_pairs]; None where
    those gave none: no order follows, and the arm is left out for this seed."""
    if not read_pairs(searched):
        return np.zeros(0)
    validation = validation_search(pipeline, model, seed)
    if not read_pairs(validation):
        return None
    scored = pipeline.score_by_loss(model, searched, validation, step_size, seed)
    return read_scores(scored, searched).value


def validation_search(pipeline: Pipeline, model: ModelRef, seed: int) -> Artifact:
    """The search of validation questions for the pairs of the classic influence."""
    return pipeline.search(model, "validation", pipeline.params.sizes.loss_questions, seed)


def selection_stage(
    pipeline: Pipeline, seed: int, arms: tuple[str, ...]
) -> tuple[ModelRef, Artifact, dict[str, list[np.ndarray]]]:
    """The SFT model, the search that gave the pairs, and which of them each of some arms keeps: one
    set, several for `random`, none for an arm that has no scores. Pairs are scored only if one of
    the arms goes by the scores."""
    p = pipeline.params
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    influence = classic = None
    scale: dict = {}
    scored = set(arms) & set(SCORED)
    if scored:
        size = step_size_of(pipeline)
        scale, count = scale_of(p, size), p.influence.validation_questions
        if scored - {"dpo_loss"}:
            influence = influence_values(pipeline, model, searched, size, count, seed)
        if "dpo_loss" in scored:
            classic = classic_values(pipeline, model, searched, size, seed)
    q_value, kept = q_values(searched), {}
    for arm in arms:
        if arm == SMALL:
            rng = np.random.default_rng([seed, 7])
            kept[SMALL] = [top_share(influence, p.selection.small_alpha, rng)]
            continue
        halves = p.ablation.random_halves if arm == "random" else 1
        if arm == "dpo_loss" and classic is None:
            halves = 0
        kept[arm], scores = [], (q_value, influence, classic)
        for half in range(halves):
            rng = np.random.default_rng([seed, len(arm), abs(derive_seed(arm)) % 2**32, half])
            kept[arm].append(select_arm(arm, p.selection.alpha, rng, *scores, **scale))
    return model, searched, kept


def trained_runs(pipeline: Pipeline, seed: int, arms: tuple[str, ...]) -> list[Run]:
    """The models of some of `arms_of`; pairs are searched and scored only if one of the arms
    selects among them."""
    before = {
        "base": pipeline.base_model,
        "warm_start": lambda: pipeline.start_model(seed),
        "sft": lambda: sft_stage(pipeline, seed)[0],
    }
    runs = [Run(arm, STEPS, 0, 0, 0, 0, 0.0, before[arm]()) for arm in arms if arm in before]
    selecting = [arm for arm in arms if arm not in before]
    if not selecting:
        return runs
    p, batch = pipeline.params, pipeline.params.dpo.batch
    model, searched, kept = selection_stage(pipeline, seed, tuple(selecting))
    whole = epochs_of(p.dpo.steps, len(read_pairs(searched)), batch)
    for arm in selecting:
        for equal in (STEPS, EPOCHS) if arm in BOTH_WAYS else (STEPS,):
            for half, own in enumerate(kept[arm] if equal == STEPS else kept[arm][:1]):
                steps = p.dpo.steps if len(own) else 0
                if equal == EPOCHS:
                    steps = steps_of(whole, len(own), batch)
                epochs = epochs_of(steps, len(own), batch)
                for order in range(p.ablation.dpo_seeds):
                    trained = pipeline.dpo(model, searched, own, order_seed(seed, order), steps)
                    given = len(own), steps, epochs
                    runs.append(Run(arm, equal, half, order, *given, trained))
    return runs


def order_seed(seed: int, order: int) -> int:
    """The seed of a DPO run: that of the study for the first order of the pairs."""
    return seed if order == 0 else abs(derive_seed("order", seed, order)) % 2**31


def selection_job(params: Params, task: str, seed: int) -> None:
    """What all arms of `ablation_job` select from, for what is computed ahead."""
    selection_stage(Pipeline(params, task), seed, SELECTIONS)


def overlap_job(params: Params, task: str) -> dict:
    """Which pairs of the first seed each arm keeps.

    Returns:
        `task`; `rows`, one for each pair with its texts, Q-value and influence; `kept`, {arm:
        numbers of the rows}, of several random halves the first, without arms that have no scores;
        `scale`, in which units H adds influence and Q (`scale_of`).
    """
    pipeline, seed = Pipeline(params, task), params.seed
    model, searched, kept = selection_stage(pipeline, seed, SELECTIONS)
    size = step_size_of(pipeline)
    count = params.influence.validation_questions
    influence = influence_values(pipeline, model, searched, size, count, seed)
    rows = [
        {
            "task": task,
            "agent": pair.meta.get("agent"),
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "Q": pair.q_chosen,
            "influence": float(value),
        }
        for pair, value in zip(read_pairs(searched), influence, strict=True)
    ]
    own = {arm: [int(i) for i in halves[0]] for arm, halves in kept.items() if halves}
    return {"task": task, "rows": rows, "kept": own, "scale": scale_of(params, size)}


def overlap_rows(jobs: list[dict]) -> list[dict]:
    """Of the pairs that an arm keeps, the share that each other arm keeps too."""
    rows = []
    for job in jobs:
        sets = {arm: set(own) for arm, own in job["kept"].items() if arm != "full" and own}
        rows += [
            {"task": job["task"], "arm": arm, "pairs": len(own)}
            | {plain(other): len(own & sets[other]) / len(own) for other in sets}
            for arm, own in sets.items()
        ]
    return rows


def example_rows(job: dict, count: int = 8) -> list[dict]:
    """Some pairs from the highest influence to the lowest, and the arms that keep each."""
    order = np.argsort([-row["influence"] for row in job["rows"]], kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    kept = {arm: set(own) for arm, own in job["kept"].items() if arm not in ("full", "random")}
    return [
        job["rows"][i] | {"kept by": ", ".join(plain(a) for a in kept if i in kept[a])}
        for i in shown
    ]


def arm_job(params: Params, task: str, seed: int, arm: str) -> None:
    """One arm of `ablation_job`, for what is computed ahead."""
    pipeline = Pipeline(params, task)
    sft, _ = sft_stage(pipeline, seed)
    for run in trained_runs(pipeline, seed, (arm,)):
        pipeline.evaluate(run.model, seed)
        _validation_losses(pipeline, run, sft, seed)


def ablation_job(params: Params, task: str, seed: int) -> dict:
    """Every arm for one seed.

    Returns:
        `pairs` of the search; `model`, what tells a failed SFT; `runs`, a row for each trained
        model with its mean metric, drift, endings, artifact and DPO loss on validation pairs;
        `by_question`, {equal: {arm: [test_questions]}}, the metric of each test question, mean
        over the arm's runs.
    """
    pipeline = Pipeline(params, task)
    runs = trained_runs(pipeline, seed, arms_of(params))
    sft = next(run.model for run in runs if run.arm == "sft")
    searched = pair_stage(pipeline, sft, seed)
    measured: dict[str, dict[str, list]] = {STEPS: {}, EPOCHS: {}}
    for run in runs:
        of_arm = measured[run.equal].setdefault(run.arm, [])
        of_arm.append(pipeline.evaluate(run.model, seed))
    return {
        "task": task,
        "seed": seed,
        "pairs": len(read_pairs(searched)),
        "model": model_row(sft, searched) | _drawn_shares(pipeline, sft, searched, seed),
        "runs": [_row(pipeline, run, sft, seed) for run in runs],
        "by_question": {
            equal: {arm: np.mean(values, axis=0).tolist() for arm, values in arms.items()}
            for equal, arms in measured.items()
        },
    }


def _drawn_shares(pipeline: Pipeline, sft: ModelRef, searched: Artifact, seed: int) -> dict:
    """Share of the kept pairs that a draw among ties decided, by what they were ranked by."""
    p = pipeline.params
    size = step_size_of(pipeline)
    count = p.influence.validation_questions
    influence = influence_values(pipeline, sft, searched, size, count, seed)
    return {
        "drawn_influence": drawn_share(influence, p.selection.alpha),
        "drawn_small": drawn_share(influence, p.selection.small_alpha),
        "drawn_q": drawn_share(q_values(searched), p.selection.alpha),
    }


def _validation_losses(pipeline: Pipeline, run: Run, sft: ModelRef, seed: int) -> np.ndarray:
    """DPO loss of a model of equal steps on each validation pair; empty for others, which are not
    compared by it, and where there are no pairs."""
    validation = validation_search(pipeline, sft, seed)
    if run.equal != STEPS or not run.pairs or not read_pairs(validation):
        return np.zeros(0)
    return pipeline.validation_losses(run.model, sft, validation)


def _row(pipeline: Pipeline, run: Run, sft: ModelRef, seed: int) -> dict[str, object]:
    """What is told of one trained model. `halves`: the mean metric and loss of every second test
    question and validation pair, and of the others."""
    evaluated, metric = pipeline.evaluation(run.model, seed), pipeline.evaluate(run.model, seed)
    losses = _validation_losses(pipeline, run, sft, seed)
    enough = len(losses) > 1
    return {
        "arm": run.arm,
        "equal": run.equal,
        "half": run.half,
        "order": run.order,
        "kept": run.pairs,
        "steps": run.steps,
        "epochs": run.epochs,
        "metric": float(metric.mean()),
        "validation_loss": float(losses.mean()) if len(losses) else float("nan"),
        "halves": {
            "metric": [float(metric[start::2].mean()) for start in (0, 1)] if enough else [],
            "loss": [float(losses[start::2].mean()) for start in (0, 1)] if enough else [],
        },
        "artifact": evaluated.name,
        "endings": pipeline.endings(run.model, seed),
        **_drift(run.model),
    }


def _drift(trained: ModelRef) -> dict:
    """Of a model after DPO; zero where no pair was there to train on."""
    file = Path(trained.path).parent / "drift.json"
    last = read_rows(file)[0][-1] if file.exists() else {}
    return {name: last.get(name, 0.0) for name in ("drift_chosen", "drift_rejected")}


def run_rows(jobs: list[dict]) -> list[dict]:
    """One row for each trained model: its metric, and the folder below `runs/<profile>` that it
    comes from. The manifest there names the model and the questions."""
    return [
        {"task": job["task"], "seed": job["seed"]}
        | {name: value for name, value in run.items() if name not in ("endings", "halves")}
        for job in jobs
        for run in job["runs"]
    ]


def by_seed(jobs: list[dict], task: str, arm: str, equal: str = STEPS) -> list[np.ndarray]:
    """The metric of an arm by test question, for each seed in order: what `report.paired` takes.
    An arm that is trained one way has one result for both; NaN for a seed without it."""
    own = sorted((job for job in jobs if job["task"] == task), key=lambda job: job["seed"])
    found = []
    for job in own:
        arms = job["by_question"]
        missing = np.full(len(next(iter(arms[STEPS].values()))), np.nan)
        found.append(np.array(arms[equal].get(arm, arms[STEPS].get(arm, missing))))
    return found


def loss_correlations(jobs: list[dict], task: str) -> np.ndarray:
    """Rank correlation, for each seed, between minus the DPO loss on validation pairs and the test
    metric over the trained models of that seed, [seeds]; NaN where there are fewer than four, or
    one of the two does not vary."""
    return np.array(
        [
            spearman([-r["validation_loss"] for r in rows], [r["metric"] for r in rows])
            for rows in _compared_by_loss(jobs, task)
        ]
    )


def loss_reach(jobs: list[dict], task: str) -> float:
    """How much of a rank correlation between loss and metric the noise of both leaves to be seen,
    0 to 1: the root of the product of their reliabilities.

    The reliability of each is the rank correlation of its two halves over the models of a seed
    (mean over seeds), stepped up to the whole (Spearman and Brown: 2 r / (1 + r)). 0 where a half
    does not repeat.
    """
    product = 1.0
    for name in ("metric", "loss"):
        halves = [[r["halves"][name] for r in rows] for rows in _compared_by_loss(jobs, task)]
        repeated = [spearman(*zip(*own, strict=True)) for own in halves if own and all(own)]
        known = [r for r in repeated if not np.isnan(r)]
        product *= reach_of(float(np.mean(known)) if known else 0.0)
    return product


def _compared_by_loss(jobs: list[dict], task: str) -> list[list[dict]]:
    """The runs of each seed that have a loss on validation pairs."""
    own = sorted((job for job in jobs if job["task"] == task), key=lambda job: job["seed"])
    return [[run for run in job["runs"] if not np.isnan(run["validation_loss"])] for job in own]
