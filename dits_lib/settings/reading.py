"""YAML that cannot be misread: what has two meanings is refused, with its line.

PyYAML reads YAML 1.1, where `on` is true, `1:30` is 90, `010` is 8, a key that stands twice
counts once, and ten lines of aliases can name more text than there is memory. Here the few plain
values of YAML 1.2's core are read, and everything else is text or refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml

from .messages import ParamsError, cut, shown

LARGEST_FILE = 1_000_000
"""Bytes; PyYAML takes seconds for a file of that size."""

DEEPEST = 20
"""Levels of sections and lists inside each other."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Reader(yaml.SafeLoader):
    """Plain values by YAML 1.2's core; keys are text, and none stands twice."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        found: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _refused("a key must be a word", key)
            if key.value in found:
                raise _refused(f"{shown(key.value)} stands here twice; keep one", key)
            found.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        digits = node.value.lstrip("+-")
        if len(digits) > 1 and digits.startswith("0"):
            raise _refused(f"{shown(node.value)} begins with 0; write it without", node)
        if len(digits) > 20:
            raise _refused(f"a number of {len(digits)} digits is too large", node)
        return int(node.value)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        sign, digits = (-1 if node.value.startswith("-") else 1), node.value.lstrip("+-").lower()
        value = sign * float(digits.removeprefix(".") if digits in (".inf", ".nan") else digits)
        if not math.isfinite(value):
            raise _refused(f"{cut(node.value)} is no finite number", node)
        return value


def _resolve(name: str, pattern: re.Pattern | str, first: str) -> None:
    tag = f"tag:yaml.org,2002:{name}"
    _Reader.add_implicit_resolver(tag, re.compile(f"(?:{_text(pattern)})$"), list(first))


def _text(pattern: re.Pattern | str) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern


# PyYAML takes the first that fits, so that an integer is none of the floats.
_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", _INTEGER, "-+0123456789")
_resolve("float", _FLOAT, "-+0123456789.")
_Reader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.construct_integer)
_Reader.add_constructor("tag:yaml.org,2002:float", _Reader.construct_number)


class _Writer(yaml.SafeDumper):
    """Puts into quotes what `_Reader` would not read as text."""


for _first, _resolvers in _Reader.yaml_implicit_resolvers.items():
    _Writer.yaml_implicit_resolvers = _Writer.yaml_implicit_resolvers | {
        _first: [*_Writer.yaml_implicit_resolvers.get(_first, []), *_resolvers]
    }


def _refused(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def read_yaml(path: Path) -> object:
    """The value that a YAML file holds.

    Raises:
        ParamsError: in one line that names the file, and the row of a mistake.
        OSError: when it cannot be read.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ParamsError(f"{path}: larger than a megabyte, which no parameter file is")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse_yaml(text, str(path), rows=True)


def parse_yaml(text: str, source: str, rows: bool = False) -> object:
    """The value of a YAML text.

    Args:
        source: what a message begins with.
        rows: whether a message names the row of the mistake too.

    Raises:
        ParamsError: in one line.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Reader)
    except yaml.reader.ReaderError as error:
        row, problem = text[: error.position].count("\n") + 1, f"character {error.character:#x}"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        row, problem = (mark.line + 1 if mark else None), getattr(error, "problem", None) or error
    where = f"{source}:{row}" if row and rows else source
    raise ParamsError(f"{where}: not valid YAML ({cut(str(problem), 160)})")


def _check_events(text: str) -> None:
    """Refuse what would make reading the values slow, deep or different from what is seen."""
    depth = 0
    for event in yaml.parse(text, Loader=_Reader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _marked("names for values (&name, *name) are not read; write the value", event)
        if getattr(event, "tag", None):
            raise _marked(f"types such as {cut(event.tag)} are not read; write the value", event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise _marked(f"more than {DEEPEST} sections or lists inside each other", event)


def _marked(problem: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.parser.ParserError(None, None, problem, event.start_mark)


def write_yaml(value: object) -> str:
    """A YAML text that `parse_yaml` reads as the same value."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False)
