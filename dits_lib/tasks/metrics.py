"""Answer metrics: token F1 and exact match as HotpotQA's evaluation script defines them (Yang et
al., 2018): those of SQuAD's (Rajpurkar et al., 2016), and `yes`, `no` and `noanswer` are right as a
whole or not at all. Two things differ. In exact match a prediction of which normalisation leaves
nothing ("The", "?") scores 0 here; there it scores 1 against a gold answer of which nothing is left
either. And texts are compared in Unicode NFKC, so that an accent written as a character of its own
is the same.

The authors of DITS score with the F1 of their model's own tokens instead, without normalisation
(docs/deviations.md).
"""

from __future__ import annotations

import re
import string
from collections import Counter

from .choices import read_choice
from .text import compared_form, folded

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and the articles a, an, the, and squeeze white space; in Unicode
    NFKC."""
    text = compared_form(text).lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


WHOLE = ("yes", "no", "noanswer")
"""Normalised answers of which no part is right: "no" shares no meaning with "no one"."""


def token_f1(prediction: str, gold: str) -> float:
    """Token F1 in [0, 1]; 0 when either is empty after normalisation, also when both are, and for
    two different answers of which one is in `WHOLE`."""
    predicted, expected = normalize_answer(prediction), normalize_answer(gold)
    if predicted != expected and (predicted in WHOLE or expected in WHOLE):
        return 0.0
    return shared_tokens_f1(prediction, gold)


def shared_tokens_f1(prediction: str, gold: str) -> float:
    """Token F1 as SQuAD's script has it: as `token_f1`, but "no" is half of "no one"."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(gold).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def best_f1(prediction: str | None, answers: tuple[str, ...]) -> float:
    """The best token F1 over the gold answers; no prediction scores 0."""
    return 0.0 if prediction is None else max(token_f1(prediction, gold) for gold in answers)


def exact_match(prediction: str | None, answers: tuple[str, ...]) -> float:
    """1.0 when the prediction is a gold answer after normalisation, else 0.0; so too for one of
    which normalisation leaves nothing."""
    given = "" if prediction is None else normalize_answer(prediction)
    return float(bool(given) and given in map(normalize_answer, answers))


def choice_accuracy(
    prediction: str | None, answers: tuple[str, ...], options: dict[str, str] | None = None
) -> float:
    """1.0 when the option that was named (`read_choice`) is a gold letter, else 0.0.

    Args:
        options: {letter: text} of the options; None where they are not known.
    """
    chosen = None if prediction is None else read_choice(prediction, options or {})
    return float(chosen is not None and folded(chosen) in map(folded, answers))
