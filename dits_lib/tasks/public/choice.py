"""ARC-Challenge and MMLU: multiple choice without context; accuracy of the letter."""

from __future__ import annotations

from pydantic import BaseModel

from ...settings.messages import shown
from ..base import Question
from ..rows import Filled, RowError
from ..text import is_blank
from .base import MOST_OPTIONS, PublicDataset, letters_of, option_lines, stable_hash

_NO_CONTEXT = {"solver": "", "critic": ""}


class _Choices(BaseModel):
    label: list[str]
    text: list[str]


class ARCChallenge(PublicDataset):
    """AI2 Reasoning Challenge, challenge set (Clark et al., 2018). Options numbered 1 to 5 are
    lettered A to E."""

    name, task = "arc_challenge", "debate"
    hub_id, config, licence = "allenai/ai2_arc", "ARC-Challenge", "CC BY-SA 4.0"
    hub_split = {
        "train": "train",
        "validation": "validation",
        "development": "train",
        "test": "test",
    }
    fields = {"id": Filled, "question": Filled, "choices": _Choices, "answerKey": str}
    answer_field = "answerKey"

    def question(self, row: dict, words: int) -> Question:
        labels, texts = row["choices"]["label"], row["choices"]["text"]
        if len(labels) != len(texts) or not 2 <= len(texts) <= MOST_OPTIONS:
            raise RowError(
                "choices",
                f"{len(labels)} labels and {len(texts)} texts; expected as many of both, 2 to "
                f"{MOST_OPTIONS}",
            )
        if len(set(labels)) < len(labels):
            raise RowError("choices.label", f"{', '.join(labels)}; no label may stand twice")
        if row["answerKey"] not in labels:
            raise RowError("answerKey", f"{shown(row['answerKey'])}; allowed: {', '.join(labels)}")
        right = labels.index(row["answerKey"])
        _check_options("choices.text", texts, right)
        text = f"{row['question'].strip()}\n{option_lines(texts)}"
        letters = letters_of(texts)
        return Question(
            f"{self.name}-{row['id']}",
            text,
            (letters[right],),
            dict(_NO_CONTEXT),
            {"family": "science", "letters": letters},
        )


class MMLU(PublicDataset):
    """Massive Multitask Language Understanding (Hendrycks et al., 2021): 57 subjects, four
    options."""

    name, task = "mmlu", "debate"
    hub_id, config, licence = "cais/mmlu", "all", "MIT"
    hub_split = {
        "train": "auxiliary_train",
        "validation": "validation",
        "development": "dev",
        "test": "test",
    }
    # The hub leaves the subject of its training questions empty.
    fields = {"question": Filled, "subject": str, "choices": list[str], "answer": int}

    def question(self, row: dict, words: int) -> Question:
        choices = row["choices"]
        if not 2 <= len(choices) <= MOST_OPTIONS:
            raise RowError("choices", f"{len(choices)} options; expected 2 to {MOST_OPTIONS}")
        if not 0 <= row["answer"] < len(choices):
            raise RowError("answer", f"{row['answer']}; allowed: 0 to {len(choices) - 1}")
        _check_options("choices", choices, row["answer"])
        text, letters = f"{row['question'].strip()}\n{option_lines(choices)}", letters_of(choices)
        return Question(
            f"{self.name}-{stable_hash(text):016x}",
            text,
            (letters[row["answer"]],),
            dict(_NO_CONTEXT),
            {"family": "mmlu", "subject": row["subject"], "letters": letters},
        )


def _check_options(field: str, options: list[str], right: int) -> None:
    """Raises RowError when the right option says nothing, or all say the same. (Some rows of MMLU
    give one wrong option twice; they can still be answered.)"""
    if is_blank(options[right]):
        raise RowError(f"{field}.{right}", "empty, but the right option")
    if len(set(options)) == 1:
        raise RowError(field, f"all options say {shown(options[0])}")
