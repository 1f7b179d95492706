"""Rows of data: JSONL that cannot be misread, and fields of the right types.

Whatever is wrong with a row gives one line that names the file, the row and the field.
"""

from __future__ import annotations

import io
import json
import math
from functools import cache
from pathlib import Path
from typing import Annotated, get_args

from pydantic import AfterValidator, TypeAdapter, ValidationError

from ..settings.messages import cut, shown
from .text import is_blank, shown_form

DEEPEST = 30
"""Lists and objects inside each other, at most."""

MOST_DIGITS = 20
"""Digits of an integer, at most; 64 bits have no more."""


class DataError(ValueError):
    """A data row that cannot be used. The message names the file, the line and the field."""


class RowError(ValueError):
    """A row that cannot be used: the field, and what is wrong with it, cut to one readable line."""

    def __init__(self, field: str, message: str):
        self.field, self.message = cut(field), cut(message, 240)
        super().__init__(f"field '{self.field}': {self.message}")


def _filled(text: str) -> str:
    if is_blank(text):
        raise ValueError("empty")
    return text


Filled = Annotated[str, AfterValidator(_filled)]
"""A text that is not blank."""


def json_lines(path: Path) -> list[tuple[str, object]]:
    """(file and line, value) of every line of a JSONL file that is not empty, its texts in Unicode
    NFC. A byte-order mark is no part of it.

    Raises:
        DataError: naming the file and the line: for what is no UTF-8 or no JSON, NaN and infinite
            numbers, integers of more than 20 digits, keys that stand twice in an object, halves of
            surrogate pairs, NUL, and more than 30 lists and objects inside each other.
    """
    rows = []
    for number, line in enumerate(io.StringIO(_text_of(path), newline=None), start=1):
        line = line.strip("\ufeff \t\r\n")  # files with a mark each may be joined to one
        if line:
            where = f"{path}:{number}"
            try:
                rows.append((where, cleaned(_value(line))))
            except (RowError, _Refused) as error:
                raise DataError(f"{where}: {error}") from None
    if not rows:
        raise DataError(f"{path}: no rows; expected one JSON object a line")
    return rows


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{row}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


class _Refused(ValueError):
    """JSON that would be read as something else than it seems to say."""


def _value(line: str) -> object:
    try:
        return json.loads(
            line,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
    except json.JSONDecodeError as error:
        raise _Refused(
            f"not valid JSON ({error.msg} at column {error.colno}); one object a line"
        ) from None
    except RecursionError:
        raise _Refused(_TOO_DEEP) from None


_TOO_DEEP = f"more than {DEEPEST} lists and objects inside each other"


def _object(pairs: list[tuple[str, object]]) -> dict:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"field {shown(key)} stands twice in one object; keep one")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    count = len(digits.lstrip("-"))
    if count > MOST_DIGITS:
        raise _Refused(f"an integer of {count} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"{cut(text)} is no finite number")
    return value


def cleaned(value: object, place: tuple[str, ...] = ()) -> object:
    """A value of JSON with its texts in Unicode NFC.

    Raises:
        RowError: naming the field, for a text that cannot be written as UTF-8 or holds a NUL, and
            for a value that is nested too deeply.
    """
    if len(place) > DEEPEST:
        raise RowError(".".join(place[:3]), _TOO_DEEP)
    if isinstance(value, str):
        return _clean_text(value, place)
    if isinstance(value, list):
        return [cleaned(item, (*place, str(n))) for n, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            key: cleaned(item, (*place, cut(_clean_text(str(key), place), 40)))
            for key, item in value.items()
        }
    return value


def _clean_text(text: str, place: tuple[str, ...]) -> str:
    field = ".".join(place) or "(row)"
    if "\x00" in text:
        raise RowError(field, "holds a NUL character; remove it")
    half = next((c for c in text if "\ud800" <= c <= "\udfff"), None) if not _fits(text) else None
    if half is not None:
        raise RowError(
            field, f"holds \\u{ord(half):04x}, half of a surrogate pair, which is no character"
        )
    return shown_form(text)


def _fits(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_fields(row: dict, fields: dict[str, object], section: str = "") -> None:
    """See whether the fields of a row are there and of their types.

    Args:
        fields: {field: type}, as pydantic takes types: `str`, `list[str]`, `Filled`, a model. A
            field of type `... | None` may be missing. Types are strict: true is no integer.
        section: of the row that these are the fields of, as `meta.`.

    Raises:
        RowError: for the first field that cannot be used.
    """
    for name, kind in fields.items():
        if name not in row:
            if type(None) in get_args(kind):
                continue
            raise RowError(f"{section}{name}", f"missing; expected {', '.join(fields)}")
        try:
            _reader(kind).validate_python(row[name], strict=True)
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            place = ".".join(cut(str(part), 40) for part in (name, *item["loc"]))
            raise RowError(f"{section}{place}", _said(item)) from None


@cache
def _reader(kind: object) -> TypeAdapter:
    return TypeAdapter(kind)


_EXPECTED = {
    "string_type": "str",
    "int_type": "int",
    "float_type": "float",
    "bool_type": "bool",
    "list_type": "list",
    "dict_type": "dict",
    "model_type": "dict",
}


def _said(item: dict) -> str:
    """A mistake that pydantic found, in the words of this file."""
    value = item["input"]
    if item["type"] == "missing":
        return "missing"
    if item["type"] in _EXPECTED:
        kind = "null" if value is None else f"a {type(value).__name__}"
        return f"{kind}; expected {_EXPECTED[item['type']]}"
    if item["type"] == "value_error":
        return item["msg"].replace("Value error, ", "")
    return f"{shown(value)}; {item['msg'].replace('Input should be', 'must be')}"
