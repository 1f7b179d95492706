"""What a notebook wrote of itself: its tables, figures and claims, in `index/<notebook>.json`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ..settings.files import FileError
from .claims import CLAIMS, Comparison

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


class StoredComparison(_Part):
    """A comparison; JSON has no NaN and no infinity, so null stands for them: no value, a normal
    distribution (`df`), no bound."""

    task: str
    name: str
    estimate: float | None
    stderr: Annotated[float, Field(ge=0)] | None
    df: Annotated[float, Field(gt=0)] | None
    scale: Literal["linear", "correlation"]
    lower: float | None
    upper: float | None
    shared: Annotated[float, Field(ge=0)]
    shared_df: Annotated[float, Field(gt=0)] | None
    count: Annotated[int, Field(ge=0)]
    reach: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _can_be_one(self) -> StoredComparison:
        self.comparison()
        return self

    def comparison(self) -> Comparison:
        """As it was before it was stored."""
        missing = {"lower": -math.inf, **dict.fromkeys(("upper", "df", "shared_df"), math.inf)}
        values = self.model_dump()
        if self.estimate is None or self.stderr is None:
            missing["df"] = math.nan
        return Comparison(
            **{k: missing.get(k, math.nan) if v is None else v for k, v in values.items()}
        )


def stored_comparison(comparison: Comparison) -> dict:
    """A comparison as plain values for JSON."""
    values = dataclasses.asdict(comparison)
    for name in ("estimate", "stderr", "df", "shared_df", "lower", "upper"):
        found = float(values[name])
        values[name] = found if math.isfinite(found) else None
    return values


class Claim(_Part):
    """What a notebook knows of a claim of the paper."""

    number: Annotated[str, AfterValidator(_known_claim)]
    comparisons: list[StoredComparison]
    note: str = ""


class OldClaim(_Part):
    """A verdict and its evidence as text, as earlier versions wrote them."""

    number: Annotated[str, AfterValidator(_known_claim)]
    verdict: str
    evidence: str


class Index(_Part):
    """The report of one notebook; `artifacts` are the folder names of the stages behind it."""

    notebook: Name
    entries: list[Entry]
    claims: list[Claim | OldClaim]
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
