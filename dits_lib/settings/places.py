"""Where things lie: the repository, what a run writes, and paths that a user wrote."""

from __future__ import annotations

import os
from pathlib import Path

from .messages import ParamsError

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root; relative paths in parameters start here."""


def with_home(path: str) -> str:
    """A path whose leading `~` or `~user` is replaced by the home folder; others as they are.

    Raises:
        ValueError: when there is no such home folder.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise ValueError(f"{path.split('/')[0]} is no user with a home folder here") from None


def output_folder() -> Path:
    """DITS_OUTPUT, or the repository. Notebooks run in another folder than the command that
    starts them, so that a relative path, too, starts at the repository.

    Raises:
        ParamsError: when it begins with the home folder of nobody.
    """
    try:
        return ROOT / with_home(os.environ.get("DITS_OUTPUT", ""))
    except ValueError as error:
        raise ParamsError(f"DITS_OUTPUT: {error}") from None


REPORT_TO = "DITS_REPORT_TO"
"""The environment variable by which `reproduce` tells a notebook where its report goes."""


def report_folder() -> Path | None:
    """Where `reproduce` wants the report of a notebook; None for a notebook run by hand."""
    told = os.environ.get(REPORT_TO)
    return Path(told) if told else None


OUTPUT = output_folder()
"""Where `runs/` (artifacts) and `results/` go; set DITS_OUTPUT to keep them elsewhere."""
