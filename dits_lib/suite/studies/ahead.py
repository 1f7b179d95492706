"""Computing ahead what several notebooks ask for, on one set of processes."""

from __future__ import annotations

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


def run_ahead(params: Params, notebooks: list[str]) -> int:
    """Compute what several notebooks of one part of a profile (`Params.parts`) ask for. A model
    that is slow to start, as in vLLM, then starts once in each process, not again in every
    notebook; and many processes need not wait for the last job of each cell of a notebook.

    Returns how many jobs failed; the notebook of each meets the same error and tells it.
    """
    wanted = [pair for name in STUDIES if name in notebooks for pair in _jobs_ahead(name, params)]
    # What most of them begin with comes first: later jobs wait for a stage that another process is
    # making.
    numbers = [part for _, key in wanted for part in key if isinstance(part, int)]
    seeds = dict.fromkeys([params.seed, *numbers])
    shared = [(start_job, (task, seed)) for seed in seeds for task in params.tasks]
    # Processes that would only wait meanwhile start their engine.
    idle = [(engine_job, (params.tasks[0],))] * max(0, params.workers - len(shared))
    if "06_influence_fidelity" in notebooks:
        wanted = _fidelity_ahead(params) + wanted
    jobs = [(job, params, *key) for job, key in [*shared, *idle, *wanted]]
    done = run_jobs(_attempted, jobs, params.workers, "all notebooks", apart=True)
    return done.count(False)


def _jobs_ahead(notebook: str, params: Params) -> list[tuple[Job, tuple]]:
    """(job, key) of a notebook, cut finer where that makes no stage twice: on many processes the
    longest job decides."""
    job, keys = STUDIES[notebook]
    if job in (selection_ablation.ablation_job, deep_search.deep_search_job):
        # The scores of all seeds come first, then one arm after another: side by side, the arms of
        # one seed would wait for the same scores.
        arms, begun = selection_ablation.arms_of(params), selection_ablation.selection_job
        trained = [(selection_ablation.arm_job, (*k, arm)) for arm in arms for k in keys(params)]
        others = [temperatures.temperature_job, retest.retest_job]
        if job is deep_search.deep_search_job:
            others = [job]
        return (
            [(begun, key) for key in keys(params)]
            + trained
            + [(other, key) for other in others for key in keys(params)]
        )
    if job is iterations.iterations_job:
        # The methods begin alike; side by side one would wait for the other.
        return [
            (job, key) for method in iterations.METHODS for key in keys(params) if key[1] == method
        ]
    return [(job, key) for key in keys(params)]


def _fidelity_ahead(params: Params) -> list[tuple[Job, tuple]]:
    """(job, key) of the first cells of notebook 06: the scores, and the halves to train on."""
    scored = [(influence_fidelity.fidelity_job, key) for key in influence_fidelity.keys(params)]
    halves = [(influence_fidelity.truth_job, key) for key in influence_fidelity.half_keys(params)]
    return scored + halves


def _attempted(job: Job, params: Params, *key) -> bool:
    try:
        job(params, *key)
    except Exception:
        # Whatever it is, it comes again where it can be told with its notebook's name.
        return False
    return True


def start_job(params: Params, task: str, seed: int) -> None:
    """What the studies of a seed begin with: SFT; of the first seed, also the step size and the
    pairs that it is chosen by."""
    pipeline = Pipeline(params, task)
    sft_stage(pipeline, seed)
    if seed == params.seed:
        step_size_of(pipeline)


def engine_job(params: Params, task: str) -> None:
    """Start what speaks in this process."""
    pipeline = Pipeline(params, task)
    pipeline.engine(pipeline.base_model())
