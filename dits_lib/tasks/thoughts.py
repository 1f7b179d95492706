"""What a thinking model says aloud: its reply without what stands in `<think>...</think>`."""

from __future__ import annotations

OPENS, CLOSES = "<think>", "</think>"


def without_thoughts(text: str) -> str:
    """The reply without its thoughts, and without white space around what is left.

    A thought is what stands between `<think>` and `</think>`. Where the chat template has written
    `<think>` already, the reply begins inside a thought: all of it up to the last `</think>` that
    nothing opened is one. Text without these tags is given back as it is.

    Returns:
        What is said aloud; empty for a reply whose last thought never ends.
    """
    if OPENS not in text and CLOSES not in text:
        return text
    *thinking, last = text.split(CLOSES)
    aloud: list[str] = []
    for part in thinking:
        before, opened, _ = part.partition(OPENS)
        if opened:
            aloud.append(before)
        else:
            aloud.clear()
    return "" if OPENS in last else "".join([*aloud, last]).strip()
