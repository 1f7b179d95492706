"""Load and check parameters: every mistake gives one line that names the file, the key and what is allowed."""

from __future__ import annotations

import argparse
import difflib
import os
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .agents import PROMPTS, System, make_system
from .influence import ESTIMATORS, InfluenceConfig
from .search import SearchConfig
from .tasks import HARM_KINDS
from .tasks.public import PUBLIC, Slice, load_splits
from .training import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root; relative paths in parameters start here."""

OUTPUT = Path(os.environ.get("DITS_OUTPUT", ROOT))
"""Where `runs/` (artifacts) and `results/` go; set DITS_OUTPUT to keep them elsewhere."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Task = Literal["exchange", "debate", "deep_search"]
DEEP_NOTEBOOK = "08_deep_search"
"""The notebook of the task `deep_search`; the others serve the other tasks."""


class ParamsError(ValueError):
    """Parameters that cannot be used; one line a mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Model(_Section):
    """The model and the engine that it speaks through; see `TransformersEngine` and `VLLMEngine`."""

    path: str = "models/micro"
    engine: Literal["transformers", "vllm"] = "transformers"
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_rows: Count = 128
    max_adapters: Count = 32
    max_rank: Annotated[int, Field(ge=1, le=512)] = 64
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.5
    cache_gb: Positive | None = None
    max_length: Annotated[int, Field(ge=64)] = 4096
    eager: bool = False
    compile: bool = False


class Limits(_Section):
    """`max_turns` of a dialogue, `max_new_tokens` of a reply."""

    max_turns: Annotated[int, Field(ge=2, le=100)]
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)]


class Agents(_Section):
    """`prompts`: the style of what agents are told; limits of each task, null for those of the style."""

    prompts: Literal[tuple(PROMPTS)] = "micro"
    exchange: Limits | None = None
    debate: Limits | None = None

    def system(self, task: str) -> System:
        """The multi-agent system of a task of a fixed order (that of `deep_search` needs pages: `web_task.deep_search_system`)."""
        limits = getattr(self, task)
        return make_system(task, self.prompts, **(limits.model_dump() if limits else {}))


class Data(_Section):
    """`exchange`, `debate`, `deep_search`: the data set of each task. `data_dir`: folder of local JSONL instead of the hub, or null.
    `context_words`: words of context an agent reads at most. `max_rows`: rows of a hub split used at most."""

    exchange: Literal["micro", *(name for name, d in PUBLIC.items() if d.task == "exchange")] = "micro"
    debate: Literal["micro", *(name for name, d in PUBLIC.items() if d.task == "debate")] = "micro"
    deep_search: Literal["micro", *(name for name, d in PUBLIC.items() if d.task == "deep_search")] = "micro"
    data_dir: str | None = None
    context_words: Annotated[int, Field(ge=10, le=100_000)] = 300
    max_rows: Annotated[int, Field(ge=10)] = 5000

    def splits(self, task: str) -> dict[str, Slice] | None:
        """The questions of a task's public data set by split; None for the micro world.

        Raises:
            DataError: for a row that cannot be used, or splits that overlap.
        """
        name = getattr(self, task)
        return None if name == "micro" else _load_splits(name, self.data_dir, self.context_words, self.max_rows)


@lru_cache(maxsize=8)
def _load_splits(name: str, data_dir: str | None, words: int, max_rows: int) -> dict[str, Slice]:
    return load_splits(PUBLIC[name], None if data_dir is None else ROOT / data_dir, words, max_rows)


class Harmful(_Section):
    """`share` of the training questions, and `kind` of harm, that are planted on purpose."""

    share: Share = 0.0
    kind: Literal[HARM_KINDS] = "wrong_answer"


class World(_Section):
    """`facts_per_view`: facts an agent reads (2 to 8). `questions`: own JSONL file instead of the micro world, or null."""

    facts_per_view: Annotated[int, Field(ge=2, le=8)] = 4
    questions: str | None = None
    harmful: Harmful = Harmful()


class Search(_Section):
    """See `dits_lib.search.SearchConfig`."""

    repetitions: Annotated[int, Field(ge=1, le=1000)] = 8
    rollouts: Annotated[int, Field(ge=1, le=100)] = 3
    depth: Annotated[int, Field(ge=1, le=100)] = 3
    top: Count = 10
    softmax_temperature: Positive = 1.0
    similar: Share = 0.25
    merge: Share = 0.1
    temperature: Annotated[float, Field(gt=0, le=5)] = 1.0
    token_weight: Annotated[float, Field(ge=-10, le=10)] = 0.0
    fluency_weight: Annotated[float, Field(ge=-10, le=10)] = 0.0
    guide: Literal["q", "influence", "both"] = "q"

    def config(self, **changes) -> SearchConfig:
        return SearchConfig(**self.model_dump() | changes)


class Pairs(_Section):
    """A pair is kept where the best Q exceeds `min_value` and best minus worst exceeds `min_gap` (units of the reward)."""

    min_value: float = 0.4
    min_gap: Annotated[float, Field(ge=0)] = 0.2


class Influence(_Section):
    """The influence step and its validation questions; see `dits_lib.influence.InfluenceConfig`."""

    validation_questions: Annotated[int, Field(ge=2)] = 20
    samples: Count = 1
    temperature: Annotated[float, Field(ge=0, le=5)] = 1.0
    beta: Positive = 0.1
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    scaling: Positive = 2.0
    candidates: Count = 32
    step_sizes: Annotated[list[Positive], Field(min_length=1)] = [0.1, 0.3, 1.0, 3.0]
    target_changed: Annotated[float, Field(gt=0, lt=1)] = 0.2
    step_questions: Annotated[int, Field(ge=2)] = 24
    step_pairs: Annotated[int, Field(ge=3)] = 32
    gradient_rows: Count = 64
    gradient_block: Count = 1024
    estimator: Literal[tuple(ESTIMATORS)] = "one_step"
    policy_samples: Annotated[int, Field(ge=2)] = 16
    race_questions: Annotated[int, Field(ge=2)] = 20
    race_error: Annotated[float, Field(gt=0, lt=1)] = 0.1
    learned_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    control_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    group_count: Annotated[int, Field(ge=4)] = 48
    group_steps: Count = 8
    group_batch: Count = 8
    group_rate: Positive = 0.7

    def config(self) -> InfluenceConfig:
        return InfluenceConfig(**{field.name: getattr(self, field.name) for field in fields(InfluenceConfig)})


class Selection(_Section):
    """`alpha`: share of the pairs that is kept. `small_alpha`: a smaller share, to see whether less hurts."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    small_alpha: Annotated[float, Field(gt=0, le=1)] = 0.1


class Train(_Section):
    """See `dits_lib.training.TrainConfig`. SFT only: dialogues above `min_reward` are learned; `warm_start` `scripted` first trains
    the base model on `warm_questions` gold dialogues."""

    steps: Count = 40
    batch: Count = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    lora_rank: Annotated[int, Field(ge=0, le=256)] = 0
    beta: Positive = 0.1
    nll_weight: Annotated[float, Field(ge=0, le=10)] = 0.0
    gradient_checkpointing: bool = False
    min_reward: float = 0.5
    warm_start: Literal["none", "scripted"] = "none"
    warm_questions: Count = 1
    warm_steps: Count = 1

    def config(self, **changes) -> TrainConfig:
        return TrainConfig(**self.model_dump(exclude={"min_reward", "warm_start", "warm_questions", "warm_steps"}) | changes)


class Sizes(_Section):
    """Numbers of questions: for the SFT search, the training search, the validation pairs, and each reported number
    (`test_samples` dialogues of each)."""

    sft_questions: Count = 60
    train_questions: Count = 120
    loss_questions: Count = 40
    test_questions: Count = 500
    test_samples: Count = 1


class Ablation(_Section):
    """`seeds` of notebook 03 (SFT seed included)."""

    seeds: Annotated[int, Field(ge=2)] = 5


class Scoring(_Section):
    """`pairs`: scored in notebook 02, at most; `retest_questions`: questions of each of two disjoint validation sets."""

    pairs: Annotated[int, Field(ge=4)] = 200
    retest_questions: Annotated[int, Field(ge=2)] = 40


class Budget(_Section):
    """Notebook 04: `questions` searched with Q-values; DITS searches `dits_questions` and scores with `validation` questions; `estimators`,
    others of influence beside it, with the validation questions of each."""

    seeds: Annotated[int, Field(ge=2)] = 4
    q_questions: Annotated[list[Count], Field(min_length=1)] = [40, 80, 160]
    dits_questions: Count = 40
    validation: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [5, 10, 20]
    estimators: dict[Literal[tuple(ESTIMATORS)], Annotated[int, Field(ge=2)]] = {}


class Iterations(_Section):
    """Notebook 05: `rounds` of search, score, select, SFT and DPO; `questions` searched a round."""

    seeds: Annotated[int, Field(ge=2)] = 3
    rounds: Annotated[int, Field(ge=1, le=20)] = 3
    questions: Count = 60
    gamma: Annotated[float, Field(ge=0)] = 1.0


class Fidelity(_Section):
    """Notebook 06: `pairs` of `questions` searched; `validation`, questions of each of two disjoint sets, by estimator; `subsets` to retrain
    on; `race_pairs` and `race_questions` of the full table that races are run on; `use_seeds` of the comparison after DPO, from `first_use_seed` on, and, by
    estimator, its validation questions (`use`). 0 leaves a study out."""

    pairs: Annotated[int, Field(ge=4)] = 300
    questions: Count = 80
    validation: dict[Literal[tuple(ESTIMATORS)], Annotated[int, Field(ge=2)]] = {"one_step": 60, "policy_gradient": 300}
    subsets: Annotated[int, Field(ge=0)] = 0
    race_pairs: Annotated[int, Field(ge=0)] = 0
    race_questions: Annotated[int, Field(ge=4)] = 400
    use_seeds: Annotated[int, Field(ge=0)] = 0
    first_use_seed: Annotated[int, Field(ge=0)] = 100
    use: dict[Literal[tuple(ESTIMATORS)], Annotated[int, Field(ge=2)]] = {"one_step": 20, "policy_gradient": 100}


class Sensitivity(_Section):
    """Notebook 07: values of each setting, tried one at a time; `step`, multiples of the chosen step size."""

    seeds: Annotated[int, Field(ge=2)] = 4
    gamma: list[Annotated[float, Field(ge=0)]] = [0.0, 0.5, 1.0, 2.0]
    validation: list[Annotated[int, Field(ge=2)]] = [5, 10, 20, 40]
    alpha: list[Annotated[float, Field(gt=0, le=1)]] = [0.1, 0.25, 0.5, 0.75]
    step: list[Positive] = [0.3, 1.0, 3.0]
    min_value: list[float] = [0.2, 0.4, 0.6]
    min_gap: list[Annotated[float, Field(ge=0)]] = [0.1, 0.2, 0.4]


class Web(_Section):
    """Deep search (notebook 08): `model`, its base model, or null for `model.path`. `site`: `micro`, `live`, or a folder of HTML.
    `replay`: answer from the cache alone. `results` of a search. `calls`, `depth`, `tokens`: limits of a dialogue; with `max_new_tokens`
    of a reply, `page_characters` and `snippet_words`, null for those of the style. `finder`: address of a SearXNG search engine for the
    live web, or null: then agents can open pages, not search. `judge_url` and `judge_model`: of a server, or a model folder.
    `seeds` and `sizes` of notebook 08."""

    model: str | None = "models/micro-web"
    site: str = "micro"
    cache: str | None = None
    replay: bool = False
    results: Annotated[int, Field(ge=1, le=50)] = 2
    finder: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    seconds: Positive = 20.0
    calls: Count | None = None
    depth: Count | None = None
    tokens: Count | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] | None = None
    page_characters: Annotated[int, Field(ge=100, le=20_000)] | None = None
    snippet_words: Annotated[int, Field(ge=0, le=1000)] | None = None
    judge: Literal["exact_match", "model", "server"] = "exact_match"
    judge_url: str | None = None
    judge_model: str | None = None
    seeds: Annotated[int, Field(ge=2)] = 3
    sizes: Sizes = Sizes(sft_questions=30, train_questions=40, loss_questions=20, test_questions=300)

    @model_validator(mode="after")
    def _judged(self):
        if self.judge != "exact_match" and not self.judge_model:
            raise ValueError(f"judge is {self.judge}: name its judge_model")
        if self.judge == "server" and not (self.judge_url or "").startswith(("http://", "https://")):
            raise ValueError("judge is server: judge_url must be its address, http://...")
        return self


class Params(_Section):
    """All parameters of a profile."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "micro"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    tasks: Annotated[list[Task], Field(min_length=1)] = ["exchange", "debate", "deep_search"]
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    model: Model = Model()
    agents: Agents = Agents()
    data: Data = Data()
    world: World = World()
    search: Search = Search()
    pairs: Pairs = Pairs()
    influence: Influence = Influence()
    selection: Selection = Selection()
    sft: Train = Train()
    dpo: Train = Train()
    sizes: Sizes = Sizes()
    scoring: Scoring = Scoring()
    ablation: Ablation = Ablation()
    budget: Budget = Budget()
    iterations: Iterations = Iterations()
    fidelity: Fidelity = Fidelity()
    sensitivity: Sensitivity = Sensitivity()
    web: Web = Web()
    notebooks: Annotated[list[Annotated[str, Field(pattern=r"^[0-9]{2}_[a-z_]+$")]], Field(min_length=1)] = [
        "01_rollout", "02_scoring", "03_selection_ablation", "04_budget_scaling", "05_iterations", "08_deep_search"
    ]

    @model_validator(mode="after")
    def _fitting(self):
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks must not repeat")
        if self.world.questions is not None and (len(self.tasks) > 1 or self.world.harmful.share > 0):
            raise ValueError("world.questions holds one task's questions and takes no planted harm: name one task, and share 0")
        if self.world.questions is not None and getattr(self.data, self.tasks[0]) != "micro":
            raise ValueError(f"world.questions and data.{self.tasks[0]} both name questions; keep one")
        public = [task for task in self.tasks if getattr(self.data, task) != "micro"]
        if public and self.world.harmful.share > 0:
            raise ValueError(f"world.harmful plants harm in the micro world alone, but data.{public[0]} is {getattr(self.data, public[0])}: set its share to 0")
        if not self.parts():
            raise ValueError(f"notebooks: none of them serves tasks {', '.join(self.tasks)}; {DEEP_NOTEBOOK} serves deep_search, the others exchange and debate")
        if self.world.harmful.share > 0 and self.searches_deep:
            raise ValueError("world.harmful knows no harm for deep_search: leave that out of tasks, or set the share to 0")
        if self.sft.warm_start != "none" and self.searches_deep:
            raise ValueError("sft.warm_start knows no scripted dialogues of deep_search: leave that out of tasks, or set it to none")
        if self.searches_deep and self.web.model == Web().model and self.agents.prompts != "micro":
            raise ValueError(f"web.model is {self.web.model}, which knows the micro web's few words alone, but agents.prompts is {self.agents.prompts}: set web.model to null (model.path) or another")
        if self.searches_deep and self.data.deep_search == "micro" and self.web.site != "micro" and self.world.questions is None:
            raise ValueError(f"web.site is {self.web.site}, but data.deep_search is micro, whose questions are about the micro site: name other questions")
        if self.searches_deep and self.data.deep_search != "micro" and self.web.site == "micro":
            raise ValueError(f"data.deep_search is {self.data.deep_search}, but web.site is micro: set it to live, or to a folder of its pages")
        if self.influence.estimator not in ("one_step", "dpo_loss") and self.influence.temperature == 0:
            raise ValueError(f"influence.estimator {self.influence.estimator} samples dialogues: set influence.temperature above 0")
        if self.model.engine == "vllm":
            if self.model.device == "cuda" and self.model.dtype == "float32":
                raise ValueError("model.engine is 'vllm', which has no adapters in float32 on a GPU: set model.dtype to bfloat16")
            if self.model.device == "cuda" and self.workers > 1 and self.model.cache_gb is None:
                raise ValueError(f"workers is {self.workers}, and all share one GPU: set model.cache_gb, what each takes of its memory, or workers to 1")
            if not (self.sft.lora_rank and self.dpo.lora_rank):
                raise ValueError("model.engine is 'vllm', which serves trained models as adapters: set sft.lora_rank and dpo.lora_rank above 0")
            # The longest chain: warm start, first SFT, a round's SFT, its DPO, and a candidate's step.
            rank = (2 + (self.sft.warm_start != "none")) * self.sft.lora_rank + self.dpo.lora_rank + self.influence.rank
            if rank > self.model.max_rank:
                raise ValueError(f"model.max_rank is {self.model.max_rank}, but the adapters of a round and a step have rank {rank} together")
        return self

    def questions_needed(self) -> dict[str, int]:
        """How many questions of each split the notebooks ask for, at most."""
        s, v, i = self.sizes, self.influence, self.iterations
        more = max(s.train_questions + i.rounds * i.questions, *self.budget.q_questions, self.budget.dits_questions)
        warm = self.sft.warm_questions if self.sft.warm_start != "none" else 0
        f = self.fidelity
        fidelity = max(*f.validation.values(), *f.use.values(), f.race_questions if f.race_pairs else 0) if "06_influence_fidelity" in self.notebooks else 0
        more = max(more, self.fidelity.questions if fidelity else 0)
        if "07_sensitivity" in self.notebooks:
            fidelity = max(fidelity, max(self.sensitivity.validation, default=0) / 2)
        fidelity = max(fidelity, max(self.budget.estimators.values(), default=0) / 2)
        guided = v.validation_questions if self.search.guide != "q" else 0
        return {
            "train": s.sft_questions + more + warm, "development": v.step_questions, "test": s.test_questions,
            "validation": guided + max(s.loss_questions, 2 * self.scoring.retest_questions, (i.rounds + 1) * v.validation_questions, round(2 * fidelity)),
        }

    @property
    def searches_deep(self) -> bool:
        """Whether a part of the profile is deep search."""
        return "deep_search" in self.tasks and DEEP_NOTEBOOK in self.notebooks

    def dialogue_profile(self) -> Params:
        """The profile as notebooks 01 to 07 run it: all its tasks but deep search.

        Raises:
            ParamsError: when there is none.
        """
        tasks = [task for task in self.tasks if task != "deep_search"]
        if not tasks:
            raise ParamsError(f"tasks names deep_search alone, which {DEEP_NOTEBOOK} serves; this notebook takes exchange and debate")
        return self.model_copy(update={"tasks": tasks, "notebooks": [name for name in self.notebooks if name != DEEP_NOTEBOOK]})

    def web_profile(self) -> Params:
        """The profile as notebook 08 runs it: deep search alone, one round, with the sizes of `web`.

        Raises:
            ParamsError: when deep search is not among its tasks.
        """
        if "deep_search" not in self.tasks:
            raise ParamsError(f"tasks = {self.tasks}: {DEEP_NOTEBOOK} serves deep_search, which is not among them")
        once = {"iterations": Iterations(seeds=2, rounds=1, questions=1), "budget": Budget(seeds=2, q_questions=[1], dits_questions=1, validation=[2])}
        own = {"tasks": ["deep_search"], "sizes": self.web.sizes, "ablation": Ablation(seeds=self.web.seeds), "notebooks": [DEEP_NOTEBOOK]}
        return self.model_copy(update=own | once | {"scoring": Scoring(pairs=4, retest_questions=2)})

    def parts(self) -> list[Params]:
        """The profile for the notebooks of its own tasks, and for notebook 08 where that is among them."""
        dialogues = self.tasks != ["deep_search"] and self.notebooks != [DEEP_NOTEBOOK]
        return [*([self.dialogue_profile()] if dialogues else []), *([self.web_profile()] if self.searches_deep else [])]

    def model_path(self, task: str) -> str:
        """The folder of a task's base model, made absolute when it lies in the repository."""
        return local_path(self.web.model if task == "deep_search" and self.web.model else self.model.path)

    def judge_path(self) -> str | None:
        """The folder of the model that judges, if it runs in this process."""
        return local_path(self.web.judge_model) if self.searches_deep and self.web.judge == "model" else None

    def model_paths(self) -> list[str]:
        """The folders of all models that the notebooks need: base models, and the judge."""
        paths = [part.model_path(task) for part in self.parts() for task in part.tasks] + [self.judge_path()]
        return list(dict.fromkeys(path for path in paths if path))


def local_path(path: str) -> str:
    """A model folder in the repository, made absolute; a hub id as it is."""
    local = ROOT / path
    return str(local) if local.exists() or path.startswith((".", "models/")) else path


def check_params(raw: object, source: str) -> Params:
    """Parameters from a mapping.

    Raises:
        ParamsError: one line a mistake, each naming `source`, the key, the value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise ParamsError(f"{source}: a {type(raw).__name__}; expected a mapping of keys to values")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("\n".join(_line(source, item) for item in error.errors())) from None


def load_params(profile: str | Path, changes: list[str] = (), dataset: str | None = None) -> Params:
    """Parameters of a profile name (`params/<profile>.yaml`) or of a YAML file; keys left out are those of `micro`.

    Args:
        changes: `key=value`, keys with dots, on top of the file.
        dataset: a public data set; its task is the only one, and the profile's name gets it as a suffix.

    Raises:
        ParamsError: one line a mistake.
    """
    path = Path(profile) if str(profile).endswith((".yaml", ".yml")) else ROOT / "params" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (ROOT / "params").glob("*.yaml")))
        raise ParamsError(f"{path}: no such parameter file; profiles here: {known}")
    raw = _read_yaml(path)
    check_params(_merged(_base(path), raw) if isinstance(raw, dict) else raw, str(path))
    for change in changes:
        raw = _merged(raw, _change(change))
    if dataset is not None:
        if dataset not in PUBLIC:
            raise ParamsError(f"--dataset {dataset}: unknown; allowed: {', '.join(PUBLIC)}")
        task = PUBLIC[dataset].task
        raw = _merged(raw, {"profile": f"{raw.get('profile', path.stem)}-{dataset}", "tasks": [task], "data": {task: dataset}})
    return check_params(_merged(_base(path), raw), str(path))


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """The options by which a command chooses its parameters; `profile_of` reads them."""
    parser.add_argument("--profile", default="micro", help="a name in params/, or a YAML file")
    parser.add_argument("--dataset", help="a public data set: its task alone, results in <profile>-<dataset>")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one parameter, such as sizes.test_questions=90")


def profile_of(options: argparse.Namespace) -> Params:
    """Raises ParamsError, as `load_params`."""
    return load_params(options.profile, options.set, options.dataset)


def _base(path: Path) -> dict:
    return {} if path.stem == "micro" and path.parent == ROOT / "params" else _read_yaml(ROOT / "params" / "micro.yaml")


def _change(text: str) -> dict:
    """`a.b=value` as {"a": {"b": value}}."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ParamsError(f"--set {text}: expected KEY=VALUE, such as sizes.test_questions=90")
    try:
        found: object = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ParamsError(f"--set {text}: the value is not valid YAML") from None
    for part in reversed(key.strip().split(".")):
        found = {part: found}
    return found


def _merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top, section by section, so that one changed key leaves its neighbours alone."""
    both = dict(base)
    for key, value in changes.items():
        whole = key in ("validation", "use")  # of fidelity: they name the estimators that are compared, and no others
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) and not whole else value
    return both


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ParamsError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from None


def notebook_params(variables: dict) -> Params:
    """Parameters of a notebook: those that papermill or a reader set as variables, the profile's file for the rest (a profile
    without a file builds on `micro`)."""
    own = {name: variables[name] for name in Params.model_fields if name in variables}
    name = str(own.get("profile", "micro"))
    base = load_params(name if (ROOT / "params" / f"{name}.yaml").is_file() else "micro")
    check_params(own, "notebook parameters")
    return check_params(_merged(base.model_dump(), own), "notebook parameters")


def _line(source: str, item: dict) -> str:
    place = [str(part) for part in item["loc"]]
    key, kind = ".".join(place), item["type"]
    if kind == "extra_forbidden":
        allowed = _keys_at(place[:-1])
        near = difflib.get_close_matches(place[-1], allowed, n=1, cutoff=0.0)
        return f"{source}: {key}: unknown key; did you mean '{near[0]}'? allowed: {', '.join(allowed)}"
    if not place:
        return f"{source}: {item['msg'].replace('Value error, ', '')}"
    message = item["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return f"{source}: {key} = {item['input']!r}: {message}"


def _keys_at(place: list[str]) -> list[str]:
    model: type[BaseModel] = Params
    for part in place:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
