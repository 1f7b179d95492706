"""Notebook 03: how far the influence that selects repeats, and how it goes with Q-values, in every
seed.

A scoring depends on its validation questions and on the random A of its step. So the pairs of each
seed are scored once more, on other questions and under another A (the same, where the parameters
fix it); the spread over seeds then holds the noise of both.
"""

from __future__ import annotations

import numpy as np

from ...influence import ESTIMATORS
from ...report import Comparison, mean_correlation, paired, reach_of
from ..params import Params
from ..pipeline import Pipeline, read_scores
from .common import FEWEST, pair_stage, q_values, sft_stage, spearman, step_size_of


def retest_job(params: Params, task: str, seed: int) -> dict:
    """The rank correlation of the two scorings of a seed's pairs, `retest`; that of their first
    quarters of the questions, `retest_few`; and that of their mean with Q, `with_q`.

    NaN for a seed with less than four pairs, and for what cannot be: a part of the questions where
    an estimator's columns are no questions, a correlation with Q-values that are all alike. Scores
    that are all alike repeat by 0.
    """
    pipeline, count = Pipeline(params, task), params.influence.validation_questions
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    size = step_size_of(pipeline)
    q_value, few = q_values(searched), max(2, count // 4)
    found = {"task": task, "seed": seed, "pairs": len(q_value), "V": count, "few": few}
    found |= dict.fromkeys(("retest", "retest_few", "with_q"), float("nan"))
    if len(q_value) < FEWEST:
        return found
    both = [
        read_scores(pipeline.score(model, searched, size, count, seed, skip=skip), searched)
        for skip in (0, count)
    ]
    found["retest"] = spearman(*(scores.value for scores in both), alike=0.0)
    tables = [scores.per_question for scores in both]
    by_question = ESTIMATORS[params.influence.estimator].columns_are_questions
    if by_question and all(table is not None and table.shape[1] == count for table in tables):
        parts = [table[:, :few].mean(axis=1).round(9) for table in tables]
        found["retest_few"] = spearman(*parts, alike=0.0)
    mean = (both[0].value + both[1].value) / 2
    return found | {"with_q": spearman(mean, q_value)}


def with_q(jobs: list[dict], task: str) -> Comparison:
    """Mean rank correlation over seeds of influence and Q-value, claimed to lie within 0.2 of zero.

    Noise shrinks it: what is left is found from the mean test-retest correlation, at the lower end
    of its 95 % interval.
    """
    retests = mean_correlation(task, "test-retest", _of(jobs, task, "retest"))
    reach = reach_of(retests.interval(0.95)["low"])
    bounds = {"lower": -0.2, "upper": 0.2, "reach": reach}
    return mean_correlation(task, "influence with Q-value", _of(jobs, task, "with_q"), **bounds)


def gain_of_v(jobs: list[dict], task: str) -> Comparison:
    """Mean over seeds of the test-retest correlation by all validation questions minus that by a
    quarter of them."""
    own = [job for job in jobs if job["task"] == task]
    few, many = own[0]["few"], own[0]["V"]
    name = f"test-retest correlation at V = {many} minus V = {few}"
    rows = [_of(jobs, task, column) for column in ("retest", "retest_few")]
    known = ~np.isnan(rows).any(axis=0)
    return paired(task, name, *(row[known] for row in rows))


def _of(jobs: list[dict], task: str, column: str) -> np.ndarray:
    """A value of every seed, [seeds]."""
    return np.array([job[column] for job in jobs if job["task"] == task])
