"""All parameters of a profile: every mistake gives one line that names the file, the key and what
is allowed. Defaults stand in `params/micro.yaml` alone."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ..agents import TASKS, World
from ..pairs import PairSettings
from ..search import SearchSettings
from ..settings import ROOT, ParamsError, Settings, parse_yaml, read_yaml
from ..settings.kinds import Different
from ..settings.messages import cut, mistakes, shown
from ..settings.places import with_home
from ..tasks.public import PUBLIC
from ..training import DPOSettings
from .cells import given_parameters
from .fitting import check_fit
from .notebooks import NOTEBOOKS
from .sections import (
    SFT,
    Ablation,
    Agents,
    Budget,
    Data,
    Fidelity,
    Influence,
    Iterations,
    Model,
    Ray,
    Scoring,
    Selection,
    Sensitivity,
    Sizes,
    Testing,
    Web,
    WorldSettings,
)

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
    executor: Literal["local", "ray"]
    ray: Ray
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
    testing: Testing
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
        check_fit(self)
        return self

    @property
    def cluster(self) -> Ray | None:
        """What workers ask a Ray cluster for; None where they are processes of this host."""
        return self.ray if self.executor == "ray" else None

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
        dataset: a public data set; its task is the only one, the profile's name gets it as a
            suffix, and what the file's `by_data_set` says of it holds.

    Raises:
        ParamsError: one line for each mistake.
    """
    path = _profile_file(str(profile))
    raw, by_data_set = _read_profile(path)
    if isinstance(raw, dict):
        raw = {"profile": path.stem} | raw
    found = check_params(raw, str(path))
    if path.parent.resolve() == PROFILES and found.profile != path.stem:
        raise ParamsError(
            f"{path}: profile = {found.profile!r}: must be {path.stem}, the name of the file"
        )
    if dataset is not None:
        if dataset not in PUBLIC:
            raise ParamsError(f"--dataset {cut(dataset)}: unknown; allowed: {', '.join(PUBLIC)}")
        raw = _merged(raw, by_data_set.get(dataset, {}))
    for change in _changes(changes):
        raw = _merged(raw, change)
    if dataset is not None:
        task = PUBLIC[dataset].task
        name = f"{raw['profile']}-{dataset}"
        raw = _merged(raw, {"profile": name, "tasks": [task], "data": {task: dataset}})
    return check_params(raw, str(path)) if changes or dataset else found


BY_DATA_SET = "by_data_set"
"""Section of a profile's file, {data set: {section: {key: value}}}: what `load_params` changes when
it is given that data set. No parameter itself."""


def _read_profile(path: Path) -> tuple[object, dict[str, dict]]:
    """What stands in a profile's file: its parameters, and its `by_data_set`.

    Raises:
        ParamsError: for changes of an unknown data set, or that give no valid parameters.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict) or BY_DATA_SET not in raw:
        return raw, {}
    changes = raw[BY_DATA_SET]
    raw = {key: value for key, value in raw.items() if key != BY_DATA_SET}
    if not isinstance(changes, dict):
        raise ParamsError(f"{path}: {BY_DATA_SET}: expected data sets: {', '.join(PUBLIC)}")
    for name, change in changes.items():
        where = f"{path}: {BY_DATA_SET}.{cut(str(name))}"
        if name not in PUBLIC:
            raise ParamsError(f"{where}: no such data set; allowed: {', '.join(PUBLIC)}")
        if not isinstance(change, dict) or not set(change) <= set(Params.model_fields):
            raise ParamsError(
                f"{where}: expected sections and their keys, such as dpo: {{beta: 1}}"
            )
        check_params({"profile": path.stem} | _merged(raw, change), where)
    return raw, changes


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
        # These name the estimators that are compared, and no others.
        sections = isinstance(value, dict) and isinstance(both.get(key), dict)
        whole = key in ("validation", "use", "noise")
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
    if _complete(own, Params):  # `reproduce` gives all, also of a profile that has no file
        base = {}
    elif isinstance(profile, str) and profile in profile_names():
        base, _ = _read_profile(PROFILES / f"{profile}.yaml")
    else:
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
