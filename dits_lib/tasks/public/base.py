"""What a public data set defines, and how its rows become questions of disjoint splits.

A data set is one small class: where it lies, its licence, and how one row becomes a question. It is
read from the hub by `datasets.load_dataset`, or from a folder of JSONL files in the same schema
(`data.data_dir`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ...settings.messages import cut
from ..answers import answer_fault
from ..base import Question, check_question, letters_to_choose
from ..rows import DataError, RowError, check_fields, cleaned, json_lines
from ..text import folded, is_blank, shown_form

SHARES = {"train": 0.4, "validation": 0.2, "development": 0.1, "test": 0.3}
"""How the rows of one hub split are shared out among the splits that it serves."""


class PublicDataset:
    """One data set. A subclass sets the attributes and defines `question`.

    Attributes:
        name: how parameters name it.
        task: `exchange`, `debate` or `deep_search`.
        hub_id, config: of the hub.
        licence: of the data, as its card names it.
        hub_split: {split here: split of the hub}; splits here that share one are drawn from it
            without overlap.
        fields: {field: type} of a row, as `check_fields` takes them: `str`, `list[str]`, `Filled`
            for a text that is not blank, a pydantic model for an object; `... | None` for a field
            that may be missing.
        question_field: the one that holds the question's text.
        answer_field: the one that holds the answers.
    """

    question_field = "question"
    answer_field = "answer"
    name: str
    task: str
    hub_id: str
    config: str | None = None
    licence: str
    hub_split = {
        "train": "train",
        "validation": "train",
        "development": "train",
        "test": "validation",
    }
    fields: dict[str, object]

    def question(self, row: dict, words: int) -> Question:
        """The question of a row; each agent reads at most `words` words of context.

        Raises:
            RowError: when a field cannot be used.
        """
        raise NotImplementedError

    def flat(self, row: dict) -> dict:
        """The row with its fields at the places that `fields` names; for data whose hub and files
        differ in them."""
        return row

    def checked(self, row: object, words: int, where: str) -> Question:
        """As `question`, after a look at the fields, and of answers those that can be right.

        Texts are taken in Unicode NFC.

        Raises:
            DataError: naming `where` the row stands, and the field.
        """
        try:
            return self._checked(row, words)
        except NeverRight as error:
            raise UnanswerableError(f"{where}: {error}") from None
        except RowError as error:
            raise DataError(f"{where}: {error}") from None
        except Exception as error:
            # What the fields' types do not tell: one line all the same, whoever wrote the class.
            reason = f"{type(error).__name__}: {cut(str(error))}"
            raise DataError(f"{where}: field '(row)': no row of {self.name} ({reason})") from error

    def _checked(self, row: object, words: int) -> Question:
        if not isinstance(row, dict):
            kind = "null" if row is None else f"a {type(row).__name__}"
            raise RowError("(row)", f"{kind}; expected an object with {', '.join(self.fields)}")
        row = self.flat(cleaned(row))
        check_fields(row, self.fields)
        if is_blank(str(row[self.question_field])):
            raise RowError(self.question_field, "empty")
        question = _rightly_answered(self.question(row, words), self.answer_field)
        check_question(question, answer_field=self.answer_field)
        return question


class NeverRight(RowError):
    """A row none of whose gold answers can be given."""


class UnanswerableError(DataError):
    """The same, with the place of the row. Nobody can mend the rows of a hub, so there they are
    left out and counted; in a file of one's own they are told."""


def _rightly_answered(question: Question, field: str) -> Question:
    """The question without aliases that no reply can match.

    Raises:
        NeverRight: when that leaves none.
    """
    if letters_to_choose(question) is not None or not question.answers:
        return question
    faults = {answer: answer_fault(answer, None) for answer in question.answers}
    answers = tuple(answer for answer, fault in faults.items() if fault is None)
    if not answers:
        raise NeverRight(field, next(iter(faults.values())))
    return replace(question, answers=answers)


@dataclass(frozen=True)
class Slice:
    """What serves one split: its questions, where they come from, and how many rows of the source
    were left out as repeats, or because no answer to them can be right."""

    split: str
    source: str
    questions: tuple[Question, ...]
    repeats: int
    unanswerable: int = 0

    @cached_property
    def digest(self) -> str:
        """Hash of the questions."""
        body = json.dumps([question.to_json() for question in self.questions], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]


def load_splits(
    dataset: PublicDataset, data_dir: str | Path | None, words: int, max_rows: int
) -> dict[str, Slice]:
    """The questions of every split, disjoint by question text.

    Args:
        data_dir: folder of `<name>*.jsonl` files (a file whose name ends in the hub split serves
            that split; a single file serves all); None reads the hub.
        words: of context that an agent reads at most.
        max_rows: rows of a hub split used at most, drawn by a hash of the question.

    Raises:
        DataError: for a missing file, a row that cannot be used (file, line, field), or splits that
            overlap.
    """
    served: dict[tuple[str, ...], list[str]] = {}
    for split, hub_split in dataset.hub_split.items():
        served.setdefault(_source(dataset, data_dir, hub_split), []).append(split)
    taken: set[str] = set()
    ids: dict[str, str] = {}
    slices: dict[str, Slice] = {}
    # The source that serves the test split comes first: what stands in it is not used for anything
    # else.
    for source, splits in sorted(served.items(), key=lambda item: "test" not in item[1]):
        rows = (
            _read_local(dataset, Path(source[0]))
            if data_dir is not None
            else _read_hub(dataset, source[1])
        )
        hub = data_dir is None
        kept, left_out = _distinct(dataset, rows, words, max_rows, taken, ids, hub)
        slices |= _share_out(kept, splits, " ".join(filter(None, source)), left_out)
    check_disjoint(dataset.name, slices)
    return {split: slices[split] for split in dataset.hub_split}


def check_disjoint(name: str, slices: dict[str, Slice]) -> None:
    """Raises DataError when a question text stands in two splits."""
    owner: dict[str, str] = {}
    for split, part in slices.items():
        for question in part.questions:
            if owner.setdefault(_key(question), split) != split:
                raise DataError(
                    f"{name}: question {question.id!r} is in '{split}' and in "
                    f"'{owner[_key(question)]}'; splits must be disjoint"
                )


def _source(dataset: PublicDataset, data_dir: str | Path | None, hub_split: str) -> tuple[str, ...]:
    if data_dir is None:
        return (dataset.hub_id, hub_split, dataset.config or "")
    files = sorted(Path(data_dir).glob(f"{dataset.name}*.jsonl"))
    if not files:
        raise DataError(
            f"{data_dir}: no file {dataset.name}*.jsonl; expected rows in the schema of "
            f"{dataset.hub_id}"
        )
    own = [path for path in files if path.stem.endswith(hub_split)]
    if len(own or files) > 1:
        raise DataError(
            f"{data_dir}: {len(files)} files {dataset.name}*.jsonl; expected one, or one a split, "
            "its name ending in train, validation or test"
        )
    return (str((own or files)[0]),)


Rows = list[tuple[str, str, Callable[[], object]]]
"""(where the row stands, its question's text, the row), the row read when it is needed: a hub split
may not fit the memory."""


def _read_local(dataset: PublicDataset, path: Path) -> Rows:
    return [(where, _text_of(dataset, row), lambda row=row: row) for where, row in json_lines(path)]


def _text_of(dataset: PublicDataset, row: object) -> str:
    """The question's text, which decides the order of rows; empty where `checked` will complain."""
    try:
        return str(dataset.flat(row).get(dataset.question_field))
    except Exception:
        return ""


def _read_hub(dataset: PublicDataset, split: str) -> Rows:
    from datasets import load_dataset

    try:
        table = load_dataset(dataset.hub_id, dataset.config, split=split)
    except Exception as error:
        # No network, no such split, a hub that refuses: the user needs one line.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{dataset.hub_id} ({split}): cannot be loaded from the hub: {reason}; or set "
            "data.data_dir to a folder of JSONL"
        ) from None
    name = next(
        (column for column in table.column_names if column.lower() == dataset.question_field), None
    )
    if name is None:
        raise DataError(
            f"{dataset.hub_id} ({split}): no column '{dataset.question_field}'; its columns: "
            f"{', '.join(table.column_names)}"
        )
    texts = table.select_columns(name)
    return [
        (f"{dataset.hub_id} {split} row {i}", shown_form(str(row[name])), lambda i=i: table[i])
        for i, row in enumerate(texts)
    ]


def _distinct(
    dataset: PublicDataset,
    rows: Rows,
    words: int,
    max_rows: int,
    taken: set[str],
    ids: dict[str, str],
    hub: bool,
) -> tuple[list[Question], tuple[int, int]]:
    """Questions in the order of a hash of their text, each text once and none that is taken; and
    how many were left out as repeats, and as unanswerable (rows of a hub alone). `ids`: where each
    id stands, to which it is added.

    Raises:
        DataError: for a row that cannot be used, or one whose id another question has.
    """
    found: dict[str, Question] = {}
    repeats = unanswerable = 0
    for where, _, row in sorted(rows, key=lambda item: stable_hash(item[1])):
        if len(found) == max_rows:
            break
        try:
            question = dataset.checked(row(), words, where)
        except UnanswerableError:
            if not hub:
                raise
            unanswerable += 1
            continue
        if _key(question) in found or _key(question) in taken:
            repeats += 1
        elif question.id in ids:
            raise DataError(
                f"{where}: field 'id': {cut(question.id)} is the id of another question too, of "
                f"{ids[question.id]}; ids must be unique"
            )
        else:
            ids[question.id] = where
            found[_key(question)] = replace(
                question, meta=question.meta | {"dataset": dataset.name}
            )
    taken.update(found)
    return list(found.values()), (repeats, unanswerable)


def _share_out(
    questions: list[Question], splits: list[str], source: str, left_out: tuple[int, int]
) -> dict[str, Slice]:
    edges = np.cumsum([0.0, *(SHARES[split] for split in splits)])
    cuts = np.round(edges / edges[-1] * len(questions)).astype(int)
    parts = {}
    for split, start, stop in zip(splits, cuts[:-1], cuts[1:], strict=True):
        own = tuple(replace(q, meta=q.meta | {"split": split}) for q in questions[start:stop])
        parts[split] = Slice(split, source, own, *left_out)
    return parts


def _key(question: Question) -> str:
    return folded(question.text)


def stable_hash(*parts: object) -> int:
    """A 64-bit hash that is the same in every process."""
    return int.from_bytes(
        hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "little"
    )


def first_words(text: str, count: int) -> str:
    """The first `count` words of a text; line breaks stay."""
    kept, left = [], count
    for line in text.split("\n"):
        words = line.split()
        kept.append(" ".join(words[:left]))
        left -= len(words)
        if left <= 0:
            break
    return "\n".join(kept)


def deal(
    passages: list[str], essential: list[int], words: int, seed: object
) -> tuple[dict[str, str], dict[int, str]]:
    """Share passages out between alice and bob.

    Essential passages go to the two in turn, so that neither has them all when there are two or
    more; the others follow as long as `words` allows. Which agent begins, and the order in a view,
    follow from the seed.

    Returns the views, and who has which passage.
    """
    rng = np.random.default_rng(stable_hash("deal", seed))
    agents = ["alice", "bob"] if rng.random() < 0.5 else ["bob", "alice"]
    others = [i for i in rng.permutation(len(passages)).tolist() if i not in essential]
    held: dict[str, list[int]] = {agent: essential[n::2] for n, agent in enumerate(agents)}
    for n, index in enumerate(others):
        agent = agents[(n + len(essential)) % 2]
        if sum(len(passages[i].split()) for i in [*held[agent], index]) <= words:
            held[agent].append(index)
    views = {}
    for agent in ("alice", "bob"):
        order = [held[agent][i] for i in rng.permutation(len(held[agent]))]
        share = words // max(1, len(order))
        fits = sum(len(passages[i].split()) for i in order) <= words
        views[agent] = "\n".join(
            passages[i] if fits else first_words(passages[i], share) for i in order
        )
    return views, {i: agent for agent, indices in held.items() for i in indices}


MOST_OPTIONS = 26
"""As many as there are letters."""


def option_lines(options: list[str]) -> str:
    """Options as lettered lines, 26 at most."""
    return "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(options))


def letters_of(options: list[str]) -> list[str]:
    """The letters of `option_lines`, for a question's `meta["letters"]`."""
    return [chr(65 + i) for i in range(len(options))]
