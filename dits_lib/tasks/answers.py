"""Gold answers: which can be given at all."""

from __future__ import annotations

import re

from ..settings.messages import shown
from .metrics import normalize_answer
from .text import folded

_MARK = re.compile(r"</?A>")
_ONE_LETTER = re.compile(r"[A-Za-z]|\d\d?")


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
