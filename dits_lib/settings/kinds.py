"""Kinds of values that many settings share, with their bounds: no number is open-ended."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from .messages import cut
from .places import with_home

MOST = 10_000_000
"""The largest count of anything."""

LARGEST = 1000.0
"""The largest number that has no bound of its own."""

T = TypeVar("T")

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
"""A count of which 0 leaves something out."""
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
Seeds = Annotated[int, Field(ge=2, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
PartOf = Annotated[float, Field(gt=0, le=1)]
"""A share that is not nothing."""
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Bounded = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be a text of one line that is not blank")
    return value


Text = Annotated[str, Field(max_length=4000), AfterValidator(_text)]
"""One line that is not blank."""

PathText = Annotated[Text, AfterValidator(with_home)]
"""A path, whose leading `~` stands for the home folder."""


def _different(values: list) -> list:
    again = [value for value, count in Counter(values).items() if count > 1]
    if again:
        raise ValueError(f"must not repeat a value, but {cut(str(again[0]))} stands there twice")
    return values


def _rising(values: list) -> list:
    if _different(values) != sorted(values):
        raise ValueError(f"must rise: {cut(str(sorted(values)))}")
    return values


Different = Annotated[list[T], Field(min_length=1, max_length=100), AfterValidator(_different)]
"""Values that do not repeat, in an order of the user's."""

Rising = Annotated[list[T], Field(min_length=1, max_length=100), AfterValidator(_rising)]
"""Numbers that do not repeat, the smallest first."""
