"""Questions: what is asked, what each agent may read, and the answers that count as right."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

SPLITS = ("base", "train", "validation", "development", "test")
"""Who may use a question. `base`: training the micro base model. `train`: search, SFT and DPO.
`validation`: influence scores. `development`: step sizes and other settings. `test`: reported
numbers, and nothing else."""


class DataError(ValueError):
    """A data row that cannot be used. The message names the file, the line and the field."""


@dataclass(frozen=True)
class Question:
    """One question of one task.

    Attributes:
        id: unique within a run.
        text: the question as both agents see it.
        answers: gold answers; the metric takes the best match.
        views: what each agent may read, by agent name.
        meta: everything else: `family`, `split`, and for planted harm `harmful` (bool) and
            `reward_sign` (+1 or -1).
    """

    id: str
    text: str
    answers: tuple[str, ...]
    views: dict[str, str]
    meta: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self) | {"answers": list(self.answers)}

    @staticmethod
    def from_json(row: dict) -> Question:
        return Question(
            row["id"],
            row["text"],
            tuple(row["answers"]),
            dict(row["views"]),
            dict(row.get("meta", {})),
        )


_FIELDS = {"id": str, "text": str, "answers": list, "views": dict}


def read_questions(path: str | Path, agents: tuple[str, ...]) -> list[Question]:
    """Read questions from a JSONL file of one object a line: `id`, `text`, `answers`, `views`, and
    `meta.split`.

    Args:
        path: the file.
        agents: names that every row's `views` must hold.

    Raises:
        DataError: naming the file, the line and the field of the first row that cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected JSONL with the fields {', '.join(_FIELDS)} and "
            "meta.split"
        )
    questions, seen = [], set()
    for where, row in json_lines(path):
        question = _parse_row(row, where, agents)
        if question.id in seen:
            raise DataError(
                f"{where}: field 'id': {question.id!r} occurs twice; ids must be unique"
            )
        seen.add(question.id)
        questions.append(question)
    return questions


def json_lines(path: Path) -> list[tuple[str, object]]:
    """(file and line, value) of every line of a JSONL file that is not empty.

    Raises:
        DataError: naming the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append((f"{path}:{number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno}); one "
                    "object a line"
                ) from None
    if not rows:
        raise DataError(f"{path}: no rows; expected one JSON object a line")
    return rows


def _parse_row(row: object, where: str, agents: tuple[str, ...]) -> Question:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}; expected one JSON object a line")
    for name, kind in _FIELDS.items():
        if name not in row:
            raise DataError(
                f"{where}: field '{name}' is missing; expected {', '.join(_FIELDS)} and meta.split"
            )
        if not isinstance(row[name], kind):
            raise DataError(
                f"{where}: field '{name}' is a {type(row[name]).__name__}; expected {kind.__name__}"
            )
    if not row["answers"] or not all(isinstance(a, str) and a.strip() for a in row["answers"]):
        raise DataError(
            f"{where}: field 'answers': expected a list of one or more non-empty strings"
        )
    missing = [name for name in agents if not isinstance(row["views"].get(name), str)]
    if missing:
        raise DataError(
            f"{where}: field 'views.{missing[0]}' is missing; expected a string for "
            f"{', '.join(agents)}"
        )
    if not isinstance(row.get("meta"), dict):
        raise DataError(
            f"{where}: field 'meta' is missing or no object; expected {{\"split\": ...}}"
        )
    split = row["meta"].get("split")
    if split not in SPLITS:
        raise DataError(f"{where}: field 'meta.split' is {split!r}; allowed: {', '.join(SPLITS)}")
    row["meta"].setdefault("family", "own data")
    return Question.from_json(row)
