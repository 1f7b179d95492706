"""Notebook 06: how far each estimator of influence can be trusted.

Reliability (the same pairs scored on two disjoint validation sets), truth (what retraining says),
adaptive V, planted harm, and use (the metric after DPO on the half that each estimator keeps).
"""

from __future__ import annotations

import numpy as np

from ...engines import derive_seed
from ...influence import (
    ESTIMATORS,
    Scores,
    by_group,
    mean_and_stderr,
    rank_correlation,
    reliability,
    resampled_rows,
)
from ...influence.estimators.one_step_controlled import controlled
from ...influence.estimators.racing import race
from ...report import Comparison, correlation, reach_of
from ...selection import top_share
from ..params import Params
from ..pipeline import ModelRef, Pipeline, read_pairs, read_scores
from ..store import Artifact
from .common import influence_values, pair_stage, q_values, sft_stage, step_size_of
from .scoring import auc

SOUND = "sound alone"
"""The arm that trains on the pairs without planted harm."""


def _fidelity_pairs(pipeline: Pipeline) -> tuple[ModelRef, Artifact]:
    """The model and the pairs that all estimators score: those of the first seed."""
    p = pipeline.params
    model, _ = sft_stage(pipeline, p.seed)
    return model, pipeline.search(
        model, "train", p.fidelity.questions, p.seed, skip=p.sizes.sft_questions
    )


def _scored(
    pipeline: Pipeline, estimator: str, count: int, skip: int, limit: int
) -> tuple[Artifact, Artifact, float]:
    """The search for those pairs, the first `limit` of them scored on `count` validation questions
    after the first `skip`, and the step size; one LoRA for all."""
    model, searched = _fidelity_pairs(pipeline)
    size = step_size_of(pipeline)
    seed = pipeline.params.seed
    scored = pipeline.score(
        model,
        searched,
        size,
        count,
        seed,
        skip=skip,
        limit=limit,
        estimator=estimator,
        lora_seed=derive_seed("fidelity", seed),
    )
    return searched, scored, size


def keys(params: Params) -> list[tuple]:
    """Keys of `fidelity_job`: one for each estimator, task and validation set."""
    names = params.fidelity.validation
    return [(task, name, side) for name in names for task in params.tasks for side in (0, 1)]


def fidelity_job(params: Params, task: str, estimator: str, side: int) -> dict:
    """Notebook 06: one estimator's scores of the first seed's pairs on one of two disjoint
    validation sets."""
    pipeline = Pipeline(params, task)
    f = pipeline.params.fidelity
    count = f.validation[estimator]
    searched, scored, size = _scored(
        pipeline, estimator, count, side * max(f.validation.values()), f.pairs
    )
    scores, cost, pairs = (
        read_scores(scored, searched),
        scored.manifest["cost"],
        pipeline.pairs(searched)[: f.pairs],
    )
    return {
        "task": task,
        "estimator": estimator,
        "side": side,
        "V": count,
        "table": scores.per_question.tolist(),
        "cost": scores.cost,
        "seconds": cost["seconds"],
        "step_size": size,
        "question": [pair.question_id for pair in pairs],
        "family": [pair.meta["family"] for pair in pairs],
        "harmful": [pair.meta["harmful"] for pair in pairs],
        "q": [pair.q_chosen for pair in pairs],
    }


def centred(scores: Scores) -> Scores:
    """Scores less the mean of all pairs. A question's score is the sum over its pairs: an offset
    that all pairs share would make it repeat by the number of its pairs alone."""
    table = scores.per_question - np.nanmean(scores.per_question, axis=0, keepdims=True)
    return Scores(scores.estimator, *mean_and_stderr(table), scores.cost, table)


def fidelity_rows(
    jobs: list[dict], shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
) -> list[dict]:
    """Test-retest rank correlation of every estimator, for several V, by `unit`: a pair; a
    question's pairs together; the same of centred scores.

    `seconds` of the largest V are measured; those of a smaller V, taken from the same run, are its
    share of them, so that what does not grow with V (loading, the pairs' gradients) counts too
    little there.
    """
    rows = []
    for task, name in dict.fromkeys((job["task"], job["estimator"]) for job in jobs):
        first, second = (
            next(j for j in jobs if (j["task"], j["estimator"], j["side"]) == (task, name, side))
            for side in (0, 1)
        )
        tables, groups = [np.array(job["table"]) for job in (first, second)], first["question"]
        # A race's questions differ by pair, and a controlled table holds the mean of all: only the
        # whole can be compared.
        whole = not ESTIMATORS[name].columns_are_questions
        for count in sorted(
            {max(2, round(share * first["V"])) for share in ((1.0,) if whole else shares)}
        ):
            share = count / first["V"]
            columns = [table[:, : max(2, round(share * table.shape[1]))] for table in tables]
            seconds = share * (first["seconds"] + second["seconds"]) / 2
            scored = [Scores(name, *mean_and_stderr(part), per_question=part) for part in columns]
            # A race's questions differ by pair, so its columns have no common mean to take off.
            even = scored if whole else [centred(s) for s in scored]
            units = {
                "pair": scored,
                "question": [by_group(s, groups) for s in scored],
                "question, centred": [by_group(s, groups) for s in even],
            }
            for unit, (a, b) in units.items():
                labels = groups if unit == "pair" else None
                found = rank_correlation(a.value, b.value, labels)
                rows.append(
                    {
                        "task": task,
                        "estimator": name,
                        "unit": unit,
                        "V": count,
                        "mean": found["rho"],
                        "low": found["low"],
                        "high": found["high"],
                        "n": found["n"],
                        "seconds": seconds,
                        "ties": a.tie_share,
                    }
                )
    return rows


def pooled_scores(jobs: list[dict], task: str) -> dict[str, Scores]:
    """Scores of every estimator on both validation sets pooled; Q-values beside them."""
    own = [job for job in jobs if job["task"] == task]
    found = {}
    for name in dict.fromkeys(job["estimator"] for job in own):
        table = np.concatenate(
            [np.array(job["table"]) for job in own if job["estimator"] == name], axis=1
        )
        found[name] = Scores(name, *mean_and_stderr(table), per_question=table)
    q = np.array(own[0]["q"])
    return found | {
        "q_value": Scores("q_value", q, np.full(len(q), np.nan), per_question=q[:, None])
    }


def fidelity_harm_rows(jobs: list[dict], resamples: int = 500) -> list[dict]:
    """AUC of every estimator (both sets pooled) and of Q against planted harm, a pair and a
    question's pairs together, with 95 % bootstrap intervals over questions."""
    rows = []
    for task in dict.fromkeys(job["task"] for job in jobs):
        job = next(j for j in jobs if j["task"] == task)
        groups, harmful = job["question"], np.array(job["harmful"])
        names = list(dict.fromkeys(groups))
        of_group = np.array([harmful[groups.index(name)] for name in names])
        for name, scores in pooled_scores(jobs, task).items():
            units = {
                "pair": (scores.value, harmful, np.array(groups)),
                "question": (by_group(scores, groups).value, of_group, np.array(names)),
            }
            for unit, (value, bad, labels) in units.items():
                rng = np.random.default_rng(0)
                drawn = [resampled_rows(labels, rng) for _ in range(resamples)]
                draws = [auc(value[rows_], bad[rows_]) for rows_ in drawn]
                low, high = np.nanpercentile(draws, [2.5, 97.5])
                rows.append(
                    {
                        "task": task,
                        "score": name,
                        "unit": unit,
                        "AUC": auc(value, bad),
                        "low": low,
                        "high": high,
                        "harmful": int(bad.sum()),
                        "n": len(bad),
                    }
                )
    return rows


def agreement_rows(jobs: list[dict]) -> list[dict]:
    """Rank correlation of every estimator and of Q with one-step influence, both validation sets
    pooled, a question's pairs together."""
    rows = []
    for task in dict.fromkeys(job["task"] for job in jobs):
        groups = next(job["question"] for job in jobs if job["task"] == task)
        pooled = {
            name: by_group(scores, groups).value
            for name, scores in pooled_scores(jobs, task).items()
        }
        rows += [
            {
                "task": task,
                "estimator": name,
                "against": "one_step",
                **rank_correlation(value, pooled["one_step"]),
            }
            for name, value in pooled.items()
            if name != "one_step" and "one_step" in pooled
        ]
    return rows


def cheapest_rows(rows: list[dict], wanted: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8)) -> list[dict]:
    """The cheapest estimator whose reliability reaches each wanted value; empty where none did."""
    found = []
    for task, unit in dict.fromkeys((row["task"], row["unit"]) for row in rows):
        for value in wanted:
            able = [
                row
                for row in rows
                if (row["task"], row["unit"]) == (task, unit) and row["mean"] >= value
            ]
            best = min(able, key=lambda row: row["seconds"], default=None)
            found.append(
                {
                    "task": task,
                    "unit": unit,
                    "reliability": value,
                    "estimator": best["estimator"] if best else "none here",
                    "V": best["V"] if best else None,
                    "seconds": best["seconds"] if best else float("nan"),
                }
            )
    return found


def race_job(params: Params, task: str) -> dict:
    """One-step influence of `race_pairs` pairs on `race_questions` validation questions: the table
    that races are run on afterwards."""
    pipeline = Pipeline(params, task)
    f = pipeline.params.fidelity
    searched, scored, _ = _scored(pipeline, "one_step", f.race_questions, 0, f.race_pairs)
    return {"task": task, "table": read_scores(scored, searched).per_question.tolist()}


def race_rows(
    jobs: list[dict], alpha: float, batch: int, errors: tuple[float, ...] = (0.05, 0.1, 0.3, 0.6)
) -> list[dict]:
    """Races on a full table: the share of its plays that they made, and how much of the top alpha
    by the full table they kept; beside them what as many questions for all pairs alike would have
    kept. Agreement is the mean over random tie breaks that the two sides do not share."""
    rows = []
    for job in jobs:
        table = np.array(job["table"])
        count, questions = table.shape

        def agreement(values: np.ndarray) -> float:
            whole = Scores("whole", table.mean(1).round(9), np.zeros(count))
            return reliability(Scores("part", values.round(9), np.zeros(count)), whole, alpha)[
                "overlap"
            ]

        for error in errors:
            raced = race(
                lambda live, columns: table[np.ix_(live, columns)],
                count,
                questions,
                batch,
                alpha,
                error,
            )
            share = float((~np.isnan(raced)).mean())
            alike = max(2, round(share * questions))
            rows.append(
                {
                    "task": job["task"],
                    "error": error,
                    "V": questions,
                    "pairs": count,
                    "played": share,
                    "same top half": agreement(np.nanmean(raced, axis=1)),
                    "alike": agreement(table[:, :alike].mean(1)),
                    "chance": max(1, round(alpha * count)) / count,
                }
            )
        third = table[:, : questions // 3].mean(1)
        rows.append(
            {
                "task": job["task"],
                "error": float("nan"),
                "V": questions // 3,
                "pairs": count,
                "played": 1 / 3,
                "same top half": float("nan"),
                "alike": agreement(third),
                "chance": max(1, round(alpha * count)) / count,
            }
        )
    return rows


def controlled_rows(jobs: list[dict]) -> list[dict]:
    """What the policy gradient as a control variate does for one-step influence: variance left, and
    test-retest correlation with and without."""
    rows = []
    for task in dict.fromkeys(job["task"] for job in jobs):
        own = {(j["estimator"], j["side"]): np.array(j["table"]) for j in jobs if j["task"] == task}
        if (
            ("one_step", 0) not in own
            or ("policy_gradient", 0) not in own
            or own["policy_gradient", 0].shape[1] < own["one_step", 0].shape[1]
        ):
            continue
        groups = next(j["question"] for j in jobs if j["task"] == task)
        pairs = [controlled(own["one_step", side], own["policy_gradient", side]) for side in (0, 1)]
        plain = rank_correlation(own["one_step", 0].mean(1), own["one_step", 1].mean(1), groups)
        better = rank_correlation(pairs[0][0].mean(1), pairs[1][0].mean(1), groups)
        rows += [
            {
                "task": task,
                "score": name,
                "V": own["one_step", 0].shape[1],
                "variance left": left,
                "mean": r["rho"],
                "low": r["low"],
                "high": r["high"],
            }
            for name, left, r in (
                ("one_step", 1.0, plain),
                ("controlled", float(np.mean([left for _, left, _ in pairs])), better),
            )
        ]
    return rows


def truth_job(params: Params, task: str, kind: str, index: int) -> dict:
    """Retrain on a part of the pairs and measure the metric on test questions.

    Args:
        kind: `half`, a random half of the searched questions (by `index`); `without`, all but the
            family of this index; `all`.
    """
    pipeline = Pipeline(params, task)
    p, seed = pipeline.params, pipeline.params.seed
    model, searched = _fidelity_pairs(pipeline)
    pairs = pipeline.pairs(searched)[: p.fidelity.pairs]
    labels = np.array(
        [pair.meta["family"] if kind == "without" else pair.question_id for pair in pairs]
    )
    names = np.unique(labels)
    chosen = (
        names
        if kind == "all"
        else np.delete(names, index)
        if kind == "without"
        else np.random.default_rng([seed, 11, index]).permutation(names)[: len(names) // 2]
    )
    kept = np.flatnonzero(np.isin(labels, chosen))
    metric = pipeline.evaluate(pipeline.dpo(model, searched, kept, seed), seed)
    return {
        "task": task,
        "kind": kind,
        "index": index,
        "kept": kept.tolist(),
        "metric": metric.tolist(),
        "left_out": names[index] if kind == "without" else "",
    }


def half_keys(params: Params) -> list[tuple]:
    """Keys of `truth_job` for the halves and for all pairs; none where no truth is asked for."""
    count = params.fidelity.subsets
    parts = [*(("half", index) for index in range(count)), ("all", 0)] if count else []
    return [(task, *part) for task in params.tasks for part in parts]


def families(jobs: list[dict], task: str) -> int:
    """How many question families the scored pairs of a task have."""
    return len(set(next(job["family"] for job in jobs if job["task"] == task)))


def lds_rows(jobs: list[dict], truths: list[dict]) -> list[dict]:
    """Linear datamodelling score (Ilyas et al., 2022; Park et al., 2023): rank correlation, over
    random halves of the data, between the mean score of a half and the metric after training on it
    (the mean, since every half trains for the same number of steps). The row `ceiling` is what
    noise lets a perfect score reach: sqrt(2 r / (1 + r)), r the correlation of the metrics on two
    halves of the test questions."""
    rows = []
    for task in dict.fromkeys(job["task"] for job in jobs):
        halves = [t for t in truths if t["task"] == task and t["kind"] == "half"]
        measured = np.array([np.mean(t["metric"]) for t in halves])
        odd, even = (np.array([np.mean(t["metric"][start::2]) for t in halves]) for start in (0, 1))
        again = rank_correlation(odd, even)
        reach = {key: reach_of(again[key]) for key in ("rho", "low", "high")}
        rows.append({"task": task, "estimator": "ceiling", **reach, "n": again["n"]})
        for name, scores in pooled_scores(jobs, task).items():
            predicted = np.array([scores.value[t["kept"]].mean() for t in halves])
            rows.append({"task": task, "estimator": name, **rank_correlation(predicted, measured)})
    return rows


def lds_comparison(
    jobs: list[dict], truths: list[dict], task: str, estimator: str, lower: float, upper: float
) -> Comparison:
    """The linear datamodelling score of an estimator, or of `q_value`, as a comparison, claimed to
    lie between `lower` and `upper`. What noise of the metrics leaves of it is found from the two
    halves of the test questions, at the lower end of a 95 % interval."""
    halves = [t for t in truths if t["task"] == task and t["kind"] == "half"]
    measured, odd, even = (
        [np.mean(t["metric"][start::step]) for t in halves]
        for start, step in ((0, 1), (0, 2), (1, 2))
    )
    scores = pooled_scores(jobs, task)[estimator].value
    predicted = [scores[t["kept"]].mean() for t in halves]
    again = correlation(task, "repeatability", odd, even).interval(0.95)
    name = f"mean {estimator} of a half with the metric after training on it (LDS)"
    bounds = {"lower": lower, "upper": upper, "reach": reach_of(again["low"])}
    return correlation(task, name, predicted, measured, **bounds)


def left_out_rows(jobs: list[dict], truths: list[dict]) -> list[dict]:
    """Leave one family out: the metric with all pairs minus that without the family (paired by test
    question, 95 % interval), and the mean score of the family's pairs by every estimator, in
    standard deviations of its scores."""
    rows = []
    for task in dict.fromkeys(job["task"] for job in jobs):
        whole = np.array(
            next(t["metric"] for t in truths if t["task"] == task and t["kind"] == "all")
        )
        labels = np.array(next(job["family"] for job in jobs if job["task"] == task))
        for truth in (t for t in truths if t["task"] == task and t["kind"] == "without"):
            gain = whole - np.array(truth["metric"])
            half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
            inside = labels == truth["left_out"]
            scores = {
                name: float((s.value[inside].mean() - s.value.mean()) / (s.value.std() or 1))
                for name, s in pooled_scores(jobs, task).items()
            }
            rows.append(
                {
                    "task": task,
                    "family": truth["left_out"],
                    "pairs": int(inside.sum()),
                    "mean": float(gain.mean()),
                    "low": float(gain.mean() - half),
                    "high": float(gain.mean() + half),
                    **scores,
                }
            )
    return rows


def _share(marked: np.ndarray) -> float:
    """Mean of marks; NaN where there are none."""
    return float(marked.mean()) if len(marked) else float("nan")


def use_keys(params: Params) -> list[tuple]:
    """Keys of `use_job`: one for each seed and task."""
    first, count = params.fidelity.first_use_seed, params.fidelity.use_seeds
    return [(task, seed) for seed in range(first, first + count) for task in params.tasks]


CLAIMS_OF_USE = {
    "policy_gradient": "2p",
    "tree_policy_gradient": "2p",
    "bergson_trackstar": "2p",
    "bergson_ekfac": "2p",
    "through_training": "2t",
}
"""The claim that the half by an estimator speaks of, where that is not the paper's own, `2`."""
OF_NO_CLAIM = ("dpo_loss", "along_training")
"""Estimators whose halves are trained and shown, and decide no claim: the classic one, and that
along the training, which is neither the paper's nor one of those that 2p and 2t name."""


def used_for(params: Params) -> dict[str, list[str]]:
    """{claim: the estimators of `fidelity.use` whose halves speak of it}."""
    found: dict[str, list[str]] = {}
    for name in params.fidelity.use:
        if name not in OF_NO_CLAIM:
            found.setdefault(CLAIMS_OF_USE.get(name, "2"), []).append(name)
    return found


def use_arms(params: Params) -> list[str]:
    """What `use_job` compares; `SOUND` only where harm was planted."""
    halves = [arm for name in params.fidelity.use for arm in (name, f"{name}, reversed")]
    return ["sft", "full", "random", *halves, "q_value", SOUND]


def use_score_job(params: Params, task: str, seed: int, estimator: str) -> None:
    """The scores of `use_job` by one estimator, for what is computed ahead."""
    pipeline = Pipeline(params, task)
    model, _ = sft_stage(pipeline, seed)
    _use_values(pipeline, model, pair_stage(pipeline, model, seed), seed, estimator)


def use_arm_job(params: Params, task: str, seed: int, arm: str) -> None:
    """One of `use_arms`, trained and tested, for what is computed ahead."""
    pipeline = Pipeline(params, task)
    if arm == "sft":  # without a score
        trained = {arm: sft_stage(pipeline, seed)[0]}
    else:
        model, searched, kept, _ = _use_kept(pipeline, seed)
        trained = _use_models(pipeline, seed, model, searched, kept, [arm])
    for found in trained.values():
        pipeline.evaluate(found, seed)


def _use_models(
    pipeline: Pipeline,
    seed: int,
    sft: ModelRef,
    searched: Artifact,
    kept: dict[str, np.ndarray],
    arms: list[str],
) -> dict[str, ModelRef]:
    """The models of some of `use_arms`, of those that this search has."""
    return {
        arm: sft if arm == "sft" else pipeline.dpo(sft, searched, kept[arm], seed)
        for arm in arms
        if arm == "sft" or arm in kept
    }


def _use_values(
    pipeline: Pipeline, model: ModelRef, searched: Artifact, seed: int, estimator: str
) -> np.ndarray:
    size = step_size_of(pipeline)
    count = pipeline.params.fidelity.use[estimator]
    return influence_values(pipeline, model, searched, size, count, seed, estimator=estimator)


def _use_kept(
    pipeline: Pipeline, seed: int
) -> tuple[ModelRef, Artifact, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The SFT model, the search, the pairs that each arm keeps, and the values of every score."""
    use, alpha = pipeline.params.fidelity.use, pipeline.params.selection.alpha
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    harmful = _harmful(searched)
    values = {name: _use_values(pipeline, model, searched, seed, name) for name in use}
    values["q_value"] = q_values(searched)
    ties = np.random.default_rng([seed, 1])
    everything = np.arange(len(harmful))
    arms = {"full": everything, "random": top_share(np.zeros(len(harmful)), alpha, ties)}
    for number, (name, value) in enumerate(values.items()):
        ties = np.random.default_rng([seed, 2, number])
        arms[name] = top_share(value, alpha, ties)
        if name in use:
            arms[f"{name}, reversed"] = top_share(-value, alpha, ties)
    if harmful.any():
        arms[SOUND] = np.flatnonzero(~harmful)
    return model, searched, arms, values


def _harmful(searched: Artifact) -> np.ndarray:
    """Whether each pair of a search comes from a question with planted harm, [n_pairs]."""
    return np.array([pair.meta["harmful"] for pair in read_pairs(searched)], dtype=bool)


def use_job(params: Params, task: str, seed: int) -> dict:
    """The metric after DPO on the half that each estimator keeps, at equal steps, for one seed:
    search, SFT, scores, training and test questions are all the seed's own. Where a seed after the
    first finds no pairs, every arm is the SFT model."""
    pipeline = Pipeline(params, task)
    model, searched, arms, values = _use_kept(pipeline, seed)
    harmful = _harmful(searched)
    models = _use_models(pipeline, seed, model, searched, arms, use_arms(params))
    metric = {name: pipeline.evaluate(m, seed) for name, m in models.items()}
    return {
        "task": task,
        "seed": seed,
        "pairs": len(harmful),
        "harmful": _share(harmful),
        "metric": {name: float(values.mean()) for name, values in metric.items()},
        "by_question": {name: values.tolist() for name, values in metric.items()},
        "artifact": {name: pipeline.evaluation(m, seed).name for name, m in models.items()},
        "harmful_kept": {name: _share(harmful[kept]) for name, kept in arms.items()},
        "auc": {name: auc(value, harmful) for name, value in values.items()},
    }
