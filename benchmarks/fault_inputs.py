"""Mutated parameter files and data rows. Each is refused by a line that names the key, or the file
and the field, or it is read as it was written; nothing else."""

from __future__ import annotations

import copy
import json
import math
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from dits_lib.settings import ROOT
from dits_lib.suite.checks import KNOWN_ERRORS, check_inputs, choose_notebooks
from dits_lib.suite.params import load_params
from dits_lib.tasks import Question, make_questions, read_questions
from dits_lib.tasks.public import PUBLIC, load_splits

from .fault_runs import NOTEBOOK, OTHER, REFUSED, SURVIVED, TRACEBACK, UNEQUAL, Case

SECONDS, BYTES = 60, 16 << 30
"""What reading one input may take: time, and address space."""


@dataclass(frozen=True)
class Read:
    """An input to be read.

    Attributes:
        kind, what: as in `Case`.
        read: reads it; returns a reason when it was taken for something that it does not say.
        names: of which the message must hold one of each group.
    """

    kind: str
    what: str
    read: Callable[[], str | None]
    names: tuple[tuple[str, ...], ...]


class _TooLong(BaseException):
    pass


@contextmanager
def _bounded() -> Iterator[None]:
    def stop(*_):
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def judged(given: Read) -> Case:
    """Read an input, and judge what comes of it."""
    try:
        with _bounded():
            mistaken = given.read()
    except KNOWN_ERRORS as error:
        return _told(given, str(error))
    except _TooLong:
        return Case(given.kind, given.what, OTHER, f"still reading after {SECONDS} s")
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        return Case(given.kind, given.what, TRACEBACK, f"{type(error).__name__}: {first[:200]}")
    if mistaken:
        return Case(given.kind, given.what, UNEQUAL, mistaken)
    return Case(given.kind, given.what, SURVIVED)


def _told(given: Read, message: str) -> Case:
    lines = message.splitlines()
    if not 1 <= len(lines) <= 3 or max(map(len, lines)) > 500:  # a line for each mistake
        size = f"{len(lines)} lines, {len(message)} characters"
        return Case(given.kind, given.what, OTHER, f"{size}: {message[:200]!r}")
    said = message.lower()  # a data set may write its fields in capitals
    missing = [names for names in given.names if not any(name.lower() in said for name in names)]
    if missing:
        return Case(given.kind, given.what, OTHER, f"does not name {missing[0][0]!r}: {message}")
    return Case(given.kind, given.what, REFUSED, lines[0])


# Parameters

NOTHING = object()
"""A value that must be refused."""
VALUES: dict[str, object] = {
    "null": None,
    "[]": [],
    "{}": {},
    '""': "",
    "-1": -1,
    "0": 0,
    "1": 1,
    "3": 3,
    "0.5": 0.5,
    "1.5": 1.5,
    "[1.0, 3.0]": [1.0, 3.0],
    "1000000000000": 10**12,
    "1e12": 1e12,
    "true": True,
    "on": "on",
    "yes": "yes",
    "x": "x",
    "..": "..",
    "[[1]]": [[1]],
    "[1, 1]": NOTHING,
    "[2, 1]": [1, 2],
    "1:30": "1:30",
    "010": "010",
    ".nan": NOTHING,
    ".inf": NOTHING,
    "-.inf": NOTHING,
    "2026-13-45": "2026-13-45",
    "!!int abc": NOTHING,
    "&a [*a]": NOTHING,
    "9" * 5000: NOTHING,
    "[" * 3000 + "]" * 3000: NOTHING,
    '"\\ud800"': NOTHING,
}
"""{as the file says it: what it means}."""


def _laughs(text: str) -> bytes:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefg", "bcdefgh")]  # noqa: B905
    return ("\n".join(lines) + "\n" + text).encode()


FILES: dict[str, Callable[[str], bytes]] = {
    "cut in half": lambda text: text.encode()[: len(text) // 2],
    "empty": lambda text: b"",
    "a list": lambda text: b"- seed\n- 1\n",
    "not UTF-8": lambda text: text.encode() + b"# \xff\n",
    "a NUL": lambda text: text.encode() + b"seed: \x00\n",
    "a tab for indentation": lambda text: text.replace("\n  ", "\n\t", 1).encode(),
    "a section written twice": lambda text: (
        text.encode() + b"search: {repetitions: 4}\nsearch: {}\n"
    ),
    "a key written twice": lambda text: text.encode() + b"seed: 1\nseed: 2\n",
    "nested aliases": _laughs,
    "nested 100,000 deep": lambda text: b"seed: " + b"[" * 100_000,
    "a byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "lines that end in CR LF": lambda text: text.replace("\n", "\r\n").encode(),
    "a key that is a list": lambda text: text.encode() + b"? [1]\n: 2\n",
    "two documents": lambda text: text.encode() + b"---\nseed: 3\n",
}


def _keys(values: dict, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in values.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += _keys(value, (*prefix, key))
    return found


def _changed(values: dict, key: tuple[str, ...], value: object) -> dict:
    changed = copy.deepcopy(values)
    place = changed
    for part in key[:-1]:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[key[-1]] = value
    return changed


def _dumped(values: dict) -> str:
    return yaml.safe_dump(values, sort_keys=False)


def parameter_reads(count: int, rng: random.Random, folder: Path) -> list[Read]:
    """Mutated parameter files: values, names of keys, and the text itself."""
    paths = sorted((ROOT / "params").glob("*.yaml"))
    raw = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}
    keys = _keys(raw["micro"])
    reads = []
    for number in range(count):
        # Models and data of the others need not be here: their files are read alone.
        name = "smoke" if rng.random() < 0.6 else rng.choice(list(raw))
        path = folder / f"params-{number}.yaml"
        how = rng.random()
        if how < 0.7:
            reads.append(_value_read(path, name, raw[name], rng.choice(keys), rng))
        elif how < 0.85:
            reads.append(_misspelt_read(path, name, raw[name], rng.choice(keys), rng))
        else:
            way = rng.choice(list(FILES))
            path.write_bytes(FILES[way](_dumped(raw[name])))
            what = f"params/{name}.yaml, {way}"
            reads.append(Read("parameters: text", what, _reader(path, name), ((path.name,),)))
    return reads


def _value_read(path: Path, name: str, raw: dict, key: tuple[str, ...], rng) -> Read:
    text = rng.choice(list(VALUES))
    written = _dumped(_changed(raw, key, "@value@")).replace("'@value@'", text)
    path.write_text(written, encoding="utf-8")
    shown = text if len(text) < 40 else f"{text[:10]}... ({len(text)} characters)"
    what = f"params/{name}.yaml with {'.'.join(key)}: {shown}"
    row = [f"{path.name}:{digit}" for digit in range(1, 10)]  # where YAML itself cannot be read
    names = ((key[-1], key[0], *row),)
    return Read("parameters: value", what, _reader(path, name, key, VALUES[text]), names)


def _misspelt_read(path: Path, name: str, raw: dict, key: tuple[str, ...], rng) -> Read:
    at = rng.randrange(len(key[-1]))
    wrong = key[-1][:at] + key[-1][at + 1 :] + "z"
    path.write_text(_dumped(_changed(raw, (*key[:-1], wrong), 1)), encoding="utf-8")
    what = f"params/{name}.yaml with {'.'.join((*key[:-1], wrong))}: 1"
    read = _reader(path, name, (*key[:-1], wrong), NOTHING)
    return Read("parameters: key", what, read, ((wrong,),))


def _reader(path: Path, name: str, key: tuple[str, ...] = (), meaning: object = NOTHING):
    def read() -> str | None:
        params = load_params(path)
        if name == "smoke":
            check_inputs(params, choose_notebooks(None, params))
        if not key:
            return None
        found: object = params.model_dump()
        for part in key:
            found = found.get(part) if isinstance(found, dict) else None
        return None if _same(found, meaning) else f"read as {found!r}"

    return read


def _same(found: object, meaning: object) -> bool:
    """Whether a value was read as it is written: a whole number may serve as a float, a list that
    has no order may be sorted, what is left out of a section may be filled in."""
    if meaning is NOTHING:
        return False
    if isinstance(meaning, bool) or isinstance(found, bool):
        return found is meaning
    if isinstance(meaning, dict):
        return isinstance(found, dict)
    if isinstance(found, (list, tuple)) and isinstance(meaning, list):
        return sorted(map(str, found)) == sorted(map(str, meaning))
    if isinstance(found, float) and not math.isfinite(found):
        return False
    return found == meaning


# Rows

ABSENT = object()
ROW_VALUES = (
    None,
    [],
    {},
    "",
    " ",
    "x",
    "The",
    "!!!",
    "\ud800",
    -1,
    0,
    5,
    10**30,
    True,
    [[1]],
    [None],
    math.nan,
    math.inf,
    "@deep@",
    ABSENT,
)


def _with_key_twice(line: str) -> bytes:
    return (line[:-1] + ", " + line[1:]).encode()


ROW_TEXTS: dict[str, Callable[[str], bytes]] = {
    "cut in half": lambda line: line.encode()[: len(line) // 2],
    "null": lambda line: b"null",
    "a list": lambda line: b"[1]",
    "a number": lambda line: b"3",
    "a text": lambda line: b'"text"',
    "not UTF-8": lambda line: line.encode()[:-2] + b"\xff" + line.encode()[-2:],
    "a NUL": lambda line: line.encode()[:-2] + b"\x00" + line.encode()[-2:],
    "every key twice": _with_key_twice,
    "twice": lambda line: f"{line}\n{line}".encode(),
    "empty": lambda line: b"",
    "two objects": lambda line: f"{line} {line}".encode(),
    "a comma too many": lambda line: f"{line[:-1]},}}".encode(),
    "a byte-order mark": lambda line: b"\xef\xbb\xbf" + line.encode(),
}
ROW = 4
"""The number of the row that is changed, from 1 on."""


def _paths(value: object, prefix: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value[:2]) if isinstance(value, list) else items
    found = []
    for key, inner in items:
        found += [(*prefix, key), *_paths(inner, (*prefix, key))]
    return found


def _replaced(row: dict, path: tuple, value: object) -> dict:
    changed = copy.deepcopy(row)
    place: object = changed
    for part in path[:-1]:
        place = place[part]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


def _written(path: Path, rows: list[dict], line: bytes) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    lines[ROW - 1] = line
    path.write_bytes(b"\n".join(lines) + b"\n")


def _mutated(rows: list[dict], path: Path, rng) -> tuple[str, tuple, object]:
    """Write the rows, one of them changed: what was done, the place in the row, and the new
    value."""
    row = rows[ROW - 1]
    if rng.random() < 0.2:
        way = rng.choice(list(ROW_TEXTS))
        _written(path, rows, ROW_TEXTS[way](json.dumps(row)))
        return f"row {ROW} {way}", (), None
    place, value = rng.choice(_paths(row)), rng.choice(ROW_VALUES)
    line = json.dumps(_replaced(row, place, value))
    _written(path, rows, line.replace('"@deep@"', "[" * 500 + "]" * 500).encode())
    shown = "left out" if value is ABSENT else f"= {value!r}"
    return f"row {ROW}, {'.'.join(map(str, place))} {shown}", place, value


def _named(path: Path, place: tuple, value: object) -> tuple[tuple[str, ...], ...]:
    """What a message must name: the file, and the field where JSON's reader knows of one."""
    if not place:
        return ((path.name,),)
    unread = isinstance(value, float) or value in ("\ud800", "@deep@", 10**30)
    return ((path.name,), (f":{ROW}:" if unread else str(place[0]),))


def own_row_reads(count: int, rng: random.Random, folder: Path) -> list[Read]:
    """Mutated questions of one's own, in the schema of docs/guide.md."""
    splits = ("train", "validation", "development", "test")
    rows = [q.to_json() for split in splits for q in make_questions("exchange", split, 40, 0)]
    for row in rows:
        row["meta"] = {"split": row["meta"]["split"]}
    reads = []
    for number in range(count):
        path = folder / f"own-{number}.jsonl"
        what, place, value = _mutated(rows, path, rng)
        names = _named(path, place, value)
        reads.append(Read("own rows", what, _own_reader(path, place, value), names))
    return reads


def _own_reader(path: Path, place: tuple, value: object) -> Callable[[], str | None]:
    def read() -> str | None:
        changes = ["tasks=[exchange]", f"world.questions={path}"]
        params = load_params("smoke", changes)
        check_inputs(params, [NOTEBOOK])
        found: object = read_questions(path, ("alice", "bob"))[ROW - 1].to_json()
        if not place or place[0] == "meta":
            return None
        for part in place:
            found = found[part]
        return None if found == value else f"read as {found!r}"

    return read


def _hotpot(n: int) -> dict:
    titles = [f"Tower {n}", f"Builder {n}", f"River {n}"]
    return {
        "id": f"h{n}",
        "question": f"When was the builder of tower {n} born?",
        "answer": str(1800 + n),
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": titles[:2], "sent_id": [0, 0]},
        "context": {
            "title": titles,
            "sentences": [
                [f"Tower {n} was built by builder {n}.", " It is tall."],
                [f"Builder {n} was born in the year {1800 + n}."],
                ["A river flows."],
            ],
        },
    }


def _trivia(n: int) -> dict:
    text = f"The capital of land {n} is city {n}."
    return {
        "question": f"What is the capital of land {n}?",
        "question_id": f"t{n}",
        "search_results": {"title": [f"Page {n}", "Other"], "search_context": [text, "Nothing."]},
        "entity_pages": {"title": [], "wiki_context": []},
        "answer": {"value": f"City {n}", "aliases": [f"City {n}", f"Town of {n}"]},
    }


def _cbt(n: int) -> dict:
    return {
        "sentences": [f"{i} Sentence {i} of story {n}." for i in range(1, 21)],
        "question": f"21 Then XXXXX went home in story {n}.",
        "answer": "Ann",
        "options": ["Ann", "Bob", "Cat"],
    }


def _arc(n: int) -> dict:
    return {
        "id": f"a{n}",
        "question": f"What falls down, number {n}?",
        "choices": {"text": ["stone", "smoke", "light"], "label": ["1", "2", "3"]},
        "answerKey": "1",
    }


def _mmlu(n: int) -> dict:
    return {
        "question": f"How much is {n} plus 1?",
        "subject": "elementary_mathematics",
        "choices": [str(n), str(n + 1), "0", "none"],
        "answer": 1,
    }


def _webwalker(n: int) -> dict:
    return {
        "Question": f"When does hall {n} open?",
        "answer": f"At {n} o'clock",
        "root_url": f"https://example.org/{n}",
        "type": "single_source",
    }


SCHEMAS = {
    "hotpotqa": _hotpot,
    "2wikimultihopqa": _hotpot,
    "triviaqa": _trivia,
    "cbt": _cbt,
    "arc_challenge": _arc,
    "mmlu": _mmlu,
    "webwalkerqa": _webwalker,
}
"""Made-up rows in the schema of each public data set."""


def public_row_reads(count: int, rng: random.Random, folder: Path) -> list[Read]:
    """Mutated rows of the public data sets."""
    reads = []
    for number in range(count):
        name = list(SCHEMAS)[number % len(SCHEMAS)]
        own = folder / f"public-{number}"
        own.mkdir()
        path = own / f"{name}.jsonl"
        what, place, value = _mutated([SCHEMAS[name](n + 1) for n in range(30)], path, rng)
        names = _named(path, place, value)
        reads.append(Read("public rows", f"{name} {what}", _public_reader(name, own), names))
    return reads


def _public_reader(name: str, folder: Path) -> Callable[[], str | None]:
    def read() -> str | None:
        slices = load_splits(PUBLIC[name], folder, 60, 5000)
        return next(
            filter(None, map(_fault, (q for s in slices.values() for q in s.questions))), None
        )

    return read


def _fault(question: Question) -> str | None:
    """What is unsound about a question that was accepted."""
    texts = [question.id, question.text, *question.answers]
    if all(isinstance(text, str) and text.strip() for text in texts) and question.answers:
        return None
    return f"read as {question.to_json()!r}"[:300]


def input_campaign(count: int, seed: int, folder: Path) -> list[Case]:
    """`count` mutated inputs: two in five are parameters, the others own and public rows in equal
    parts."""
    rng, folder = random.Random(seed), folder / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    rows = 3 * count // 10
    reads = parameter_reads(count - 2 * rows, rng, folder)
    reads += own_row_reads(rows, rng, folder) + public_row_reads(rows, rng, folder)
    return [judged(read) for read in reads]
