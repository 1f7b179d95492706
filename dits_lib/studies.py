"""The experiments of the notebooks, as jobs that run side by side: one job a task and seed.

A job returns plain numbers; all heavy results stay in the store, so a job that is asked for again is nearly free.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu, spearmanr

from .agents import LIMIT
from .engines import derive_seed
from .influence import Scores, mean_and_stderr, rank_correlation, reliability, resampled_rows
from .lab import Lab, ModelRef, read_pairs, read_scores, read_trees
from .params import ROOT, Params, check_params
from .parallel import run_jobs
from .search import Tree
from .selection import ARMS, combined_score, select_arm, top_share
from .store import USED, Artifact
from .tasks import DataError


METHODS = ("DITS-iSFT-DPO", "Optima-iSFT-DPO")
"""Of notebook 05."""


def run_study(job, params: Params, keys: list[tuple], label: str) -> tuple[list, list[str]]:
    """Run `job(params, *key)` for every key, on `params.workers` processes.

    Returns the results in the order of the keys, and the artifacts (folder names) behind them, for the ledger.
    """
    raw = params.model_dump()
    done = run_jobs(_recorded, [(job, raw, *key) for key in keys], params.workers, label)
    return [result for result, _ in done], sorted({name for _, used in done for name in used})


def _recorded(job, raw: dict, *key) -> tuple:
    USED.clear()
    return job(raw, *key), sorted(USED)


def run_ahead(params: Params, notebooks: list[str]) -> int:
    """Compute what several notebooks of one part of a profile (`Params.parts`) ask for, on one set of processes: a model that is slow to
    start, as in vLLM, then starts once in each process, not again in every notebook.

    Returns how many jobs failed; the notebook of each meets the same error and tells it.
    """
    raw = params.model_dump()
    wanted = [pair for name in STUDIES if name in notebooks for pair in _jobs_ahead(name, params)]
    # What most of them begin with comes first: later jobs wait for a stage that another process is making.
    seeds = dict.fromkeys([params.seed, *(part for _, key in wanted for part in key if isinstance(part, int))])
    shared = [(start_job, (task, seed)) for seed in seeds for task in params.tasks]
    # Processes that would only wait meanwhile start their engine.
    idle = [(engine_job, (params.tasks[0],))] * max(0, params.workers - len(shared))
    wanted = [*shared, *idle, *wanted]
    done = run_jobs(_attempted, [(job, raw, *key) for job, key in wanted], params.workers, "all notebooks", apart=True)
    return done.count(False)


def _jobs_ahead(notebook: str, params: Params) -> list[tuple]:
    """(job, key) of a notebook, cut finer where that makes no stage twice: on many processes the longest job decides."""
    job, keys = STUDIES[notebook]
    if job is ablation_job:
        return [(arm_job, (*key, arm)) for key in keys(params) for arm in arms_of(params)]
    if job is iterations_job:  # both methods begin alike; side by side one would wait for the other
        return [(job, key) for key in sorted(keys(params), key=lambda key: METHODS.index(key[1]))]
    return [(job, key) for key in keys(params)]


def _attempted(job, raw: dict, *key) -> bool:
    try:
        job(raw, *key)
    except Exception:  # whatever it is, it comes again where it can be told with its notebook's name
        return False
    return True


def lab_of(raw: dict, task: str) -> Lab:
    return Lab(check_params(raw, "parameters"), task)


def sft_stage(lab: Lab, seed: int) -> tuple[ModelRef, Artifact]:
    """Search with the base model (after its warm start, if any), then SFT on the best dialogues: where every DPO run starts.

    Raises:
        DataError: when the first seed finds no dialogue to train on; another seed then keeps its model.
    """
    start = lab.start_model(seed)
    searched = lab.search(start, "train", lab.params.sizes.sft_questions, seed)
    if seed == lab.params.seed and not searched.rows("sft.jsonl"):
        raise DataError(f"{lab.task}: the search found no dialogue with a reward above sft.min_reward; lower it, or search more questions")
    return lab.sft(start, [searched], seed), searched


def pair_stage(lab: Lab, model: ModelRef, seed: int) -> Artifact:
    """Search with the SFT model, on other training questions.

    Raises:
        DataError: when the first seed finds no pairs; with no pairs of another seed, all its arms in 03 to 05 and 08 are the SFT model.
    """
    sizes = lab.params.sizes
    searched = lab.search(model, "train", sizes.train_questions, seed, skip=sizes.sft_questions)
    if seed == lab.params.seed:
        lab.pairs(searched)
    return searched


def q_values(searched: Artifact) -> np.ndarray:
    return np.array([pair.q_chosen for pair in read_pairs(searched)])


def influence_values(lab: Lab, model: ModelRef, searched: Artifact, step_size: float, count: int, seed: int, **options) -> np.ndarray:
    """`Lab.score` of the pairs of a search [n_pairs]; nothing is scored where there are none."""
    if not read_pairs(searched):
        return np.zeros(0)
    return read_scores(lab.score(model, searched, step_size, count, seed, **options)).value


def classic_values(lab: Lab, model: ModelRef, searched: Artifact, step_size: float, seed: int) -> np.ndarray:
    """`Lab.dpo_loss` against the pairs of validation questions [n_pairs]; zeros, so a random order, where those gave none."""
    validation = lab.search(model, "validation", lab.params.sizes.loss_questions, seed)
    if not read_pairs(searched) or not read_pairs(validation):
        return np.zeros(len(read_pairs(searched)))
    return read_scores(lab.dpo_loss(model, searched, validation, step_size, seed)).value


def step_size_of(lab: Lab) -> tuple[float, list[dict]]:
    """The influence step of a task, chosen once, with the first seed's SFT model and pairs, on development questions; and
    the table behind the choice. All seeds and rounds take it, so that their influences have one unit."""
    seed = lab.params.seed
    model, _ = sft_stage(lab, seed)
    return lab.step_size(model, pair_stage(lab, model, seed), seed)


def start_job(raw: dict, task: str, seed: int) -> None:
    """What the studies of a seed begin with: SFT; of the first seed, also the step size and the pairs that it is chosen by."""
    lab = lab_of(raw, task)
    sft_stage(lab, seed)
    if seed == lab.params.seed:
        step_size_of(lab)


def engine_job(raw: dict, task: str) -> None:
    """Start what speaks in this process."""
    lab = lab_of(raw, task)
    lab.engine(lab.base_model())


def data_rows(params: Params) -> list[dict]:
    """One row a task and split: which questions serve it, from where, and a hash of them (public data)."""
    rows = []
    for task in params.tasks:
        data = params.data.splits(task)
        own = params.world.questions or f"the micro {'web' if task == 'deep_search' else 'world'}, drawn by rule"
        for split, need in params.questions_needed().items():
            source = data[split].source.removeprefix(f"{ROOT}/") if data else own
            row = {"task": task, "split": split, "source": source, "asked_for": need}
            if data is not None:
                row |= {"there": len(data[split].questions), "left_out_as_repeats": data[split].repeats, "hash": data[split].digest}
            rows.append(row)
    return rows


def rollout_job(raw: dict, task: str) -> dict:
    """Notebook 01: the two searches of the first seed."""
    lab = lab_of(raw, task)
    seed = lab.params.seed
    model, base_search = sft_stage(lab, seed)
    searched = pair_stage(lab, model, seed)
    counts = [
        {"task": task, "policy": name, "questions": len(a.rows("trees.jsonl")), "pairs": len(a.rows("pairs.jsonl")),
         "prompt_tokens": a.manifest["cost"]["prompt_tokens"], "generated_tokens": a.manifest["cost"]["generated_tokens"]}
        for name, a in (("base", base_search), ("SFT", searched))
    ]
    return {"task": task, "searched": str(searched.path), "counts": counts}


def scoring_job(raw: dict, task: str) -> dict:
    """Notebook 02: scores of the first seed's pairs, twice on disjoint validation sets, and the classic influence."""
    lab = lab_of(raw, task)
    seed, scoring = lab.params.seed, lab.params.scoring
    model, _ = sft_stage(lab, seed)
    searched = pair_stage(lab, model, seed)
    size, response = step_size_of(lab)
    first = read_scores(lab.score(model, searched, size, scoring.retest_questions, seed, limit=scoring.pairs, estimator="one_step"))
    second = read_scores(
        lab.score(model, searched, size, scoring.retest_questions, seed, skip=scoring.retest_questions, limit=scoring.pairs, estimator="one_step")
    )
    validation = lab.search(model, "validation", lab.params.sizes.loss_questions, seed)
    classic = read_scores(lab.dpo_loss(model, searched, validation, size, seed))
    pairs = lab.pairs(searched)[: scoring.pairs]
    return {
        "task": task, "step_size": size, "response": response, "question": [p.question_id for p in pairs], "family": [p.meta["family"] for p in pairs],
        "harmful": [p.meta["harmful"] for p in pairs], "q": [p.q_chosen for p in pairs],
        "first": first.per_question.tolist(), "second": second.per_question.tolist(), "classic": classic.value[: len(pairs)].tolist(),
        "cost": {"one-step": first.cost, "DPO loss": classic.cost},
    }


def influence_table(job: dict) -> np.ndarray:
    """One-step influence of a scoring job [pairs, questions], both validation sets side by side."""
    return np.concatenate([np.array(job["first"]), np.array(job["second"])], axis=1)


def reliability_rows(job: dict, counts: list[int], alpha: float) -> list[dict]:
    """Test-retest agreement of one-step scores for several V, from the two disjoint validation sets of a scoring job."""
    rows = []
    for count in counts:
        halves = []
        for name in ("first", "second"):
            table = np.array(job[name])[:, :count]
            halves.append(Scores("one_step", *mean_and_stderr(table)))
        row = reliability(*halves, alpha=alpha, groups=job["question"])
        zero = float(np.mean(halves[0].value == 0))
        rows.append({"task": job["task"], "V": count, **row, "ties": halves[0].tie_share, "zero": zero})
    return rows


def gain_of_v(job: dict, small: int, large: int, resamples: int = 500) -> dict:
    """Test-retest rank correlation at V = `large` minus that at V = `small`, with a 95 % bootstrap interval over the questions."""
    tables = [np.array(job["first"]), np.array(job["second"])]
    means = {v: [table[:, :v].mean(axis=1) for table in tables] for v in (small, large)}

    def gain(rows: np.ndarray) -> float:
        # Rows are whole questions' pairs, as in the other intervals.
        rho = {v: spearmanr(a[rows], b[rows]).statistic if a[rows].std() and b[rows].std() else 0.0 for v, (a, b) in means.items()}
        return rho[large] - rho[small]

    rng, count = np.random.default_rng(0), len(tables[0])
    draws = [gain(resampled_rows(np.array(job["question"]), rng)) for _ in range(resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"task": job["task"], "mean": float(gain(np.arange(count))), "low": float(low), "high": float(high)}


def correlation_row(job: dict, against: str) -> dict:
    """Rank correlation of the one-step influence (all validation questions) with `q` or `classic`."""
    value = influence_table(job).mean(axis=1)
    return {"task": job["task"], "against": against, **rank_correlation(value, np.array(job[against]), job["question"])}


def auc(score: np.ndarray, harmful: np.ndarray) -> float:
    """Chance that a sound item scores above a harmful one, ties counted half; NaN without both kinds."""
    sound, bad = score[~harmful], score[harmful]
    return float(mannwhitneyu(sound, bad).statistic / (len(sound) * len(bad))) if len(sound) and len(bad) else float("nan")


def harm_row(job: dict, name: str) -> dict:
    """How well a score tells planted harm: the AUC of `influence`, `classic` or `q`."""
    influence = influence_table(job).mean(axis=1)
    score, harmful = {"influence": influence}.get(name, np.array(job.get(name))), np.array(job["harmful"])
    return {"task": job["task"], "score": name, "AUC": auc(score, harmful), "harmful pairs": int(harmful.sum()), "pairs": len(harmful)}


SMALL = "gamma_0_small"
"""The arm of highest influence that keeps `selection.small_alpha` of the pairs."""


def arms_of(params: Params) -> tuple[str, ...]:
    """What notebook 03 compares: models before DPO, then one a selection."""
    before = ("base", "sft") if params.sft.warm_start == "none" else ("base", "warm_start", "sft")
    return (*before, *ARMS, SMALL)


def selection_stage(lab: Lab, seed: int) -> tuple[ModelRef, Artifact, dict[str, np.ndarray]]:
    """The SFT model, the search that gave the pairs, and which of them each arm keeps."""
    p = lab.params
    model, _ = sft_stage(lab, seed)
    searched = pair_stage(lab, model, seed)
    size, _ = step_size_of(lab)
    influence = influence_values(lab, model, searched, size, p.influence.validation_questions, seed)
    classic, q_value = classic_values(lab, model, searched, size, seed), q_values(searched)
    kept = {}
    for arm in ARMS:
        rng = np.random.default_rng([seed, len(arm), abs(derive_seed(arm)) % 2**32])
        kept[arm] = select_arm(arm, p.selection.alpha, rng, q_value, influence, classic)
    kept[SMALL] = top_share(influence, p.selection.small_alpha, np.random.default_rng([seed, 7]))
    return model, searched, kept


def trained_arms(lab: Lab, seed: int, arms: tuple[str, ...]) -> dict[str, ModelRef]:
    """The models of some of `arms_of`; pairs are searched and scored only if one of the arms selects among them."""
    before = {"base": lab.base_model, "warm_start": lambda: lab.start_model(seed), "sft": lambda: sft_stage(lab, seed)[0]}
    if set(arms) <= set(before):
        return {arm: before[arm]() for arm in arms}
    model, searched, kept = selection_stage(lab, seed)
    return {arm: before[arm]() if arm in before else lab.dpo(model, searched, kept[arm], seed) for arm in arms}


def arm_job(raw: dict, task: str, seed: int, arm: str) -> None:
    """One arm of `ablation_job`, for what is computed ahead."""
    lab = lab_of(raw, task)
    lab.evaluate(trained_arms(lab, seed, (arm,))[arm], seed)


def ablation_job(raw: dict, task: str, seed: int) -> dict:
    """Notebook 03: SFT and every arm for one seed. Returns the metric by arm, drift, and the number of pairs."""
    lab = lab_of(raw, task)
    models = trained_arms(lab, seed, arms_of(lab.params))
    return {
        "task": task, "seed": seed, "pairs": len(q_values(pair_stage(lab, models["sft"], seed))),
        "drift": {arm: _drift(models[arm]) for arm in (*ARMS, SMALL)},
        "metric": {arm: float(lab.evaluate(trained, seed).mean()) for arm, trained in models.items()},
        "endings": {arm: lab.endings(trained, seed) for arm, trained in models.items()},
    }


def _drift(trained: ModelRef) -> dict:
    """Of a model after DPO; zero where no pair was there to train on."""
    file = Path(trained.path).parent / "drift.json"
    last = json.loads(file.read_text())[-1] if file.exists() else {}
    return {name: last.get(name, 0.0) for name in ("drift_chosen", "drift_rejected")}


def budget_job(raw: dict, task: str, seed: int) -> list[dict]:
    """Notebook 04: tokens spent, on more search (Optima) or on influence (DITS), against the metric after DPO on half."""
    lab = lab_of(raw, task)
    p = lab.params
    model, _ = sft_stage(lab, seed)
    rows = []
    for count in p.budget.q_questions:
        searched = lab.search(model, "train", count, seed, skip=p.sizes.sft_questions)
        q_value = q_values(searched)
        kept = top_share(q_value, p.selection.alpha, np.random.default_rng([seed, count]))
        rows.append(_budget_row(lab, "Q-values", count, 0, model, searched, kept, seed, _tokens(searched)))
    searched = lab.search(model, "train", p.budget.dits_questions, seed, skip=p.sizes.sft_questions)
    size, _ = step_size_of(lab)
    spent = [("influence", None, v, [seed, v]) for v in p.budget.validation]
    spent += [(name, name, v, [seed, v, number]) for number, (name, v) in enumerate(p.budget.estimators.items())]
    for label, estimator, v, ties in spent:
        value = influence_values(lab, model, searched, size, v, seed, estimator=estimator)
        kept = top_share(value, p.selection.alpha, np.random.default_rng(ties))
        tokens = _tokens(searched) + (_tokens(lab.score(model, searched, size, v, seed, estimator=estimator)) if len(value) else 0)
        rows.append(_budget_row(lab, label, p.budget.dits_questions, v, model, searched, kept, seed, tokens))
    return rows


def _tokens(artifact: Artifact) -> int:
    return artifact.manifest["cost"]["generated_tokens"]


def _budget_row(lab: Lab, spent_on: str, questions: int, v: int, model, searched, kept, seed: int, tokens: int) -> dict:
    metric = float(lab.evaluate(lab.dpo(model, searched, kept, seed), seed).mean())
    return {
        "task": lab.task, "seed": seed, "spent_on": spent_on, "questions": questions, "V": v, "pairs": len(kept),
        "generated_tokens": tokens, "metric": metric,
    }


def iterations_job(raw: dict, task: str, method: str, seed: int) -> list[dict]:
    """Notebook 05: rounds of search, score, select, SFT and DPO, for `DITS-iSFT-DPO` or `Optima-iSFT-DPO`.

    Each round searches with the last round's model (round 1: with the first SFT model), trains SFT from the first SFT
    model on the best dialogues found, and DPO from there on the selected pairs. DITS selects by influence plus Q-value;
    Optima keeps the half of highest Q and needs no scores.
    """
    lab = lab_of(raw, task)
    p = lab.params
    first_sft, _ = sft_stage(lab, seed)
    policy, rows, size = first_sft, [], step_size_of(lab)[0]
    rows.append({"task": task, "method": method, "seed": seed, "round": 0, "metric": float(lab.evaluate(first_sft, seed).mean())})
    for number in range(1, p.iterations.rounds + 1):
        skip = p.sizes.sft_questions + p.sizes.train_questions + (number - 1) * p.iterations.questions
        searched = lab.search(policy, "train", p.iterations.questions, seed, skip=skip)
        start = lab.sft(first_sft, [searched], seed)
        score = q_values(searched)
        row = {"task": task, "method": method, "seed": seed, "round": number, "pairs": len(score)}
        if method.startswith("DITS"):
            v = p.influence.validation_questions
            influence = influence_values(lab, start, searched, size, v, seed, skip=number * v)
            score = combined_score(influence, score, p.iterations.gamma)
            row |= {
                "influence_mean": float(influence.mean()) if len(influence) else float("nan"),
                "influence_variance": float(influence.var(ddof=1)) if len(influence) > 1 else float("nan"), "step_size": size,
            }
        kept = top_share(score, p.selection.alpha, np.random.default_rng([seed, number]))
        policy = lab.dpo(start, searched, kept, seed)
        rows.append(row | {"metric": float(lab.evaluate(policy, seed).mean())})
    return rows


def sensitivity_job(raw: dict, task: str, seed: int) -> list[dict]:
    """Notebook 07: the metric after DPO on the half of highest score, one setting changed at a time, minus that on a random half.

    The pairs of all filters come from one search: that of the loosest filter, of which a stricter one keeps a part.
    """
    s = check_params(raw, "parameters").sensitivity
    lab = lab_of(raw, task)
    p = lab.params
    loose = {"min_value": min(s.min_value + [p.pairs.min_value]), "min_gap": min(s.min_gap + [p.pairs.min_gap])}
    model, _ = sft_stage(lab, seed)
    size, _ = step_size_of(lab)
    wide = lab_of(raw | {"pairs": loose}, task)
    searched = pair_stage(wide, model, seed)
    pairs, most = wide.pairs(searched), max(s.validation + [p.influence.validation_questions])
    q_value, gap = np.array([pair.q_chosen for pair in pairs]), np.array([pair.q_chosen - pair.q_rejected for pair in pairs])
    table = read_scores(wide.score(model, searched, size, most, seed, estimator="one_step")).per_question

    def influence(v: int) -> np.ndarray:
        return table[:, :v].mean(1).round(9)

    def passing(min_value: float = p.pairs.min_value, min_gap: float = p.pairs.min_gap) -> np.ndarray:
        return np.flatnonzero((q_value > min_value) & (gap > min_gap))

    base, usual = passing(), p.influence.validation_questions
    metric: dict[tuple, float] = {}

    def measured(kept: np.ndarray) -> float:
        if tuple(kept) not in metric:
            metric[tuple(kept)] = float(wide.evaluate(wide.dpo(model, searched, kept, seed), seed).mean())
        return metric[tuple(kept)]

    def row(setting: str, value: float, own: np.ndarray, score: np.ndarray, alpha: float = p.selection.alpha) -> dict:
        kept = own[top_share(score[own], alpha, np.random.default_rng([seed, 3]))]
        return {"task": task, "seed": seed, "setting": setting, "value": value, "pairs": len(kept), "metric": measured(kept)}

    rows = [row("random", 0.0, base, np.zeros(len(pairs)))]
    rows += [row("V", v, base, influence(v)) for v in s.validation]
    rows += [row("alpha", a, base, influence(usual), a) for a in s.alpha]
    for gamma in s.gamma:
        combined = np.zeros(len(pairs))
        combined[base] = combined_score(influence(usual)[base], q_value[base], gamma)
        rows.append(row("gamma", gamma, base, combined))
    for factor in s.step:
        other = table if factor == 1 else read_scores(wide.score(model, searched, factor * size, usual, seed, estimator="one_step")).per_question
        rows.append(row("step size", factor, base, other[:, :usual].mean(1).round(9)))
    rows += [row("min_value", v, passing(min_value=v), influence(usual)) for v in s.min_value if len(passing(min_value=v)) > 1]
    rows += [row("min_gap", v, passing(min_gap=v), influence(usual)) for v in s.min_gap if len(passing(min_gap=v)) > 1]
    return rows


def deep_search_job(raw: dict, seed: int) -> dict:
    """Notebook 08: `ablation_job` for deep search; beside it where the pairs' search lies, their influence by pair, how the tools
    failed, and how the judge's scores of the SFT model's answers stand to exact match and F1."""
    found = ablation_job(raw, "deep_search", seed)
    lab = lab_of(raw, "deep_search")
    model, _ = sft_stage(lab, seed)
    searched = pair_stage(lab, model, seed)
    values = influence_values(lab, model, searched, step_size_of(lab)[0], lab.params.influence.validation_questions, seed)
    influence = {pair.id: value for pair, value in zip(read_pairs(searched), values.tolist(), strict=True)}
    calls = [turn for tree in read_trees(searched) for turn in _tool_turns(tree)]
    failed = Counter(kind for kind in map(failure_of, calls) if kind)
    return found | {
        "searched": str(searched.path), "influence": influence, "tool_calls": len(calls), "failed": dict(failed), "judged": lab.judged(model, seed),
        "cost": {"search": searched.manifest["cost"]["generated_tokens"]},
    }


def _tool_turns(tree: Tree) -> list[str]:
    return [node.turn.text for node in tree.nodes if node.turn is not None and not node.turn.trainable and node.turn.agent != LIMIT]


def failure_of(text: str) -> str | None:
    """The kind of failure that a tool's text tells of; None when it did not fail."""
    told = re.match(r"\w+ failed: (\w+): (?:([a-z ]+):)?", text)
    return None if told is None else told[2] or told[1]


def _seeds(params: Params, count: int) -> range:
    return range(params.seed, params.seed + count)


def task_keys(params: Params) -> list[tuple]:
    """Jobs of notebooks 01 and 02: one a task."""
    return [(task,) for task in params.tasks]


def ablation_keys(params: Params) -> list[tuple]:
    """Jobs of notebook 03: one a task and seed."""
    return [(task, seed) for seed in _seeds(params, params.ablation.seeds) for task in params.tasks]


def budget_keys(params: Params) -> list[tuple]:
    """Jobs of notebook 04: one a task and seed."""
    return [(task, seed) for seed in _seeds(params, params.budget.seeds) for task in params.tasks]


def iterations_keys(params: Params) -> list[tuple]:
    """Jobs of notebook 05: one a task, method and seed."""
    return [(task, method, seed) for seed in _seeds(params, params.iterations.seeds) for task in params.tasks for method in METHODS]


def sensitivity_keys(params: Params) -> list[tuple]:
    """Jobs of notebook 07: one a task and seed."""
    return [(task, seed) for seed in _seeds(params, params.sensitivity.seeds) for task in params.tasks]


def deep_search_keys(params: Params) -> list[tuple]:
    """Jobs of notebook 08: one a seed."""
    return [(seed,) for seed in _seeds(params, params.ablation.seeds)]


STUDIES = {
    "05_iterations": (iterations_job, iterations_keys),  # the longest jobs first
    "04_budget_scaling": (budget_job, budget_keys),
    "07_sensitivity": (sensitivity_job, sensitivity_keys),
    "08_deep_search": (deep_search_job, deep_search_keys),
    "03_selection_ablation": (ablation_job, ablation_keys),
    "02_scoring": (scoring_job, task_keys),
    "01_rollout": (rollout_job, task_keys),
}
"""The job of each notebook and the keys it is run for; notebook 06, whose later jobs follow from its first, runs its own."""
