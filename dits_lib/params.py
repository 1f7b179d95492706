"""Load and check parameters: every mistake gives one line that names the file, the key and what is allowed."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .influence import InfluenceConfig
from .search import SearchConfig
from .tasks import HARM_KINDS
from .training import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root; relative paths in parameters start here."""

OUTPUT = Path(os.environ.get("DITS_OUTPUT", ROOT))
"""Where `runs/` (artifacts) and `results/` go; set DITS_OUTPUT to keep them elsewhere."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Task = Literal["exchange", "debate"]


class ParamsError(ValueError):
    """Parameters that cannot be used; one line a mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Model(_Section):
    """`path`: model folder or hub id. `device`: cpu or cuda. `max_rows`: replies sampled together."""

    path: str = "models/micro"
    device: Literal["cpu", "cuda"] = "cpu"
    max_rows: Count = 128


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

    def config(self) -> InfluenceConfig:
        return InfluenceConfig(self.beta, self.rank, self.scaling, self.samples, self.temperature, self.candidates)


class Selection(_Section):
    """`alpha`: share of the pairs that is kept. `small_alpha`: a smaller share, to see whether less hurts."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    small_alpha: Annotated[float, Field(gt=0, le=1)] = 0.1


class Train(_Section):
    """See `dits_lib.training.TrainConfig`. `min_reward` (SFT only): dialogues above it are learned."""

    steps: Count = 40
    batch: Count = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    lora_rank: Annotated[int, Field(ge=0, le=256)] = 0
    beta: Positive = 0.1
    nll_weight: Annotated[float, Field(ge=0, le=10)] = 0.0
    min_reward: float = 0.5

    def config(self, **changes) -> TrainConfig:
        return TrainConfig(**self.model_dump(exclude={"min_reward"}) | changes)


class Sizes(_Section):
    """Numbers of questions: for the SFT search, the training search, the validation pairs, and each reported number."""

    sft_questions: Count = 60
    train_questions: Count = 120
    loss_questions: Count = 40
    test_questions: Count = 500


class Ablation(_Section):
    """`seeds` of notebook 03 (SFT seed included)."""

    seeds: Annotated[int, Field(ge=2)] = 5


class Scoring(_Section):
    """`pairs`: scored in notebook 02, at most; `retest_questions`: questions of each of two disjoint validation sets."""

    pairs: Annotated[int, Field(ge=4)] = 200
    retest_questions: Annotated[int, Field(ge=2)] = 40


class Budget(_Section):
    """Notebook 04: `questions` searched with Q-values; DITS searches `dits_questions` and scores with `validation` questions."""

    seeds: Annotated[int, Field(ge=2)] = 4
    q_questions: Annotated[list[Count], Field(min_length=1)] = [40, 80, 160]
    dits_questions: Count = 40
    validation: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [5, 10, 20]


class Iterations(_Section):
    """Notebook 05: `rounds` of search, score, select, SFT and DPO; `questions` searched a round."""

    seeds: Annotated[int, Field(ge=2)] = 3
    rounds: Annotated[int, Field(ge=1, le=20)] = 3
    questions: Count = 60
    gamma: Annotated[float, Field(ge=0)] = 1.0


class Params(_Section):
    """All parameters of a profile."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "micro"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    tasks: Annotated[list[Task], Field(min_length=1)] = ["exchange", "debate"]
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    model: Model = Model()
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

    @model_validator(mode="after")
    def _fitting(self):
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks must not repeat")
        if self.world.questions is not None and (len(self.tasks) > 1 or self.world.harmful.share > 0):
            raise ValueError("world.questions holds one task's questions and takes no planted harm: name one task, and share 0")
        return self

    def model_path(self) -> str:
        """The model folder, made absolute when it lies in the repository."""
        local = ROOT / self.model.path
        return str(local) if local.exists() or self.model.path.startswith((".", "models/")) else self.model.path


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


def load_params(profile: str | Path) -> Params:
    """Parameters of a profile name (`params/<profile>.yaml`) or of a YAML file; keys left out are those of `micro`.

    Raises:
        ParamsError: one line a mistake.
    """
    path = Path(profile) if str(profile).endswith((".yaml", ".yml")) else ROOT / "params" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (ROOT / "params").glob("*.yaml")))
        raise ParamsError(f"{path}: no such parameter file; profiles here: {known}")
    raw = _read_yaml(path)
    check_params(raw, str(path))
    return check_params(_merged(_read_yaml(ROOT / "params" / "micro.yaml"), raw), str(path))


def _merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top, section by section, so that one changed key leaves its neighbours alone."""
    both = dict(base)
    for key, value in changes.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
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
