"""Computing ahead what several notebooks ask for, on one set of processes."""

from __future__ import annotations

from collections.abc import Callable

from ..params import Params
from ..pipeline import Pipeline
from ..workers import run_jobs
from . import (
    budget_scaling,
    deep_search,
    influence_fidelity,
    iterations,
    retest,
    rollout,
    scoring,
    selection_ablation,
    sensitivity,
    temperatures,
)
from .common import Job, sft_stage, step_size_of

STUDIES = {
    "05_iterations": (iterations.iterations_job, iterations.keys),  # the longest jobs first
    "04_budget_scaling": (budget_scaling.budget_job, budget_scaling.keys),
    "06_influence_fidelity": (influence_fidelity.use_job, influence_fidelity.use_keys),
    "07_sensitivity": (sensitivity.sensitivity_job, sensitivity.keys),
    "08_deep_search": (deep_search.deep_search_job, deep_search.keys),
    "03_selection_ablation": (selection_ablation.ablation_job, selection_ablation.keys),
    "02_scoring": (scoring.scoring_job, scoring.keys),
    "01_rollout": (rollout.rollout_job, rollout.keys),
}
"""The job of each notebook and the keys it is run for; of notebook 06, the one whose keys are
seeds."""


Jobs = list[tuple[Job, tuple]]
"""(job, key) each."""


def run_ahead(params: Params, notebooks: list[str]) -> int:
    """Compute what several notebooks of one part of a profile (`Params.parts`) ask for. A model
    that is slow to start, as in vLLM, then starts once in each process, not again in every
    notebook; and many processes need not wait for the last job of each cell of a notebook.

    Returns how many jobs failed; the notebook of each meets the same error and tells it.
    """
    names = [name for name in STUDIES if name in notebooks]
    wanted = _wanted(params, names)
    # What most of them begin with comes first: later jobs wait for a stage that another process is
    # making.
    shared = [(start_job, (task, seed)) for seed in _seeds(params, names) for task in params.tasks]
    # Processes that would only wait meanwhile start their engine.
    idle = [(engine_job, (params.tasks[0],))] * max(0, params.workers - len(shared))
    jobs = [(job, params, *key) for job, key in [*shared, *idle, *wanted]]
    everything = "all notebooks"
    done = run_jobs(_attempted, jobs, params.workers, everything, apart=True, ray=params.cluster)
    return done.count(False)


def _seeds(params: Params, notebooks: list[str]) -> list[int]:
    """The seeds of some notebooks, each once, the first seed of all before the others."""
    keys = [key for name in notebooks for key in STUDIES[name][1](params)]
    return list(dict.fromkeys([params.seed, *(n for key in keys for n in key if type(n) is int)]))


def _wanted(params: Params, notebooks: list[str]) -> Jobs:
    """The jobs of some notebooks, cut finer where that makes no stage twice: on many processes the
    longest job decides.

    First come models that need no scores, while one process finds the step size that all scores
    wait for; then jobs that cannot be cut, as the longest; then all scores, before the models that
    are trained by them: side by side, the arms of one seed would wait for the same scores.
    """
    cut = [_in_four(params, *STUDIES[name]) for name in notebooks]
    return [one for turn in zip(*cut, strict=True) for jobs in turn for one in jobs]


def _in_four(params: Params, job: Job, keys: Callable[[Params], list[tuple]]) -> list[Jobs]:
    """The jobs of one notebook: without scores; in one piece; scores; trained by scores."""
    own = keys(params)
    if job in (selection_ablation.ablation_job, deep_search.deep_search_job):
        return _of_arms(params, job, own)
    if job is influence_fidelity.use_job:
        return _of_fidelity(params, own)
    if job is iterations.iterations_job:
        # The methods begin alike; side by side one would wait for the other.
        own = [key for method in iterations.METHODS for key in own if key[1] == method]
    return [[], [(job, key) for key in own], [], []]


def _of_arms(params: Params, job: Job, own: list[tuple]) -> list[Jobs]:
    """Notebooks 03 and 08, arm by arm."""
    arms = selection_ablation.arms_of(params)
    plain = [arm for arm in arms if arm not in selection_ablation.SCORED]
    by_scores = [arm for arm in arms if arm in selection_ablation.SCORED]
    last = [job]
    if job is selection_ablation.ablation_job:
        last = [temperatures.temperature_job, retest.retest_job]
    return [
        _each(selection_ablation.arm_job, own, plain),
        [],
        [(selection_ablation.selection_job, key) for key in own],
        _each(selection_ablation.arm_job, own, by_scores)
        + [(other, key) for other in last for key in own],
    ]


def _of_fidelity(params: Params, own: list[tuple]) -> list[Jobs]:
    """Notebook 06: its scores, the halves that say what is true, and the arms of its use."""
    scored = [(influence_fidelity.fidelity_job, key) for key in influence_fidelity.keys(params)]
    halves = [(influence_fidelity.truth_job, key) for key in influence_fidelity.half_keys(params)]
    arms = influence_fidelity.use_arms(params)
    return [
        [],
        [],
        scored + _each(influence_fidelity.use_score_job, own, list(params.fidelity.use)),
        halves + _each(influence_fidelity.use_arm_job, own, arms),
    ]


def _each(job: Job, keys: list[tuple], parts: list[str]) -> Jobs:
    """A job for each key and part, one part after another."""
    return [(job, (*key, part)) for part in parts for key in keys]


def _attempted(job: Job, params: Params, *key) -> bool:
    try:
        job(params, *key)
    except Exception:
        # Whatever it is, it comes again where it can be told with its notebook's name.
        return False
    return True


def start_job(params: Params, task: str, seed: int) -> None:
    """What the studies of a seed begin with: SFT; of the first seed, also the step size, where one
    is to be chosen, and the pairs that it is chosen by."""
    pipeline = Pipeline(params, task)
    sft_stage(pipeline, seed)
    if seed == params.seed:
        step_size_of(pipeline)


def engine_job(params: Params, task: str) -> None:
    """Start what speaks in this process."""
    pipeline = Pipeline(params, task)
    pipeline.engine(pipeline.base_model())
