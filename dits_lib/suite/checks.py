"""Input checks: what is wrong with data, model and machine is said before anything expensive."""

from __future__ import annotations

from pathlib import Path

from ..agents import ChatTemplateError
from ..engines import ModelError, check_model_folder
from ..influence import ESTIMATORS, ScoreError
from ..influence.peers import PeerEstimator
from ..settings import OUTPUT, ROOT, ParamsError
from ..settings.files import FileError
from ..tasks import DataError
from ..tasks.judge import JudgeError
from ..tools import CacheError, PageError
from ..training import TrainingError
from .deep_search import check_web
from .fitting import estimators_named
from .model_checks import check_models
from .notebooks import NOTEBOOKS, holds_questions_back
from .params import Params
from .question_checks import check_questions, check_words
from .ray_jobs import connect
from .store import StoreError, packed_models
from .workers import WorkerError


class InputError(ValueError):
    """Input that cannot be used, in one line."""


MADE = ("micro-web", "qwen", "qwen-small", "smollm2")
"""Model folders below `models/` for which the Makefile has a command."""
KNOWN_ERRORS = (
    ParamsError,
    DataError,
    StoreError,
    FileError,
    WorkerError,
    InputError,
    ModelError,
    ChatTemplateError,
    TrainingError,
    ScoreError,
    JudgeError,
    PageError,
    CacheError,
)
"""Errors whose message says all, in one line."""


def choose_notebooks(wanted: list[str] | None, params: Params) -> list[str]:
    """Names of the notebooks to run, in order: those asked for, else those of the parameters.

    Raises:
        InputError: for an unknown name, or a notebook that serves none of the tasks.
    """
    for name in wanted or []:
        if name not in NOTEBOOKS:
            raise InputError(
                f"--notebook {name}: no such notebook; allowed: {', '.join(NOTEBOOKS)}"
            )
        try:
            params.serving(name)
        except ParamsError as error:
            raise InputError(f"--notebook {name}: {error}") from None
    chosen = wanted or params.notebooks
    return [
        name
        for name, notebook in NOTEBOOKS.items()
        if name in chosen and notebook.tasks_of(params.tasks)
    ]


def check_inputs(params: Params, names: list[str]) -> None:
    """Look at data, models and device, the quickest first.

    Args:
        names: of the notebooks that will be run.

    Raises:
        InputError, DataError, ParamsError: in one line.
    """
    every = [*params.notebooks, *(name for name in names if name not in params.notebooks)]
    counted = every if holds_questions_back(params) else names
    params = params.model_copy(update={"notebooks": counted})
    check_peers(params)
    if params.cluster:
        connect(params.cluster)
    try:
        check_data_and_models(params)
        if params.model.device == "cuda" and not params.cluster:
            check_gpu(OUTPUT / "runs" / params.profile)
        if params.reads_pages:
            check_web(params, OUTPUT / "runs" / params.profile)
        check_words(params)
    except (ModelError, PageError, CacheError, JudgeError) as error:
        raise InputError(str(error)) from None


def check_peers(params: Params) -> None:
    """Raises InputError where an estimator is named whose package is not installed."""
    for key, names in estimators_named(params).items():
        for name in names:
            record = ESTIMATORS[name]
            if isinstance(record, PeerEstimator) and record.missing:
                raise InputError(f"{key} names {record.missing}, or leave it out")


def check_data_and_models(params: Params) -> None:
    """The quickest first: whether the folders are there, the questions, what loads tokenizers.

    Raises:
        ModelError, DataError: in one line.
    """
    check_folders(params)
    check_questions(params)
    check_models(params)


def check_folders(params: Params) -> None:
    """Raises ModelError where a model's folder is not there or is none; of one that a command here
    makes, naming that."""
    for path in params.model_paths():
        try:
            check_model_folder(path)
        except ModelError as error:
            folder = Path(path)
            if folder.exists() or folder.parent != ROOT / "models" or folder.name not in MADE:
                raise
            raise ModelError(f"{error}; `make {folder.name}-model` makes this one") from None


def sees_gpu() -> bool:
    """Whether torch can use a GPU here."""
    import torch

    return torch.cuda.is_available()


def check_gpu(runs: Path) -> None:
    """Stages that were computed elsewhere and packed without weights need no GPU to be shown.

    Args:
        runs: where the profile's stages are.

    Raises:
        InputError: when torch sees no GPU.
    """
    if not packed_models(runs):
        check_sees_gpu()


def check_sees_gpu() -> None:
    """Raises InputError when torch sees no GPU, which something is to be computed on."""
    if not sees_gpu():
        raise InputError("model.device is 'cuda', but torch sees no GPU; allowed here: cpu")
