"""Answer metrics: token F1 and exact match as the SQuAD evaluation script defines them (Rajpurkar
et al., 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and the articles a, an, the, and squeeze white space."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(prediction: str, gold: str) -> float:
    """Token F1 in [0, 1]; two empty answers score 1, one empty answer scores 0."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def best_f1(prediction: str | None, answers: tuple[str, ...]) -> float:
    """The best token F1 over the gold answers; no prediction scores 0."""
    return 0.0 if prediction is None else max(token_f1(prediction, gold) for gold in answers)


def choice_accuracy(prediction: str | None, answers: tuple[str, ...]) -> float:
    """1.0 when the chosen letter is a gold letter, else 0.0 (case and white space are ignored;
    articles are not)."""
    return (
        0.0
        if prediction is None
        else float(prediction.strip().lower() in {a.strip().lower() for a in answers})
    )
