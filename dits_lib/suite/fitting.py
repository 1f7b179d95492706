"""Whether the sections of a profile fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..agents import TASKS
from ..influence import ESTIMATORS
from ..settings.messages import cut, did_you_mean, mistakes
from .notebooks import NOTEBOOKS

if TYPE_CHECKING:
    from .params import Params


def check_fit(p: Params) -> None:
    """Raises ValueError with the first that does not."""
    checks = (
        _check_tasks,
        _check_worlds,
        _check_pages,
        _check_shares,
        _check_influence,
        _check_ray,
        _check_vllm,
        _check_tests,
    )
    for check in checks:
        check(p)


def _check_tasks(p: Params) -> None:
    if not p.parts():
        served = "; ".join(
            f"{name} serves {', '.join(NOTEBOOKS[name].tasks_of(TASKS))}" for name in p.notebooks
        )
        raise ValueError(f"notebooks: none of them serves tasks {', '.join(p.tasks)}; {served}")
    for task in _run(p):
        if p.agents.prompts not in TASKS[task].styles:
            allowed = ", ".join(TASKS[task].styles)
            raise ValueError(f"agents.prompts is {p.agents.prompts}; {task} has {allowed}")
        if p.sft.warm_start != "none" and TASKS[task].warm_start is None:
            raise ValueError(
                f"sft.warm_start knows no scripted dialogues of {task}: leave that out of tasks, "
                "or set it to none"
            )


def _run(p: Params) -> list[str]:
    """The tasks that some notebook runs."""
    return [task for part in p.parts() for task in part.tasks]


def _check_worlds(p: Params) -> None:
    own, harm = p.world.questions, p.world.harmful.share > 0
    if own is not None and (len(p.tasks) > 1 or harm):
        raise ValueError(
            "world.questions holds one task's questions and takes no planted harm: name one task, "
            "and share 0"
        )
    if own is not None and getattr(p.data, p.tasks[0]) != "micro":
        raise ValueError(f"world.questions and data.{p.tasks[0]} both name questions; keep one")
    public = [task for task in p.tasks if getattr(p.data, task) != "micro"]
    if public and harm:
        raise ValueError(
            f"world.harmful plants harm in the micro world alone, but data.{public[0]} is "
            f"{getattr(p.data, public[0])}: set its share to 0"
        )
    unharmed = [task for task in _run(p) if not TASKS[task].can_be_harmed]
    if harm and unharmed:
        raise ValueError(
            f"world.harmful knows no harm for {unharmed[0]}: leave that out of tasks, or set the "
            "share to 0"
        )


def _check_pages(p: Params) -> None:
    if not p.reads_pages:
        return
    data = p.data.deep_search
    if p.web.model == "models/micro-web" and p.agents.prompts != "micro":
        raise ValueError(
            f"web.model is {p.web.model}, which knows the micro web's few words alone, but "
            f"agents.prompts is {p.agents.prompts}: set web.model to null (model.path) or another"
        )
    if data == "micro" and p.web.site != "micro" and p.world.questions is None:
        raise ValueError(
            f"web.site is {p.web.site}, but data.deep_search is micro, whose questions are about "
            "the micro site: name other questions"
        )
    if data != "micro" and p.web.site == "micro":
        raise ValueError(
            f"data.deep_search is {data}, but web.site is micro: set it to live, or to a folder "
            "of its pages"
        )


def _check_shares(p: Params) -> None:
    s = p.selection
    if s.small_alpha >= s.alpha:
        raise ValueError(
            f"selection.small_alpha is {s.small_alpha}, but selection.alpha is {s.alpha}: it must "
            "be the smaller"
        )


def _check_influence(p: Params) -> None:
    for name, options in p.influence.options.items():
        _check_options(name, options)
    _check_nucleus(p)
    _check_guide(p)
    _check_draws(p)
    if p.influence.temperature > 0:
        return
    for key, names in estimators_named(p).items():
        for name in names:
            if ESTIMATORS[name].needs_spread:
                raise ValueError(
                    f"{key} names {name}, which compares sampled dialogues, all alike at "
                    "temperature 0: set influence.temperature above 0, or leave it out"
                )


def _check_draws(p: Params) -> None:
    """Each draw of A needs a validation question."""
    for key, count in _questions_scored(p).items():
        if p.influence.lora_draws > count:
            raise ValueError(
                f"influence.lora_draws is {p.influence.lora_draws}, but {key} is {count}: each "
                "draw needs a validation question of its own"
            )


def _questions_scored(p: Params) -> dict[str, int]:
    """Validation questions of each scoring of the profile's notebooks, by the key that says so."""
    found = {"influence.validation_questions": p.influence.validation_questions}
    lists, by_estimator = {}, {}
    if "02_scoring" in p.notebooks:
        found["scoring.retest_questions"] = p.scoring.retest_questions
        by_estimator["scoring.noise"] = p.scoring.noise
    if "04_budget_scaling" in p.notebooks:
        lists["budget.validation"] = p.budget.validation
        by_estimator["budget.estimators"] = p.budget.estimators
    if "06_influence_fidelity" in p.notebooks:
        by_estimator["fidelity.validation"] = p.fidelity.validation
        by_estimator["fidelity.use"] = p.fidelity.use if p.fidelity.use_seeds else {}
        if p.fidelity.race_pairs:
            found["fidelity.race_questions"] = p.fidelity.race_questions
    if "07_sensitivity" in p.notebooks:
        lists["sensitivity.validation"] = p.sensitivity.validation
    found |= {key: min(values) for key, values in lists.items() if values}
    for key, counts in by_estimator.items():
        found |= {f"{key}.{name}": count for name, count in counts.items()}
    return found


def _check_nucleus(p: Params) -> None:
    """The gradient of a search's dialogues is that of the whole softmax."""
    for key, names in estimators_named(p).items():
        if p.search.top_p < 1 and "tree_policy_gradient" in names:
            raise ValueError(
                f"{key} names tree_policy_gradient, whose dialogues must be sampled from all "
                f"tokens, but search.top_p is {p.search.top_p:g}: set that to 1, or leave it out"
            )


def _check_guide(p: Params) -> None:
    """A search scores the pairs of its trees as they come."""
    named, guides = p.influence.estimator, {"search.guide": [p.search.guide]}
    if "07_sensitivity" in p.notebooks:
        guides["sensitivity.guide"] = p.sensitivity.guide
    guided = [key for key, values in guides.items() if set(values) != {"q"}]
    if not guided:
        return
    if not ESTIMATORS[named].scores_alone:
        allowed = ", ".join(name for name, record in ESTIMATORS.items() if record.scores_alone)
        raise ValueError(
            f"{guided[0]} names influence, which scores pairs as they come, but "
            f"influence.estimator is {named}, which scores them together; allowed: {allowed}"
        )
    options = ESTIMATORS[named].options_of(p.influence)
    if getattr(options, "group", 1) > 1:
        raise ValueError(
            f"influence.options.{named}.group is {options.group}, but a search that influence "
            "guides scores each pair as it comes: set it to 1, or every guide to q"
        )


def estimators_named(p: Params) -> dict[str, list[str]]:
    """The estimators that the notebooks of a profile use, by the key that names them."""
    named = {"influence.estimator": [p.influence.estimator]}
    if "04_budget_scaling" in p.notebooks:
        named["budget.estimators"] = [*p.budget.estimators]
    if "06_influence_fidelity" in p.notebooks:
        named["fidelity.validation"] = [*p.fidelity.validation]
        named["fidelity.use"] = [*p.fidelity.use] if p.fidelity.use_seeds else []
    if "02_scoring" in p.notebooks:
        named["scoring.noise"] = [*p.scoring.noise]
    return named


def _check_options(name: str, options: dict) -> None:
    """The settings of an estimator against those that its file declares."""
    if name not in ESTIMATORS:
        raise ValueError(
            f"influence.options.{cut(name)}: no such estimator;"
            f"{did_you_mean(name, list(ESTIMATORS))}"
        )
    kind = ESTIMATORS[name].options
    try:
        kind(**options)
    except ValidationError as error:
        raise ValueError(f"influence.options.{name}: {'; '.join(mistakes(error, kind))}") from None


def _check_tests(p: Params) -> None:
    """Greedy dialogues of one question are all alike."""
    if p.testing.temperatures != [0]:
        return
    several = {f"{part.sizes.section}.test_samples": part.sizes.test_samples for part in p.parts()}
    for key, samples in several.items():
        if samples > 1:
            raise ValueError(
                f"{key} is {samples}, but testing.temperatures is 0 alone, at which all dialogues "
                "of a question are alike: set it to 1, or name a temperature above 0"
            )


def _check_ray(p: Params) -> None:
    if p.executor != "ray":
        return
    if p.model.device == "cuda" and p.ray.gpus == 0:
        raise ValueError(
            "model.device is 'cuda', and with ray.gpus at 0 no worker gets a GPU: set it to 1, or "
            "to the share of one that a worker takes"
        )
    if p.model.device == "cpu" and p.ray.gpus > 0:
        raise ValueError(
            f"ray.gpus is {p.ray.gpus:g}, but model.device is 'cpu': set one of them otherwise"
        )


def on_one_card(p: Params) -> int:
    """How many processes share a GPU at most."""
    if p.model.device == "cpu":
        return 1
    return p.workers if p.executor == "local" else min(p.workers, int(1 / p.ray.gpus))


def _check_vllm(p: Params) -> None:
    if p.model.engine != "vllm":
        return
    on_gpu = p.model.device == "cuda"
    if on_gpu and p.model.dtype == "float32":
        raise ValueError(
            "model.engine is 'vllm', which has no adapters in float32 on a GPU: set model.dtype "
            "to bfloat16"
        )
    if on_gpu and on_one_card(p) > 1 and p.model.cache_gb is None:
        alone = "workers to 1" if p.executor == "local" else "ray.gpus to 1"
        raise ValueError(
            f"{on_one_card(p)} workers share one GPU: set model.cache_gb, what each takes of its "
            f"memory, or {alone}"
        )
    if not (p.sft.lora_rank and p.dpo.lora_rank):
        raise ValueError(
            "model.engine is 'vllm', which serves trained models as adapters: set sft.lora_rank "
            "and dpo.lora_rank above 0"
        )
    # The longest chain: warm start, first SFT, a round's SFT, its DPO (or a warm-up before its
    # pairs are scored), and a candidate's step.
    trained = (2 + (p.sft.warm_start != "none")) * p.sft.lora_rank + p.dpo.lora_rank
    rank = trained + p.influence.rank
    if rank > p.model.max_rank:
        raise ValueError(
            f"model.max_rank is {p.model.max_rank}, but the adapters of a round and a step have "
            f"rank {rank} together"
        )
