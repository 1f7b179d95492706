"""Answer metrics: token F1 and exact match as the SQuAD evaluation script defines them (Rajpurkar
et al., 2016), but for two things. A prediction of which normalisation leaves nothing ("The", "?")
scores 0 here; there it scores 1 against a gold answer of which nothing is left either. And texts
are compared in Unicode NFKC, so that an accent written as a character of its own is the same.
"""

from __future__ import annotations

import re
import string
from collections import Counter

from .text import compared_form, folded

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and the articles a, an, the, and squeeze white space; in Unicode
    NFKC."""
    text = compared_form(text).lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(prediction: str, gold: str) -> float:
    """Token F1 in [0, 1]; 0 when either is empty after normalisation, also when both are."""
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


def choice_accuracy(prediction: str | None, answers: tuple[str, ...]) -> float:
    """1.0 when the chosen letter is a gold letter, else 0.0 (case, white space and Unicode form are
    ignored; articles are not)."""
    return 0.0 if prediction is None else float(folded(prediction) in map(folded, answers))
