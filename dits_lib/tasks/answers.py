"""Gold answers: which can be given at all, and the letters of the options to choose from."""

from __future__ import annotations

import re

from ..settings.messages import shown
from .metrics import normalize_answer
from .text import folded

_LABEL = re.compile(r"\s*\(?([A-Za-z]|\d\d?)[.):]\s+\S")
_MARK = re.compile(r"</?A>")
_ONE_LETTER = re.compile(r"[A-Za-z]|\d\d?")


def option_letters(text: str) -> tuple[str, ...]:
    """The letters (or numbers) of the options that stand in a text, one a line: `A. ...`, `B. ...`
    and so on, two or more, each the one after the letter before. Of several such lists it is the
    last. Empty where there is none: a list that does not begin with A or 1, as one of statements
    I, II, III, holds no options.
    """
    labels = [m.group(1) if (m := _LABEL.match(line)) else "" for line in text.split("\n")]
    found: tuple[str, ...] = ()
    for start, label in enumerate(labels):
        if label in ("A", "a", "1"):
            run = _run_from(labels[start:])
            found = run if len(run) > 1 else found
    return found


def _run_from(labels: list[str]) -> tuple[str, ...]:
    """The first label and those that follow it in turn; lines between them do not count."""
    run, wanted = [], labels[0]
    for label in labels:
        if label == wanted:
            run.append(label)
            wanted = str(int(label) + 1) if label.isdigit() else chr(ord(label) + 1)
    return tuple(run)


def answer_fault(answer: str, letters: tuple[str, ...] | None) -> str | None:
    """Why a gold answer can never be right, or None.

    Args:
        letters: of the options, where the answer is one of them; empty where they are not known;
            None for a free answer.
    """
    if letters is not None:
        given = folded(answer)
        if letters and given not in map(folded, letters):
            return f"{shown(answer)} is none of the options; allowed: {', '.join(letters)}"
        if not letters and not _ONE_LETTER.fullmatch(given):
            return f"{shown(answer)}; expected the letter of an option"
        return None
    if _MARK.search(answer):
        return f"{shown(answer)} holds <A> or </A>, the marks around an answer, so that no reply can give it"  # noqa: E501
    if not normalize_answer(answer):
        return (
            f"{shown(answer)} can never be right: without articles and punctuation, which do not "
            "count, nothing is left"
        )
    return None
