"""Children's Book Test: which word is missing from the sentence that follows twenty others; token
F1."""

from __future__ import annotations

from ...settings.messages import shown
from ..base import Question
from ..rows import Filled, RowError
from .base import PublicDataset, first_words, stable_hash


class CBT(PublicDataset):
    """Children's Book Test, common nouns (Hill et al., 2016): the part that the authors of DITS
    take (dataloader/dataloader.py).

    Alice reads the first half of the twenty sentences, Bob the second; the ten options stand in the
    question. The data do not say which sentences are needed, so one half may suffice.
    """

    name, task = "cbt", "exchange"
    hub_id, config, licence = "cam-cst/cbt", "CN", "GFDL 1.3"
    fields = {"sentences": list[str], "question": Filled, "answer": Filled, "options": list[str]}

    def question(self, row: dict, words: int) -> Question:
        if "XXXXX" not in row["question"]:
            raise RowError("question", "no XXXXX stands for the missing word")
        if row["answer"] not in row["options"]:
            raise RowError("answer", f"{shown(row['answer'])} is not among the options")
        if len(row["sentences"]) < 2:
            raise RowError(
                "sentences",
                f"{len(row['sentences'])} sentences; expected 2 or more, one at least for each "
                "agent",
            )
        half = (len(row["sentences"]) + 1) // 2
        parts = {"alice": row["sentences"][:half], "bob": row["sentences"][half:]}
        for agent, part in parts.items():
            if not "".join(part).strip():
                raise RowError("sentences", f"those of {agent} are empty")
        views = {agent: first_words("\n".join(part), words) for agent, part in parts.items()}
        options = ", ".join(row["options"])
        asked = row["question"].strip()
        text = f"Which word is missing (XXXXX)? {asked} Options: {options}."
        identity = f"{stable_hash(row['question'], *row['sentences']):016x}"
        return Question(
            f"{self.name}-{identity}",
            text,
            (row["answer"],),
            views,
            {"family": "cloze", "neither_suffices": False},
        )
