"""What the studies share: running jobs, and the stages that all of them begin with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy

from ...agents import TASKS
from ...engines import derive_seed
from ...influence import ESTIMATORS
from ...settings import ROOT
from ...tasks import DataError
from ..notebooks import questions_needed
from ..params import Params
from ..pipeline import ModelRef, Pipeline, read_pairs, read_scores, read_trees
from ..store import USED, Artifact, read_rows
from ..workers import run_jobs

FEWEST = 4
"""Values below which no rank correlation is taken."""

Job = Callable[..., object]
"""(parameters, *key) -> plain numbers."""


def run_study(job: Job, params: Params, keys: list[tuple], label: str) -> tuple[list, list[str]]:
    """Run `job(params, *key)` for every key, on `params.workers` processes (`params.executor`).

    Returns the results in the order of the keys, and the artifacts (folder names) behind them, for
    the ledger.
    """
    jobs = [(job, params, *key) for key in keys]
    done = run_jobs(_recorded, jobs, params.workers, label, ray=params.cluster)
    return [result for result, _ in done], sorted({name for _, used in done for name in used})


def _recorded(job: Job, params: Params, *key) -> tuple:
    USED.clear()
    return job(params, *key), sorted(USED)


def seeds_of(params: Params, count: int) -> range:
    """`count` seeds, from that of the parameters on."""
    return range(params.seed, params.seed + count)


def task_keys(params: Params) -> list[tuple]:
    """Keys of jobs that are run once for each task."""
    return [(task,) for task in params.tasks]


def task_and_seed_keys(params: Params, seeds: int) -> list[tuple]:
    """Keys of jobs that are run for each seed and task."""
    return [(task, seed) for seed in seeds_of(params, seeds) for task in params.tasks]


def sft_stage(pipeline: Pipeline, seed: int) -> tuple[ModelRef, Artifact]:
    """Search with the base model (after its warm start, if any), then SFT on the best dialogues:
    where every DPO run starts.

    Raises:
        DataError: when the first seed finds no dialogue to train on; another seed then keeps its
            model.
    """
    start = pipeline.start_model(seed)
    searched = pipeline.search(start, "train", pipeline.params.sizes.sft_questions, seed)
    if seed == pipeline.params.seed and not searched.rows("sft.jsonl"):
        raise DataError(
            f"{pipeline.task}: the search found no dialogue with a reward above sft.min_reward; "
            "lower it, or search more questions"
        )
    return pipeline.sft(start, [searched], seed), searched


def pair_stage(pipeline: Pipeline, model: ModelRef, seed: int) -> Artifact:
    """Search with the SFT model, on other training questions.

    Raises:
        DataError: when the first seed finds no pairs; with no pairs of another seed, all its arms
            in 03 to 05 and 08 are the SFT model.
    """
    sizes = pipeline.params.sizes
    count, skip = sizes.train_questions, sizes.sft_questions
    searched = pipeline.search(model, "train", count, seed, skip=skip)
    if seed == pipeline.params.seed:
        pipeline.pairs(searched)
    return searched


def model_row(model: ModelRef, searched: Artifact) -> dict:
    """What tells a failed SFT: its training loss in the first and the last tenth of its steps (NaN
    without SFT), the mean reward of the dialogues that its model searched, and their pairs."""
    file = Path(model.path) / "train_log.json"
    losses = [row["loss"] for row in read_rows(file)[0]] if file.is_file() else [float("nan")]
    rewards = [tree.nodes[0].q for tree in read_trees(searched)]
    return {
        "sft_loss_first": losses[0],
        "sft_loss_last": losses[-1],
        "searched_reward": float(np.mean(rewards)),
        "pairs": len(read_pairs(searched)),
    }


def step_size_of(pipeline: Pipeline) -> float:
    """The influence step of a task, which all its seeds and rounds take, so that their influences
    have one unit: of several `influence.step_sizes` the one that `step_response_of` chooses. Of
    one there is nothing to choose, and no dialogue is played for it."""
    sizes = pipeline.params.influence.step_sizes
    return sizes[0] if len(sizes) == 1 else step_response_of(pipeline)[0]


def step_response_of(pipeline: Pipeline) -> tuple[float, list[dict]]:
    """The influence step of a task, chosen once, with the first seed's SFT model and pairs, on
    development questions; and how the policy answers to each of `influence.step_sizes`."""
    seed = pipeline.params.seed
    model, _ = sft_stage(pipeline, seed)
    return pipeline.step_size(model, pair_stage(pipeline, model, seed), seed)


def asked(params: Params, task: str, seeds: int, first: int | None = None) -> list[list[int]]:
    """For each seed what tells its test questions apart: seeds share questions where they draw
    from one pool, as those of public data do, and of the micro web, whose ids name the seed.

    Args:
        seeds: how many.
        first: the first of them; None: that of the parameters.
    """
    pipeline, count = Pipeline(params, task), params.sizes.test_questions
    start = params.seed if first is None else first
    return [
        [derive_seed(repr((q.text, q.answers, sorted(q.views.items())))) for q in questions]
        for questions in (pipeline.questions("test", count, start + i) for i in range(seeds))
    ]


def epochs_of(steps: int, kept: int, batch: int) -> float:
    """Epochs that so many optimiser steps make on `kept` pairs: the last batch of an epoch may be
    small, but it is a step (TRL's trainers drop none)."""
    return steps / math.ceil(kept / batch) if kept else 0.0


def steps_of(epochs: float, kept: int, batch: int) -> int:
    """Optimiser steps of so many epochs on `kept` pairs, one at least; 0 without pairs."""
    return max(1, round(epochs * math.ceil(kept / batch))) if kept else 0


def measured(pipeline: Pipeline, model: ModelRef, seed: int) -> dict:
    """Of a model on the test questions: its metric, mean and by question, and the artifact behind
    it."""
    metric = pipeline.evaluate(model, seed)
    return {
        "metric": float(metric.mean()),
        "artifact": pipeline.evaluation(model, seed).name,
        "by_question": metric.tolist(),
    }


def q_values(searched: Artifact) -> np.ndarray:
    """Q of the chosen reply of every pair of a search, [n_pairs]."""
    return np.array([pair.q_chosen for pair in read_pairs(searched)])


def spearman(a: Sequence[float], b: Sequence[float], alike: float = math.nan) -> float:
    """Rank correlation of two sides; NaN for fewer than `FEWEST` values, `alike` where a side does
    not vary."""
    if len(a) < FEWEST:
        return math.nan
    varied = np.ptp(a) > 0 and np.ptp(b) > 0
    return float(scipy.stats.spearmanr(a, b).statistic) if varied else alike


def scale_of(params: Params, step_size: float, estimator: str | None = None) -> dict:
    """`scale` and `step_size` of `combined_score`, for influence by an estimator; None: that of the
    parameters."""
    record = ESTIMATORS[estimator or params.influence.estimator]
    return {"scale": params.selection.scale, "step_size": record.divisor(step_size)}


def influence_values(
    pipeline: Pipeline,
    model: ModelRef,
    searched: Artifact,
    step_size: float,
    count: int,
    seed: int,
    **options,
) -> np.ndarray:
    """`Pipeline.score` of the pairs of a search, [n_pairs]; nothing is scored where there are
    none."""
    if not read_pairs(searched):
        return np.zeros(0)
    scored = pipeline.score(model, searched, step_size, count, seed, **options)
    return read_scores(scored, searched).value


def data_rows(params: Params) -> list[dict]:
    """One row for each task and split: which questions serve it, from where, and a hash of them
    (public data)."""
    rows = []
    for task in params.tasks:
        data = params.data.splits(task)
        own = params.world.questions or f"{TASKS[task].world}, drawn by rule"
        for split, need in questions_needed(params).items():
            source = data[split].source.removeprefix(f"{ROOT}/") if data else own
            row = {"task": task, "split": split, "source": source, "asked_for": need}
            if data is not None:
                part = data[split]
                row |= {"there": len(part.questions), "left_out_as_repeats": part.repeats}
                row |= {"left_out_as_unanswerable": part.unanswerable}
                row |= {"hash": part.digest}
            rows.append(row)
    return rows
