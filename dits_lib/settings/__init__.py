"""Settings that check themselves, and whose defaults stand in one place: `params/micro.yaml`.

A class of settings names its section of that file. What a caller leaves out is read from there, so
that `SearchSettings(repetitions=4)` and a parameter file that says `search: {repetitions: 4}` mean
the same. Only the settings of a single estimator have their defaults in the estimator's own file.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator

from .kinds import Count, Positive, Share
from .messages import ParamsError
from .places import OUTPUT, ROOT
from .reading import parse_yaml, read_yaml, write_yaml

__all__ = [
    "DEFAULTS",
    "OUTPUT",
    "ROOT",
    "Count",
    "ParamsError",
    "Positive",
    "Settings",
    "Share",
    "defaults",
    "parse_yaml",
    "read_yaml",
    "write_yaml",
]

DEFAULTS = ROOT / "params" / "micro.yaml"


class Settings(BaseModel):
    """A group of settings, checked when it is built and never changed afterwards. Nothing is
    converted: text is no number, and true is not 1; numbers are finite.

    Attributes:
        section: where `params/micro.yaml` holds the defaults, as keys joined by dots; `None` for
            settings whose defaults stand in the class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
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
