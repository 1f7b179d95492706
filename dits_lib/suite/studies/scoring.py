"""Notebook 02: one-step influence of the first seed's pairs, twice on disjoint validation sets, and
the classic influence by DPO loss; and how much of the noise is that of the questions, how much that
of the random A of the LoRA step."""

from __future__ import annotations

import math

import numpy as np
import scipy

from ...engines import derive_seed
from ...influence import Scores, mean_and_stderr, rank_correlation, reliability, resampled_rows
from ...report import Comparison, correlation, reach_of
from ...selection import drawn_share
from ..params import Params
from ..pipeline import Pipeline, read_pairs, read_scores
from .common import pair_stage, sft_stage, spearman, step_response_of, task_keys

keys = task_keys

QUESTIONS, DRAW, BOTH = "other questions, same A", "same questions, other A", "both other"
"""What differs between two scorings of the same pairs."""


def scoring_job(params: Params, task: str) -> dict:
    """The scores of a task, with what they are held against; `classic` is None where the validation
    questions gave no pairs."""
    pipeline, seed, scoring = Pipeline(params, task), params.seed, params.scoring
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    size, response = step_response_of(pipeline)

    def scored(name: str, count: int) -> dict[str, Scores]:
        """On the first `count` validation questions and on the next, as ever; and on the next once
        more, under the A of the first (where the parameters fix A: under another)."""
        fixed = params.influence.lora_seed is not None
        draw = derive_seed("another A", seed) if fixed else pipeline.own_lora_seed(seed, 0, name)

        def on(skip: int, lora_seed: int | None = None) -> Scores:
            options = {"skip": skip, "limit": scoring.pairs, "estimator": name}
            found = pipeline.score(
                model, searched, size, count, seed, lora_seed=lora_seed, **options
            )
            return read_scores(found, searched)

        return {"first": on(0), "second": on(count), "again": on(count, draw), "fixed": fixed}

    one_step = scored("one_step", scoring.retest_questions)
    first, second = one_step["first"], one_step["second"]
    validation = pipeline.search(model, "validation", params.sizes.loss_questions, seed)
    pairs, classic = pipeline.pairs(searched)[: scoring.pairs], None
    if read_pairs(validation):
        by_loss = pipeline.score_by_loss(model, searched, validation, size, seed)
        classic = read_scores(by_loss, searched)
    return {
        "task": task,
        "step_size": size,
        "response": response,
        "question": [pair.question_id for pair in pairs],
        "family": [pair.meta["family"] for pair in pairs],
        "harmful": [pair.meta["harmful"] for pair in pairs],
        "q": [pair.q_chosen for pair in pairs],
        "influence": np.hstack([first.per_question, second.per_question]).tolist(),
        "first": first.per_question.tolist(),
        "second": second.per_question.tolist(),
        "classic": None if classic is None else classic.value[: len(pairs)].tolist(),
        "noise": {
            name: noise_pairs(found, count)
            for name, count, found in (
                ("one_step", scoring.retest_questions, one_step),
                *((name, count, scored(name, count)) for name, count in scoring.noise.items()),
            )
        },
        "cost": {"one-step": first.cost} | ({} if classic is None else {"DPO loss": classic.cost}),
    }


def noise_pairs(found: dict, count: int) -> dict:
    """The values of the two scorings that differ in each way: {what differs: (values, values)}, and
    `V`, the questions of a scoring.

    Args:
        found: `first` and `second`, on different questions; `again`, on those of the second, under
            the A of the first, or, where all scorings share one A (`fixed`), under another.
    """
    first, second, again = (found[name].value.tolist() for name in ("first", "second", "again"))
    if found["fixed"]:
        ways = {QUESTIONS: (first, second), DRAW: (second, again), BOTH: (first, again)}
    else:
        ways = {QUESTIONS: (first, again), DRAW: (second, again), BOTH: (first, second)}
    return {"V": count, "ways": ways}


def noise_rows(job: dict) -> list[dict]:
    """Rank correlation, with its 95 % interval, of two scorings of the same pairs, by what differs
    between them: one row for each estimator."""
    return [
        {
            "task": job["task"],
            "estimator": name,
            "V": noise["V"],
            "differs": way,
            **rank_correlation(*map(np.array, values), job["question"]),
        }
        for name, noise in job["noise"].items()
        for way, values in noise["ways"].items()
    ]


def noise_sentence(rows: list[dict]) -> str:
    """Which of the two noises is the larger for an estimator of one task, as far as the intervals
    of its `noise_rows` tell."""
    by_way = {row["differs"]: row for row in rows}
    questions, draw = by_way[QUESTIONS], by_way[DRAW]
    told = f"{questions['task']}, {questions['estimator']}: rank correlation "
    told += f"{questions['rho']:.2f} with other questions, {draw['rho']:.2f} with another A"
    if not all(np.isfinite(row[end]) for row in (questions, draw) for end in ("low", "high")):
        return f"{told}: nothing can be said of scores that do not vary."
    if draw["low"] > questions["high"]:
        return f"{told}: the questions are the larger noise."
    if draw["high"] < questions["low"]:
        return f"{told}: the draw of A is the larger noise."
    return f"{told}: neither noise is the larger beyond their intervals."


def reliability_rows(job: dict, counts: list[int], alpha: float) -> list[dict]:
    """Test-retest agreement of one-step scores for several V, from the two disjoint validation sets
    of a scoring job. `ties`: share of the pairs that share their score; `zero`: whose score is 0;
    `drawn`: share of the kept pairs that a draw among ties decided."""
    rows = []
    for count in counts:
        tables = [np.array(job[name])[:, :count] for name in ("first", "second")]
        halves = [Scores("one_step", *mean_and_stderr(table)) for table in tables]
        row = reliability(*halves, alpha=alpha, groups=job["question"])
        zero = float(np.mean(halves[0].value == 0))
        ties = halves[0].tie_share
        told = {"ties": ties, "zero": zero, "drawn": drawn_share(halves[0].value, alpha)}
        rows.append({"task": job["task"], "V": count, **row, **told})
    return rows


def gain_of_v(job: dict, small: int, large: int, resamples: int = 500) -> Comparison:
    """Test-retest rank correlation at V = `large` minus that at V = `small` (0 where a side does
    not vary), with the standard deviation of a bootstrap over the searched and the validation
    questions; no value for less than four searched ones."""
    tables = [np.array(job["first"]), np.array(job["second"])]

    def gain(rows: np.ndarray, columns: list[np.ndarray]) -> float:
        def rho(v: int) -> float:
            means = [
                t[rows][:, own[:v]].mean(axis=1) for t, own in zip(tables, columns, strict=True)
            ]
            return spearman(*means, alike=0.0)

        return float(rho(large) - rho(small))

    def drawn() -> float:
        # Rows are whole questions' pairs, as in the other intervals; a validation question that is
        # drawn stands for another that could have been asked.
        columns = [rng.integers(table.shape[1], size=table.shape[1]) for table in tables]
        return gain(resampled_rows(questions, rng), columns)

    rng, questions = np.random.default_rng(0), np.array(job["question"])
    count = len(np.unique(questions))
    name = f"test-retest correlation at V = {large} minus V = {small}"
    if count < 4:
        return Comparison(job["task"], name, math.nan, math.nan, math.nan, count=count)
    stderr = float(np.std([drawn() for _ in range(resamples)], ddof=1))
    found = gain(np.arange(len(questions)), [np.arange(table.shape[1]) for table in tables])
    return Comparison(job["task"], name, found, stderr, count - 1, count=count)


def with_influence(
    job: dict, against: str, name: str, lower: float, upper: float = 0.2
) -> Comparison:
    """Rank correlation of the one-step influence (all validation questions) with `q` or `classic`,
    claimed to lie between `lower` and `upper`.

    What noise leaves of it is found from the test-retest correlation of the two validation sets, at
    the lower end of its 95 % interval.
    """
    task, questions = job["task"], job["question"]
    means = [np.array(job[half]).mean(axis=1) for half in ("first", "second")]
    repeated = correlation(task, "test-retest", *means, questions).interval(0.95)["low"]
    value = np.array(job["influence"]).mean(axis=1)
    bounds = {"lower": lower, "upper": upper, "reach": reach_of(repeated)}
    return correlation(
        task, f"influence with {name}", value, np.array(job[against]), questions, **bounds
    )


def correlation_row(job: dict, against: str) -> dict:
    """Rank correlation of the one-step influence (all validation questions) with `q` or `classic`,
    with its 95 % interval over the searched questions: that of `with_influence`."""
    value, other = np.array(job["influence"]).mean(axis=1), np.array(job[against])
    found = correlation(job["task"], against, value, other, job["question"])
    row = {"task": job["task"], "against": against, "rho": found.estimate}
    return row | found.interval(0.95) | {"n": len(value)}


def auc(score: np.ndarray, harmful: np.ndarray) -> float:
    """Chance that a sound item scores above a harmful one, ties counted half; NaN without both
    kinds."""
    sound, bad = score[~harmful], score[harmful]
    if not len(sound) or not len(bad):
        return float("nan")
    return float(scipy.stats.mannwhitneyu(sound, bad).statistic / (len(sound) * len(bad)))


def harm_row(job: dict, name: str) -> dict:
    """How well a score tells planted harm: the AUC of `influence`, `classic` or `q`."""
    score, harmful = np.array(job[name]), np.array(job["harmful"])
    score = score.mean(axis=1) if name == "influence" else score
    counts = {"harmful pairs": int(harmful.sum()), "pairs": len(harmful)}
    return {"task": job["task"], "score": name, "AUC": auc(score, harmful), **counts}
