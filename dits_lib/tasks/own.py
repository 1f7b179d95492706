"""One's own questions, from a JSONL file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..settings.messages import shown
from .base import SPLITS, Question, check_question
from .rows import DataError, Filled, RowError, check_fields, json_lines
from .text import folded

_FIELDS = {"id": str, "text": str, "answers": list, "views": dict}
_META = {
    "family": Filled | None,
    "harmful": bool | None,
    "reward_sign": Literal[1, -1] | None,
    "script": dict[str, list[str]] | None,
    "letters": list[Filled] | None,
    "options": list[Filled] | None,
    "neither_suffices": bool | None,
}


def read_questions(
    path: str | Path, agents: tuple[str, ...], choice: bool | None = None
) -> list[Question]:
    """Read questions from a JSONL file of one object a line: `id`, `text`, `answers`, `views`, and
    `meta.split`.

    A question serves one split. Two rows hold the same question when their texts and views differ
    in nothing but Unicode form, case and white space; the same text with other views is another
    question.

    Args:
        path: the file.
        agents: names that every row's `views` must hold.
        choice: whether the answers are letters of options, and views may be blank. None: of each
            row for itself, whether it has options and its answers are among their letters.

    Raises:
        DataError: naming the file, the line and the field of the first row that cannot be used.
    """
    return [question for _, question in read_rows(path, agents, choice)]


def read_rows(
    path: str | Path, agents: tuple[str, ...], choice: bool | None = None
) -> list[tuple[str, Question]]:
    """As `read_questions`; (file and line, question)."""
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected JSONL with the fields {', '.join(_FIELDS)} and "
            "meta.split"
        )
    rows, ids, texts = [], set(), {}
    for where, row in json_lines(path):
        try:
            question = _parse_row(row, agents, choice)
            if question.id in ids:
                raise RowError("id", f"{shown(question.id)} occurs twice; ids must be unique")
            _check_one_split(question, where, texts)
        except RowError as error:
            raise DataError(f"{where}: {_sentence(error)}") from None
        ids.add(question.id)
        rows.append((where, question))
    return rows


def _sentence(error: RowError) -> str:
    """A mistake as a sentence where its message is the half of one: `is missing`, `is a list`."""
    half = error.message.startswith(("missing", "a ", "null")) or error.field == "meta.split"
    return f"field '{error.field}' is {error.message}" if half else str(error)


def _check_one_split(question: Question, where: str, texts: dict) -> None:
    """Raises RowError when another split has this question. `texts`: {question: (split, place)} of
    the rows before, to which it is added."""
    views = tuple(sorted((agent, folded(view)) for agent, view in question.views.items()))
    split = question.meta["split"]
    other, place = texts.setdefault((folded(question.text), views), (split, where))
    if other != split:
        raise RowError(
            "text",
            f"the question of {place} again, which is in split '{other}', this one in '{split}'; "
            "splits must be disjoint",
        )


def _parse_row(row: object, agents: tuple[str, ...], choice: bool | None) -> Question:
    if not isinstance(row, dict):
        kind = "null" if row is None else f"a {type(row).__name__}"
        raise RowError("(row)", f"{kind}; expected one JSON object a line")
    for name in _FIELDS:
        if name not in row:
            raise RowError(name, f"missing; expected {', '.join(_FIELDS)} and meta.split")
    check_fields(row, _FIELDS)
    for name in agents:
        if row["views"].get(name) is None:
            expected = f"expected a string for {', '.join(agents)}"
            raise RowError(f"views.{name}", f"missing; {expected}")
    check_fields(row, {"views": dict[str, str]})
    meta = _parse_meta(row.get("meta"))
    if not row["answers"] or not all(isinstance(a, str) and a.strip() for a in row["answers"]):
        raise RowError("answers", "expected a list of one or more non-empty strings")
    question = Question.from_json(row | {"meta": meta})
    check_question(question, agents, choice)
    return question


def _parse_meta(meta: object) -> dict:
    if not isinstance(meta, dict):
        raise RowError("meta", 'missing or no object; expected {"split": ...}')
    if meta.get("split") not in SPLITS:
        raise RowError("meta.split", f"{shown(meta.get('split'))}; allowed: {', '.join(SPLITS)}")
    check_fields(meta, _META, "meta.")
    given = {key: value for key, value in meta.items() if value is not None}
    return {"family": "own data"} | given
