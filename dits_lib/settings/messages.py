"""One readable line for each mistake in parameters."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError

LONGEST = 80
"""Characters of a value that a message shows."""

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist = 3, 6, 12
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LONGEST


class ParamsError(ValueError):
    """Parameters that cannot be used; one line for each mistake."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the message says all."""
        return [f"{type(self).__name__}: {self}"]


def shown(value: object) -> str:
    """A value as a message shows it: in one line, cut to a readable length."""
    return cut(_REPR.repr(value))


def cut(text: str, longest: int = LONGEST) -> str:
    """A text in one line without control characters, its middle left out if it is long."""
    half = (longest - 5) // 2
    if len(text) > longest:
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """The mistakes that pydantic found in a mapping for `model`, in one line each; `""` as the
    name of the whole mapping is left out."""
    return [_line(item, model) for item in error.errors(include_url=False)]


def _line(item: dict, model: type[BaseModel]) -> str:
    place = [str(part) for part in item["loc"] if part != "[key]"]
    key = cut(".".join(place))
    message = item["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key;{did_you_mean(place[-1], _keys_at(place[:-1], model))}"
    if item["type"] == "missing":
        # An estimator's own settings apart, params/micro.yaml holds the value of every key.
        return f"{key}: missing, and params/micro.yaml has no default for it"
    if not key:
        return message
    if item["type"] == "value_error" and isinstance(item["input"], dict | BaseModel):
        return f"{key}: {message}"  # of a section as a whole
    return f"{key} = {shown(item['input'])}: {_WORDS.get(item['type'], message)}"


_WORDS = {
    "bool_type": "must be true or false",
    "int_type": "must be a valid integer",
    "float_type": "must be a valid number",
    "string_type": "must be text (a number or true in quotes, if that is meant)",
    "list_type": "must be a list",
    "dict_type": "must be keys and their values",
    "model_type": "must be keys and their values",
}


def did_you_mean(word: str, allowed: list[str]) -> str:
    """The second half of a message about a word that is none of those allowed."""
    near = difflib.get_close_matches(word[:LONGEST], allowed, n=1, cutoff=0.0)
    meant = f" did you mean '{near[0]}'?" if near else ""
    return f"{meant} allowed: {', '.join(allowed) or 'none'}"


def _keys_at(place: list[str], model: type[BaseModel]) -> list[str]:
    """The keys of a section of a model; of `X | None` those of X."""
    for part in place:
        field = model.model_fields.get(part)
        model = next(_models_in(field.annotation), None) if field else None
        if model is None:
            return []
    return list(model.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
