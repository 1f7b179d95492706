"""The options to choose from, and which of them an answer names."""

from __future__ import annotations

import re

from .text import folded

_LABEL = re.compile(r"\s*\(?([A-Za-z]|\d\d?)[.):]\s+(\S.*)")
_NAMED = re.compile(
    r"(?:\(\s*([a-z]|\d\d?)\s*\)|\[\s*([a-z]|\d\d?)\s*\]|([a-z]|\d\d?)\s*(?=[.):]|$))"
    r"\s*[.):]*\s*(.*)",
    re.DOTALL,
)
"""A letter alone, in brackets, or before `.`, `)` or `:`; then the rest. Of folded texts."""
_AROUND = " *_`\"'\u2018\u2019\u201c\u201d"
"""Markup, quotation marks and spaces, which do not count around an answer."""


def listed_options(text: str) -> dict[str, str]:
    """{letter (or number): text} of the options that stand in a text, one a line: `A. ...`,
    `B. ...` and so on, two or more, each the one after the letter before. Of several such lists it
    is the last. Empty where there is none: a list that does not begin with A or 1, as one of
    statements I, II, III, holds no options.
    """
    lines = text.split("\n")
    labels = [m.group(1) if (m := _LABEL.match(line)) else "" for line in lines]
    found: dict[str, str] = {}
    for start, label in enumerate(labels):
        if label in ("A", "a", "1"):
            run = _run_from(labels[start:], lines[start:])
            found = run if len(run) > 1 else found
    return found


def _run_from(labels: list[str], lines: list[str]) -> dict[str, str]:
    """The first label and those that follow it in turn; the lines between two belong to the option
    above them."""
    run, wanted, last = {}, labels[0], ""
    for label, line in zip(labels, lines, strict=True):
        if label == wanted:
            last, run[label] = label, _LABEL.match(line).group(2)
            wanted = str(int(label) + 1) if label.isdigit() else chr(ord(label) + 1)
        else:
            run[last] += f"\n{line}"
    return run


def read_choice(text: str, options: dict[str, str]) -> str | None:
    """The option that an answer names, by its letter; None for one that names none, or two.

    Markup, quotation marks, white space, case and Unicode form do not count. An answer may be

    - a letter: `B`, `b`, `(B)`, `[B]`, `B.`, `B)`, `**B**`. It counts as a letter whatever the
      options say, since letters are what the agents are asked for;
    - a letter, then a text: `B: text`, `B. text`, `(B) text`; without a mark after the letter
      (`B text`, `A cat`) it is no letter;
    - the text of one option, whole, but for a full stop.

    Where these readings differ (`B. text` with the text of another option, a text that two options
    share), and for two letters (`A or B`), the answer is ambiguous, which is no answer.

    Args:
        options: {letter: its text, empty where it is not known}; empty where the options are not
            known: then a letter is all that can be read.
    """
    given = _bare(text)
    match = _NAMED.fullmatch(given.replace("*", "").replace("`", "").strip())
    name, rest = "", ""
    if match:
        name, rest = next(filter(None, match.groups()[:3])), _bare(match.group(4))
    letters = {folded(letter): letter for letter in options}
    if match and not rest and (name in letters or not options):
        return letters.get(name, name)
    meant = {letters[name]} if name in letters else set()
    for said in filter(None, (given, rest if meant else "")):
        meant |= {letter for letter, option in options.items() if _bare(option) == said}
    return meant.pop() if len(meant) == 1 else None


def _bare(text: str) -> str:
    """A text to be compared with another: folded, without markup around it and full stops at its
    end."""
    return folded(text).strip(_AROUND).rstrip(".").strip(_AROUND)
