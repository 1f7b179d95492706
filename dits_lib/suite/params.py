"""All parameters of a profile: every mistake gives one line that names the file, the key and what
is allowed. Defaults stand in `params/micro.yaml` alone."""

from __future__ import annotations

import argparse
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from ..agents import TASKS, Task, World
from ..influence import ESTIMATORS, InfluenceSettings
from ..pairs import PairSettings
from ..search import SearchSettings
from ..settings import ROOT, Count, ParamsError, Positive, Settings, Share, parse_yaml, read_yaml
from ..settings.kinds import (
    MOST,
    AtLeastTwo,
    Bounded,
    CountOrZero,
    Different,
    NotNegative,
    PartOf,
    PathText,
    Rising,
    Seeds,
    Text,
)
from ..settings.messages import cut, did_you_mean, mistakes, shown
from ..settings.places import with_home
from ..tasks import HARM_KINDS
from ..tasks.public import PUBLIC, Slice, load_splits
from ..training import DPOSettings, SFTSettings
from .cells import given_parameters
from .notebooks import NOTEBOOKS

EstimatorName = Literal[tuple(ESTIMATORS)]
ByEstimator = dict[EstimatorName, AtLeastTwo]
"""Validation questions by estimator."""

_DEVICE_NAMES = {"con", "prn", "aux", "nul"} | {
    f"{p}{n}" for p in ("com", "lpt") for n in range(10)
}
"""What Windows does not take as the name of a file."""


def _plain_name(name: str) -> str:
    """A profile's name becomes that of folders and files."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*", name) or len(name) > 80:
        raise ValueError(
            "must be a plain word of at most 80 letters, digits, _ and - (dots inside) that begins "
            "with a letter or digit"
        )
    if name.split(".")[0].lower() in _DEVICE_NAMES or name == "regimes":
        raise ValueError("is the name of something else; take another")
    if CHANGED.search(name) or name.endswith((".yaml", ".yml")):
        raise ValueError("must not end as a file or a folder of changed parameters does")
    return name


CHANGED = re.compile(r"-changed-[0-9a-f]{8}$")
"""How the name of a results folder ends whose parameters are not those of its profile."""

ProfileName = Annotated[str, AfterValidator(_plain_name)]


class Model(Settings):
    """The model and the engine that it speaks through; see `TransformersEngine` and
    `VLLMEngine`."""

    section: ClassVar = "model"

    path: PathText
    engine: Literal["transformers", "vllm"]
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    max_rows: Count
    max_adapters: Count
    max_rank: Annotated[int, Field(ge=1, le=512)]
    memory: Annotated[float, Field(gt=0, lt=1)]
    cache_gb: Positive | None
    max_length: Annotated[int, Field(ge=64, le=MOST)]
    eager: bool
    compile: bool


def _limits_of(task: Task) -> type[Settings]:
    """What parameters may limit of a task's dialogues; what is left out is the style's."""
    ranges = {
        name: (Annotated[int, Field(ge=least, le=most)] | None, None)
        for name, (least, most) in task.limits.items()
    }
    name = f"{task.name.title().replace('_', '')}Limits"
    kind = create_model(name, __base__=Settings, __module__=__name__, **ranges)
    globals()[name] = kind  # where pickle looks for it: parameters go to other processes
    return kind


class _Agents(Settings):
    section: ClassVar = "agents"

    prompts: Literal[tuple(dict.fromkeys(s for task in TASKS.values() for s in task.styles))]

    def limits(self, task: str) -> dict[str, int]:
        """The limits of a task's dialogues that are other than the style's."""
        given = getattr(self, task) if TASKS[task].limits else None
        return {} if given is None else given.model_dump(exclude_none=True)


class _Data(Settings):
    section: ClassVar = "data"

    data_dir: PathText | None
    context_words: Annotated[int, Field(ge=10, le=100_000)]
    max_rows: Annotated[int, Field(ge=10, le=MOST)]

    def splits(self, task: str) -> dict[str, Slice] | None:
        """The questions of a task's public data set by split; None for the made-up world.

        Raises:
            DataError: for a row that cannot be used, or splits that overlap.
        """
        name = getattr(self, task)
        if name == "micro":
            return None
        return _load_splits(name, self.data_dir, self.context_words, self.max_rows)


# One key for each task, so that a new task needs no change here.
Agents = create_model(
    "Agents",
    __base__=_Agents,
    __module__=__name__,
    __doc__="""`prompts`: the style of what agents are told; limits of each task, null for those of
    the style.""",
    **{name: (_limits_of(task) | None, None) for name, task in TASKS.items() if task.limits},
)
Data = create_model(
    "Data",
    __base__=_Data,
    __module__=__name__,
    __doc__="""The data set of each task. `data_dir`: folder of local JSONL instead of the hub, or
    null. `context_words`: words of context an agent reads at most. `max_rows`: rows of a hub split
    used at most.""",
    **{name: (Literal["micro", *task.data_sets], "micro") for name, task in TASKS.items()},
)


@lru_cache(maxsize=8)
def _load_splits(name: str, data_dir: str | None, words: int, max_rows: int) -> dict[str, Slice]:
    folder = None if data_dir is None else ROOT / data_dir
    return load_splits(PUBLIC[name], folder, words, max_rows)


class Harmful(Settings):
    """`share` of the training questions, and `kind` of harm, that are planted on purpose."""

    section: ClassVar = "world.harmful"

    share: Share
    kind: Literal[HARM_KINDS]


class WorldSettings(Settings):
    """`facts_per_view`: facts an agent reads (2 to 8). `questions`: own JSONL file instead of the
    made-up world, or null."""

    section: ClassVar = "world"

    facts_per_view: Annotated[int, Field(ge=2, le=8)]
    questions: PathText | None
    harmful: Harmful


class Influence(InfluenceSettings):
    """The influence step and its validation questions: `validation_questions`, V; `estimator`,
    that of notebooks 03 to 05; `step_sizes` that are tried on `step_questions` with `step_pairs`,
    of which the one is taken that changes a share of dialogues nearest to `target_changed`."""

    validation_questions: AtLeastTwo
    estimator: EstimatorName
    step_sizes: Rising[Positive]
    target_changed: Annotated[float, Field(gt=0, lt=1)]
    step_questions: AtLeastTwo
    step_pairs: Annotated[int, Field(ge=3, le=MOST)]


class Selection(Settings):
    """`alpha`: share of the pairs that is kept. `small_alpha`: a smaller share, to see whether
    less hurts."""

    section: ClassVar = "selection"

    alpha: PartOf
    small_alpha: PartOf


class SFT(SFTSettings):
    """Dialogues above `min_reward` are learned; `warm_start` `scripted` first trains the base
    model on `warm_questions` gold dialogues for `warm_steps`."""

    min_reward: Bounded
    warm_start: Literal["none", "scripted"]
    warm_questions: Count
    warm_steps: Count


class Sizes(Settings):
    """Numbers of questions: for the SFT search, the training search, the validation pairs, and
    each reported number (`test_samples` dialogues of each)."""

    section: ClassVar = "sizes"

    sft_questions: Count
    train_questions: Count
    loss_questions: Count
    test_questions: Count
    test_samples: Count


class WebSizes(Sizes):
    """The same for notebook 08."""

    section: ClassVar = "web.sizes"


class Ablation(Settings):
    """`seeds` of notebook 03 (SFT seed included)."""

    section: ClassVar = "ablation"

    seeds: Seeds


class Scoring(Settings):
    """`pairs`: scored in notebook 02, at most; `retest_questions`: questions of each of two
    disjoint validation sets."""

    section: ClassVar = "scoring"

    pairs: Annotated[int, Field(ge=4, le=MOST)]
    retest_questions: AtLeastTwo


class Budget(Settings):
    """Notebook 04: `q_questions` searched with Q-values; DITS searches `dits_questions` and scores
    with `validation` questions; `estimators`, others of influence beside it, with the validation
    questions of each."""

    section: ClassVar = "budget"

    seeds: Seeds
    q_questions: Rising[Count]
    dits_questions: Count
    validation: Rising[AtLeastTwo]
    estimators: ByEstimator


class Iterations(Settings):
    """Notebook 05: `rounds` of search, score, select, SFT and DPO; `questions` searched in each."""

    section: ClassVar = "iterations"

    seeds: Seeds
    rounds: Annotated[int, Field(ge=1, le=20)]
    questions: Count
    gamma: NotNegative


class Fidelity(Settings):
    """Notebook 06: `pairs` of `questions` searched; `validation`, questions of each of two
    disjoint sets, by estimator; `subsets` to retrain on; `race_pairs` and `race_questions` of the
    full table that races are run on; `use_seeds` of the comparison after DPO, from
    `first_use_seed` on, and, by estimator, its validation questions (`use`). 0 leaves a study
    out."""

    section: ClassVar = "fidelity"

    pairs: Annotated[int, Field(ge=4, le=MOST)]
    questions: Count
    validation: Annotated[ByEstimator, Field(min_length=1)]
    subsets: CountOrZero
    race_pairs: CountOrZero
    race_questions: Annotated[int, Field(ge=4, le=MOST)]
    use_seeds: Annotated[int, Field(ge=0, le=1000)]
    first_use_seed: Annotated[int, Field(ge=0, lt=2**31)]
    use: Annotated[ByEstimator, Field(min_length=1)]


class Sensitivity(Settings):
    """Notebook 07: values of each setting, tried one at a time; `step`, multiples of the chosen
    step size."""

    section: ClassVar = "sensitivity"

    seeds: Seeds
    gamma: Rising[NotNegative]
    validation: Rising[AtLeastTwo]
    alpha: Rising[PartOf]
    step: Rising[Positive]
    min_value: Rising[Bounded]
    min_gap: Rising[NotNegative]


class Web(Settings):
    """Deep search (notebook 08): `model`, its base model, or null for `model.path`. `site`:
    `micro`, `live`, or a folder of HTML. `replay`: answer from the cache alone. `results` of a
    search. `calls`, `nesting`, `tokens`: limits of a dialogue; with `max_new_tokens` of a reply,
    `page_characters` and `snippet_words`, null for those of the style. `search_engine`: address of
    a SearXNG server for the live web, or null: then agents can open pages, not search. `judge_url`
    and `judge_model`: of a server, or a model folder. `seeds` and `sizes` of notebook 08."""

    section: ClassVar = "web"

    model: PathText | None
    site: PathText
    cache: PathText | None
    replay: bool
    results: Annotated[int, Field(ge=1, le=50)]
    search_engine: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None
    seconds: Annotated[float, Field(gt=0, le=3600)]
    calls: Count | None
    nesting: Count | None
    tokens: Count | None
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] | None
    page_characters: Annotated[int, Field(ge=100, le=20_000)] | None
    snippet_words: Annotated[int, Field(ge=0, le=1000)] | None
    judge: Literal["exact_match", "model", "server"]
    judge_url: Text | None
    judge_model: PathText | None
    seeds: Seeds
    sizes: WebSizes

    @model_validator(mode="after")
    def _judged(self):
        if self.judge != "exact_match" and not self.judge_model:
            raise ValueError(f"judge is {self.judge}: name its judge_model")
        address = self.judge_url or ""
        if self.judge == "server" and not address.startswith(("http://", "https://")):
            raise ValueError("judge is server: judge_url must be its address, http://...")
        return self


def _in_order(names: list[str]) -> list[str]:
    """Notebooks run in their own order, whatever that of the list."""
    return [name for name in NOTEBOOKS if name in names]


class Params(Settings):
    """All parameters of a profile."""

    section: ClassVar = ""

    profile: ProfileName
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    tasks: Different[Literal[tuple(TASKS)]]
    workers: Annotated[int, Field(ge=1, le=256)]
    model: Model
    agents: Agents
    data: Data
    world: WorldSettings
    search: SearchSettings
    pairs: PairSettings
    influence: Influence
    selection: Selection
    sft: SFT
    dpo: DPOSettings
    sizes: Sizes
    scoring: Scoring
    ablation: Ablation
    budget: Budget
    iterations: Iterations
    fidelity: Fidelity
    sensitivity: Sensitivity
    web: Web
    notebooks: Annotated[Different[Literal[tuple(NOTEBOOKS)]], AfterValidator(_in_order)]

    @model_validator(mode="after")
    def _fitting(self):
        for check in (_check_tasks, _check_worlds, _check_pages, _check_influence, _check_vllm):
            check(self)
        return self

    def serving(self, notebook: str) -> Params:
        """The profile as a notebook runs it: with the tasks that it serves, and for deep search
        with the seeds and sizes of `web`.

        Raises:
            ParamsError: when it serves none of the tasks.
        """
        tasks = NOTEBOOKS[notebook].tasks_of(self.tasks)
        if not tasks:
            served = ", ".join(NOTEBOOKS[notebook].tasks_of(TASKS))
            raise ParamsError(
                f"tasks names {', '.join(self.tasks)}, but {notebook} serves {served} alone"
            )
        alike = [name for name in self.notebooks if NOTEBOOKS[name].tasks_of(self.tasks) == tasks]
        own = [] if notebook in alike else [notebook]
        changes: dict = {"tasks": tasks, "notebooks": [*alike, *own]}
        if all(TASKS[task].on_pages for task in tasks):
            ablation = self.ablation.model_copy(update={"seeds": self.web.seeds})
            changes |= {"sizes": self.web.sizes, "ablation": ablation}
        return self.model_copy(update=changes)

    def parts(self) -> list[Params]:
        """The profile once for each group of its notebooks that serves the same of its tasks."""
        found: dict[tuple, Params] = {}
        for name in self.notebooks:
            if NOTEBOOKS[name].tasks_of(self.tasks):
                part = self.serving(name)
                found.setdefault(tuple(part.tasks), part)
        return list(found.values())

    @property
    def reads_pages(self) -> bool:
        """Whether a part of the profile is deep search."""
        return any(TASKS[task].on_pages for part in self.parts() for task in part.tasks)

    def drawn_world(self) -> World:
        """What made-up questions are drawn by."""
        harmful = self.world.harmful.model_dump() if self.world.harmful.share > 0 else None
        return World(self.seed, self.world.facts_per_view, harmful)

    def model_path(self, task: str) -> str:
        """The folder of a task's base model, made absolute when it lies in the repository."""
        own = self.web.model if TASKS[task].on_pages else None
        return local_path(own or self.model.path)

    def judge_path(self) -> str | None:
        """The folder of the model that judges, if it runs in this process."""
        judges = self.reads_pages and self.web.judge == "model"
        return local_path(self.web.judge_model) if judges else None

    def model_paths(self) -> list[str]:
        """The folders of all models that the notebooks need: base models, and the judge."""
        paths = [part.model_path(task) for part in self.parts() for task in part.tasks]
        return list(dict.fromkeys(path for path in [*paths, self.judge_path()] if path))


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


def _check_influence(p: Params) -> None:
    for name, options in p.influence.options.items():
        _check_options(name, options)
    if ESTIMATORS[p.influence.estimator].needs_spread and p.influence.temperature == 0:
        raise ValueError(
            f"influence.estimator {p.influence.estimator} samples dialogues: set "
            "influence.temperature above 0"
        )


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


def _check_vllm(p: Params) -> None:
    if p.model.engine != "vllm":
        return
    on_gpu = p.model.device == "cuda"
    if on_gpu and p.model.dtype == "float32":
        raise ValueError(
            "model.engine is 'vllm', which has no adapters in float32 on a GPU: set model.dtype "
            "to bfloat16"
        )
    if on_gpu and p.workers > 1 and p.model.cache_gb is None:
        raise ValueError(
            f"workers is {p.workers}, and all share one GPU: set model.cache_gb, what each takes "
            "of its memory, or workers to 1"
        )
    if not (p.sft.lora_rank and p.dpo.lora_rank):
        raise ValueError(
            "model.engine is 'vllm', which serves trained models as adapters: set sft.lora_rank "
            "and dpo.lora_rank above 0"
        )
    # The longest chain: warm start, first SFT, a round's SFT, its DPO, and a candidate's step.
    trained = (2 + (p.sft.warm_start != "none")) * p.sft.lora_rank + p.dpo.lora_rank
    rank = trained + p.influence.rank
    if rank > p.model.max_rank:
        raise ValueError(
            f"model.max_rank is {p.model.max_rank}, but the adapters of a round and a step have "
            f"rank {rank} together"
        )


def local_path(path: str) -> str:
    """A model folder in the repository, made absolute; a hub id as it is."""
    local = ROOT / path
    return str(local) if local.exists() or path.startswith((".", "models/")) else path


def check_params(raw: object, source: str) -> Params:
    """Parameters from a mapping; keys left out are those of `params/micro.yaml`.

    Raises:
        ParamsError: one line for each mistake, naming `source`, the key, the value and what is
            allowed.
    """
    if not isinstance(raw, dict):
        kind = "nothing in it" if raw is None else f"a {type(raw).__name__}"
        raise ParamsError(f"{source}: {kind}; expected a mapping of keys to values")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [f"{source}: {line}" for line in mistakes(error, Params)]
        raise ParamsError("\n".join(lines)) from None


def load_params(profile: str | Path, changes: list[str] = (), dataset: str | None = None) -> Params:
    """Parameters of a profile name (`params/<profile>.yaml`) or of a YAML file. A file that leaves
    out `profile` is named as its file is.

    Args:
        changes: `key=value`, keys with dots, on top of the file.
        dataset: a public data set; its task is the only one, and the profile's name gets it as a
            suffix.

    Raises:
        ParamsError: one line for each mistake.
    """
    path = _profile_file(str(profile))
    raw = read_yaml(path)
    if isinstance(raw, dict):
        raw = {"profile": path.stem} | raw
    found = check_params(raw, str(path))
    if path.parent.resolve() == PROFILES and found.profile != path.stem:
        raise ParamsError(
            f"{path}: profile = {found.profile!r}: must be {path.stem}, the name of the file"
        )
    for change in _changes(changes):
        raw = _merged(raw, change)
    if dataset is not None:
        if dataset not in PUBLIC:
            raise ParamsError(f"--dataset {cut(dataset)}: unknown; allowed: {', '.join(PUBLIC)}")
        task = PUBLIC[dataset].task
        name = f"{raw['profile']}-{dataset}"
        raw = _merged(raw, {"profile": name, "tasks": [task], "data": {task: dataset}})
    return check_params(raw, str(path)) if changes or dataset else found


PROFILES = ROOT / "params"
"""Where a profile's name is looked up."""


def profile_names() -> list[str]:
    """The profiles of `params/`."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def _profile_file(profile: str) -> Path:
    named = profile.endswith((".yaml", ".yml"))
    try:
        path = Path(with_home(profile)) if named else PROFILES / f"{_plain_name(profile)}.yaml"
        if path.is_file():
            return path
    except (ValueError, OSError) as error:  # no name of a profile, or of a file
        reason = str(getattr(error, "strerror", None) or error)
        raise ParamsError(
            f"--profile {cut(profile)}: {reason}; profiles here: {_listed()}"
        ) from None
    raise ParamsError(f"{cut(str(path), 300)}: no such parameter file; profiles here: {_listed()}")


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """The options by which a command chooses its parameters; `profile_of` reads them."""
    parser.add_argument("--profile", default="micro", help="a name in params/, or a YAML file")
    parser.add_argument(
        "--dataset", help="a public data set: its task alone, results in <profile>-<dataset>"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one parameter, such as sizes.test_questions=90",
    )


def profile_of(options: argparse.Namespace) -> Params:
    """Raises ParamsError, as `load_params`."""
    return load_params(options.profile, options.set, options.dataset)


def _changes(texts: list[str]) -> list[dict]:
    """Each `a.b=value` as {"a": {"b": value}}.

    Raises:
        ParamsError: for one that cannot be read, or a key that stands twice.
    """
    found: dict[str, dict] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not all(key.split(".")) or key.count(".") > 5:
            raise ParamsError(
                f"--set {cut(text)}: expected KEY=VALUE, such as sizes.test_questions=90"
            )
        if key in found:
            raise ParamsError(f"--set {cut(key)}: given twice; keep one")
        change = parse_yaml(value, f"--set {cut(text)}")
        for part in reversed(key.split(".")):
            change = {part: change}
        found[key] = change
    return list(found.values())


def _merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top, section by section, so that one changed key leaves its
    neighbours alone."""
    both = dict(base)
    for key, value in changes.items():
        # `validation` and `use` of fidelity name the estimators that are compared, and no others.
        sections = isinstance(value, dict) and isinstance(both.get(key), dict)
        whole = key in ("validation", "use")
        both[key] = _merged(both[key], value) if sections and not whole else value
    return both


def notebook_params(variables: dict, notebook: str) -> Params:
    """Parameters of a notebook, with the tasks that it serves: what its parameters cell or
    papermill gives, and the profile's file for the rest.

    Args:
        variables: the notebook's `globals()`; `suite/cells.py` finds the cells behind it.

    Raises:
        ParamsError: one line for each mistake.
    """
    own, source = given_parameters(variables, notebook), f"the parameters of {notebook}"
    profile = own.get("profile")
    if profile is None:
        raise ParamsError(f"{source}: profile is missing; profiles here: {_listed()}")
    base = {}
    if isinstance(profile, str) and profile in profile_names():
        base = read_yaml(PROFILES / f"{profile}.yaml")
    elif not _complete(own, Params):  # `reproduce` gives all, also of a profile that has no file
        raise ParamsError(
            f"{source}: profile = {shown(profile)}: no such profile; profiles here: {_listed()}"
        )
    return check_params(_merged(base, own), source).serving(notebook)


def _listed() -> str:
    return ", ".join(profile_names())


def _complete(given: object, model: type[Settings]) -> bool:
    """Whether every key of a section is given, so that no default decides anything."""
    if not isinstance(given, dict):
        return True  # a value that cannot be one is refused later
    return all(
        name in given and (not _section(field) or _complete(given[name], _section(field)))
        for name, field in model.model_fields.items()
    )


def _section(field: FieldInfo) -> type[Settings] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None
