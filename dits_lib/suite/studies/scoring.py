"""Notebook 02: one-step influence of the first seed's pairs, twice on disjoint validation sets, and
the classic influence by DPO loss."""

from __future__ import annotations

import numpy as np
import scipy

from ...influence import Scores, mean_and_stderr, rank_correlation, reliability, resampled_rows
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


def gain_of_v(job: dict, small: int, large: int, resamples: int = 500) -> dict:
    """Test-retest rank correlation at V = `large` minus that at V = `small`, with a 95 % bootstrap
    interval over the questions."""
    tables = [np.array(job["first"]), np.array(job["second"])]
    means = {v: [table[:, :v].mean(axis=1) for table in tables] for v in (small, large)}

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        varied = a.std() and b.std()
        return scipy.stats.spearmanr(a, b).statistic if varied else 0.0

    def gain(rows: np.ndarray) -> float:
        # Rows are whole questions' pairs, as in the other intervals.
        rho = {v: correlation(a[rows], b[rows]) for v, (a, b) in means.items()}
        return rho[large] - rho[small]

    rng, count = np.random.default_rng(0), len(tables[0])
    questions = np.array(job["question"])
    draws = [gain(resampled_rows(questions, rng)) for _ in range(resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    mean = float(gain(np.arange(count)))
    return {"task": job["task"], "mean": mean, "low": float(low), "high": float(high)}


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
