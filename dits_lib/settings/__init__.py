"""Settings that check themselves, and whose defaults stand in one place: `params/micro.yaml`.

A class of settings names its section of that file. What a caller leaves out is read from there, so
that `SearchSettings(repetitions=4)` and a parameter file that says `search: {repetitions: 4}` mean
the same. Only the settings of a single estimator have their defaults in the estimator's own file.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root; relative paths in parameters start here."""

OUTPUT = Path(os.environ.get("DITS_OUTPUT", ROOT))
"""Where `runs/` (artifacts) and `results/` go; set DITS_OUTPUT to keep them elsewhere."""

DEFAULTS = ROOT / "params" / "micro.yaml"

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class ParamsError(ValueError):
    """Parameters that cannot be used; one line for each mistake."""


class Settings(BaseModel):
    """A group of settings, checked when it is built and never changed afterwards.

    Attributes:
        section: where `params/micro.yaml` holds the defaults, as keys joined by dots; `None` for
            settings whose defaults stand in the class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    section: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: object) -> object:
        if cls.section is None or not isinstance(given, dict):
            return given
        known = {
            key: value for key, value in defaults(cls.section).items() if key in cls.model_fields
        }
        return known | given

    def changed(self, **changes: object) -> Self:
        """The same settings with some values changed, checked again."""
        return type(self)(**(dict(self) | changes))


def defaults(section: str) -> dict:
    """The values of a section of `params/micro.yaml` (`""`: of the whole file); empty if it has
    none.

    Raises:
        ParamsError: when the file is missing or no YAML.
    """
    found = _default_file()
    for key in filter(None, section.split(".")):
        found = found.get(key, {})
    return found if isinstance(found, dict) else {}


@cache
def _default_file() -> dict:
    if not DEFAULTS.is_file():
        raise ParamsError(
            f"{DEFAULTS}: no such file, and all defaults stand there; install from a checkout: pip "
            "install -e ."
        )
    found = read_yaml(DEFAULTS)
    if not isinstance(found, dict):
        raise ParamsError(f"{DEFAULTS}: a {type(found).__name__}; expected keys and their defaults")
    return found


def read_yaml(path: Path) -> object:
    """The value that a YAML file holds.

    Raises:
        ParamsError: in one line that names the file, and the row of a mistake.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ParamsError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
