"""How many replies the rules by which answers are read decide about."""

from __future__ import annotations

from collections.abc import Iterable

from ..tasks.base import Question
from ..tasks.choices import read_choice
from ..tasks.metrics import best_f1, shared_tokens_f1
from ..tasks.text import folded
from .base import count_answers, parse_answer


def parsing_counts(replies: Iterable[tuple[Question, str]], choice: bool) -> dict[str, int]:
    """Of replies, how many hold an answer, and on how many each rule of reading decides.

    Args:
        replies: (question, text) of each.
        choice: whether the answers are letters of options.

    Returns:
        `replies`; `with an answer`; `with several answers`, of which the last counts; `more than
        a letter`: answers that name an option as `(B)`, as `B.` or by its text, and would name none
        if the letter alone counted; `no option`: answers that name none, or several; `yes or no`:
        answers whose F1 is another because yes, no and noanswer are right as a whole or not at all.
        The last three are 0 where they cannot occur.
    """
    names = ("replies", "with an answer", "with several answers")
    counts = dict.fromkeys((*names, "more than a letter", "no option", "yes or no"), 0)
    for question, text in replies:
        answer = parse_answer(text)
        counts["replies"] += 1
        counts["with an answer"] += answer is not None
        counts["with several answers"] += count_answers(text) > 1
        if answer is None:
            continue
        if choice:
            named = read_choice(answer, question.options)
            counts["no option"] += named is None
            counts["more than a letter"] += named is not None and folded(named) != folded(answer)
        else:
            before = max(shared_tokens_f1(answer, gold) for gold in question.answers)
            counts["yes or no"] += best_f1(answer, question.answers) != before
    return counts
