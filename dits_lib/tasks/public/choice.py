"""ARC-Challenge and MMLU: multiple choice without context; accuracy of the letter."""

from __future__ import annotations

from ..base import Question
from .base import PublicDataset, RowError, option_lines, stable_hash

_NO_CONTEXT = {"solver": "", "critic": ""}


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
    fields = {"id": str, "question": str, "choices": dict, "answerKey": str}

    def question(self, row: dict, words: int) -> Question:
        labels, texts = list(row["choices"].get("label", ())), list(row["choices"].get("text", ()))
        if len(labels) != len(texts) or not 2 <= len(texts) <= 26:
            raise RowError(
                "choices",
                f"{len(labels)} labels and {len(texts)} texts; expected as many of both, 2 to 26",
            )
        if row["answerKey"] not in labels:
            raise RowError("answerKey", f"{row['answerKey']!r}; allowed: {', '.join(labels)}")
        letter = chr(65 + labels.index(row["answerKey"]))
        text = f"{row['question'].strip()}\n{option_lines(texts)}"
        return Question(
            f"{self.name}-{row['id']}", text, (letter,), dict(_NO_CONTEXT), {"family": "science"}
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
    fields = {"question": str, "subject": str, "choices": list, "answer": int}

    def question(self, row: dict, words: int) -> Question:
        if not 0 <= row["answer"] < len(row["choices"]):
            raise RowError("answer", f"{row['answer']}; allowed: 0 to {len(row['choices']) - 1}")
        text = (
            f"{row['question'].strip()}\n{option_lines([str(choice) for choice in row['choices']])}"
        )
        meta = {"family": "mmlu", "subject": row["subject"]}
        return Question(
            f"{self.name}-{stable_hash(text):016x}",
            text,
            (chr(65 + row["answer"]),),
            dict(_NO_CONTEXT),
            meta,
        )
