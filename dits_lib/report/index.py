"""What a notebook wrote of itself: its tables, figures and claims, in `index/<notebook>.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from ..settings.files import FileError
from .claims import CLAIMS

_SUFFIXES = {"table": ("csv", "md"), "figure": ("png", "svg")}


def _known_claim(number: str) -> str:
    if number not in CLAIMS:
        raise ValueError(f"no such claim; allowed: {', '.join(CLAIMS)}")
    return number


Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Entry(_Part):
    """A table or a figure, with the sentence that says what it shows."""

    kind: Literal["table", "figure"]
    name: Name
    caption: str
    fold: bool = False


class Claim(_Part):
    """The verdict on a claim of the paper, with the numbers behind it."""

    number: Annotated[str, AfterValidator(_known_claim)]
    verdict: str
    evidence: str


class Index(_Part):
    """The report of one notebook; `artifacts` are the folder names of the stages behind it."""

    notebook: Name
    entries: list[Entry]
    claims: list[Claim]
    artifacts: list[Name]

    def files(self) -> list[str]:
        """Its tables and figures, as paths below the results folder."""
        return [
            f"{entry.kind}s/{entry.name}.{suffix}"
            for entry in self.entries
            for suffix in _SUFFIXES[entry.kind]
        ]


def read_index(path: Path) -> Index:
    """The index in a file.

    Raises:
        FileError: when it is missing, damaged, or of another shape.
    """
    try:
        return Index.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
    except OSError as error:
        reason = error.strerror or str(error)
    raise FileError(f"{path}: damaged ({reason}); delete it and run {path.stem} again")
