"""Checks of questions before anything expensive: each can be answered, each split has enough, and
the model's tokenizer knows their words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from ..agents import TASKS, parse_answer
from ..settings import ROOT
from ..settings.messages import shown
from ..tasks import DataError, Question
from ..tasks.own import read_rows
from .notebooks import Need, needs_of
from .params import Params

MOST_UNKNOWN = 0.2
"""Share of the tokens of the questions and views, or of the answers, that may be unknown to the
tokenizer. A few rare signs may be; a tokenizer that falls back on bytes, as those of most chat
models do, knows all."""

LOOKED_AT = 500
"""Questions of a split whose tokens are counted, at most, evenly over the split."""

Splits = dict[str, tuple[str, list[Question]]]
"""{split: (where its questions come from, the questions)}."""


def check_questions(params: Params) -> None:
    """Read the questions of every task; see whether each can be answered rightly, and whether each
    split holds as many as the notebooks ask for.

    Raises:
        DataError: naming the row that cannot be used; or, in one line, every split that holds too
            few questions with the parameters that ask for them (and what `check_words` would say:
            more questions alone would not help then).
        ModelError: when a tokenizer cannot be loaded.
    """
    faults: list[str] = []
    for part in params.parts():
        needs = needs_of(part)
        for task in part.tasks:
            faults += _too_few(given_questions(part, task) or {}, needs)
    if faults:
        raise DataError("; ".join(dict.fromkeys([*faults, *_unknown_words(params)])))


def check_words(params: Params) -> None:
    """See whether the tokenizer of each task's model knows the words of the task's questions.

    Raises:
        DataError: in one line, naming the data, some of the words, and what to do.
        ModelError: when a tokenizer cannot be loaded.
    """
    faults = list(_unknown_words(params))
    if faults:
        raise DataError("; ".join(faults))


def given_questions(params: Params, task: str) -> Splits | None:
    """The questions of a task by split, of a public data set or one's own file; None for the
    made-up world.

    Raises:
        DataError: for a row that cannot be used.
    """
    data = params.data.splits(task)
    if data is not None:
        for part in data.values():
            for question in part.questions:
                _check_answers(f"{part.source}: {question.id}", question, task)
        return {split: (part.source, list(part.questions)) for split, part in data.items()}
    if params.world.questions is None:
        return None
    path = str(ROOT / params.world.questions)
    splits: Splits = {}
    for question in own_questions(path, task):
        splits.setdefault(question.meta["split"], (path, []))[1].append(question)
    return splits


def own_questions(path: str | Path, task: str) -> list[Question]:
    """The questions of one's own file, which the agents of a task can answer.

    Raises:
        DataError: naming the file, the line and the field of the first row that cannot be used.
    """
    path = Path(path)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return list(_own_questions(path, task, stamp))


@lru_cache(maxsize=8)
def _own_questions(path: Path, task: str, stamp: object) -> tuple[Question, ...]:
    rows = read_rows(path, TASKS[task].readers, TASKS[task].choice)
    for where, question in rows:
        _check_answers(f"{where}: field 'answers'", question, task)
    return tuple(question for _, question in rows)


def _check_answers(where: str, question: Question, task: str) -> None:
    """Raises DataError when a gold answer, given as the agents give one, is not read back or not
    right."""
    system = TASKS[task].system(TASKS[task].styles[0], {})
    for answer in question.answers:
        read = parse_answer(f"<A>{answer}</A>")
        if read is None or system.score(question, read) <= 0:
            raise DataError(
                f"{where}: {shown(answer)} can never be right: said as <A>...</A> it is "
                + (f"read as {shown(read)} and scores 0" if read else "not read as an answer")
            )


def _too_few(splits: Splits, needs: dict[str, Need]) -> Iterator[str]:
    """One text for each source that lacks questions, with all its splits."""
    anywhere = next((where for where, _ in splits.values()), "")
    lacking: dict[str, list[str]] = {}
    for split, need in needs.items() if splits else ():
        where, questions = splits.get(split, (anywhere, []))
        if len(questions) < need.count:
            lack = f"{split}: {len(questions)} of {need.count} questions = {need.keys}"
            lacking.setdefault(where, []).append(lack)
    for where, lacks in lacking.items():
        yield f"{where}: too few questions for the parameters, add some or lower the keys: " + (
            ", ".join(lacks)
        )


def _unknown_words(params: Params) -> Iterator[str]:
    """A text for each task whose questions hold many words that its model does not know."""
    from ..engines import load_tokenizer

    for part in params.parts():
        for task in part.tasks:
            splits = given_questions(part, task)
            if splits is not None:
                looked_at = [q for _, questions in splits.values() for q in _evenly(questions)]
                tokenizer = load_tokenizer(part.model_path(task))
                fault = unknown_words(part, task, tokenizer, looked_at)
                if fault:
                    yield f"{', '.join(dict.fromkeys(w for w, _ in splits.values()))}: {fault}"


def unknown_words(params: Params, task: str, tokenizer, questions: list[Question]) -> str | None:
    """What to say when a tokenizer reads more than a fifth of the tokens of the questions and
    views, or of the answers, as its unknown token; None when it does not."""
    groups = {
        "questions and views": [t for q in questions for t in (q.text, *q.views.values())],
        "answers": [answer for q in questions for answer in q.answers],
    }
    key = "web.model" if TASKS[task].on_pages and params.web.model else "model.path"
    for name, texts in groups.items():
        share = unknown_share(tokenizer, texts)
        if share > MOST_UNKNOWN:
            model = params.model_path(task).removeprefix(f"{ROOT}/")
            words = ", ".join(map(shown, first_unknown(tokenizer, texts, 5)))
            return (
                f"the tokenizer of {model} does not know {share:.0%} of the tokens of the {name} "
                f"(such as {words}; at most {MOST_UNKNOWN:.0%}): set {key} to a model that knows "
                "these words (for a chat model agents.prompts: chat)"
            )
    return None


def _evenly(questions: list[Question]) -> list[Question]:
    return questions[:: max(1, -(-len(questions) // LOOKED_AT))]


def unknown_share(tokenizer, texts: list[str]) -> float:
    """The share of the tokens of some texts that are the tokenizer's unknown token; 0 for a
    tokenizer that has none, as those of bytes."""
    unknown = tokenizer.unk_token_id
    texts = [text for text in texts if text.strip()]
    if unknown is None or not texts:
        return 0.0
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return sum(row.count(unknown) for row in rows) / max(1, sum(map(len, rows)))


def first_unknown(tokenizer, texts: Iterable[str], count: int) -> list[str]:
    """The first words of some texts that the tokenizer does not know."""
    found: list[str] = []
    for word in dict.fromkeys(word for text in texts for word in text.split()):
        if tokenizer.unk_token_id in tokenizer.encode(word, add_special_tokens=False):
            found.append(word)
            if len(found) == count:
                break
    return found
