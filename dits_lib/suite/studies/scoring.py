"""Notebook 02: one-step influence of the first seed's pairs, twice on disjoint validation sets, and
the classic influence by DPO loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy

from ...influence import Scores, mean_and_stderr, rank_correlation, reliability, resampled_rows
from ...report import Comparison, correlation
from ..params import Params
from ..pipeline import Pipeline, read_scores
from .common import pair_stage, sft_stage, step_size_of, task_keys

keys = task_keys


def scoring_job(params: Params, task: str) -> dict:
    """The scores of a task, with what they are held against."""
    pipeline, seed, scoring = Pipeline(params, task), params.seed, params.scoring
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    size, response = step_size_of(pipeline)

    def one_step(skip: int) -> Scores:
        scored = pipeline.score(
            model,
            searched,
            size,
            scoring.retest_questions,
            seed,
            skip=skip,
            limit=scoring.pairs,
            estimator="one_step",
        )
        return read_scores(scored, searched)

    first, second = one_step(0), one_step(scoring.retest_questions)
    validation = pipeline.search(model, "validation", params.sizes.loss_questions, seed)
    by_loss = pipeline.score_by_loss(model, searched, validation, size, seed)
    classic = read_scores(by_loss, searched)
    pairs = pipeline.pairs(searched)[: scoring.pairs]
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
        "classic": classic.value[: len(pairs)].tolist(),
        "cost": {"one-step": first.cost, "DPO loss": classic.cost},
    }


def reliability_rows(job: dict, counts: list[int], alpha: float) -> list[dict]:
    """Test-retest agreement of one-step scores for several V, from the two disjoint validation sets
    of a scoring job."""
    rows = []
    for count in counts:
        tables = [np.array(job[name])[:, :count] for name in ("first", "second")]
        halves = [Scores("one_step", *mean_and_stderr(table)) for table in tables]
        row = reliability(*halves, alpha=alpha, groups=job["question"])
        zero = float(np.mean(halves[0].value == 0))
        ties = halves[0].tie_share
        rows.append({"task": job["task"], "V": count, **row, "ties": ties, "zero": zero})
    return rows


def gain_of_v(job: dict, small: int, large: int, resamples: int = 500) -> Comparison:
    """Test-retest rank correlation at V = `large` minus that at V = `small` (0 where a side does
    not vary), with the standard deviation of a bootstrap over the questions; no value for less
    than four of them."""
    tables = [np.array(job["first"]), np.array(job["second"])]
    means = {v: [table[:, :v].mean(axis=1) for table in tables] for v in (small, large)}

    def correlated(a: np.ndarray, b: np.ndarray) -> float:
        varied = a.std() and b.std()
        return scipy.stats.spearmanr(a, b).statistic if varied else 0.0

    def gain(rows: np.ndarray) -> float:
        # Rows are whole questions' pairs, as in the other intervals.
        rho = {v: correlated(a[rows], b[rows]) for v, (a, b) in means.items()}
        return float(rho[large] - rho[small])

    rng, questions = np.random.default_rng(0), np.array(job["question"])
    count = len(np.unique(questions))
    name = f"test-retest correlation at V = {large} minus V = {small}"
    if count < 4:
        return Comparison(job["task"], name, math.nan, math.nan, math.nan, count=count)
    stderr = float(np.std([gain(resampled_rows(questions, rng)) for _ in range(resamples)], ddof=1))
    return Comparison(
        job["task"], name, gain(np.arange(len(questions))), stderr, count - 1, count=count
    )


def with_influence(
    job: dict, against: str, name: str, lower: float, upper: float = 0.2
) -> Comparison:
    """Rank correlation of the one-step influence (all validation questions) with `q` or `classic`,
    claimed to lie between `lower` and `upper`.

    Noise shrinks a correlation. With a test-retest correlation r of the halves, the mean of both
    halves correlates by sqrt(2 r / (1 + r)) of what it would without noise; a correlation that
    small supports the claim only if it lies within the bounds times this, at the lower end of r's
    95 % interval.
    """
    task, questions = job["task"], job["question"]
    means = [np.array(job[half]).mean(axis=1) for half in ("first", "second")]
    repeated = correlation(task, "test-retest", *means, questions).interval(0.95)["low"]
    value = np.array(job["influence"]).mean(axis=1)
    name, bounds = f"influence with {name}", {"lower": lower, "upper": upper}
    found = correlation(task, name, value, np.array(job[against]), questions, **bounds)
    if not repeated > 0:
        return dataclasses.replace(found, noisy="the influence does not repeat")
    seen, reach = found.interval(0.95), math.sqrt(2 * repeated / (1 + repeated))
    if seen["low"] > lower * reach and seen["high"] < upper * reach:
        return found
    return dataclasses.replace(found, noisy="noise of the influence may hide a larger one")


def correlation_row(job: dict, against: str) -> dict:
    """Rank correlation of the one-step influence (all validation questions) with `q` or
    `classic`."""
    value = np.array(job["influence"]).mean(axis=1)
    found = rank_correlation(value, np.array(job[against]), job["question"])
    return {"task": job["task"], "against": against, **found}


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
