"""Questions: what is asked, what each agent may read, and the answers that count as right."""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from .answers import answer_fault
from .choices import listed_options
from .rows import RowError
from .text import is_blank

SPLITS = ("base", "train", "validation", "development", "test")
"""Who may use a question. `base`: training the micro base model. `train`: search, SFT and DPO.
`validation`: influence scores. `development`: step sizes and other settings. `test`: reported
numbers, and nothing else."""


@dataclass(frozen=True)
class Question:
    """One question of one task.

    Attributes:
        id: unique within a run.
        text: the question as both agents see it.
        answers: gold answers; the metric takes the best match.
        views: what each agent may read, by agent name.
        meta: everything else: `family`, `split`; for planted harm `harmful` (bool) and
            `reward_sign` (+1 or -1); `script`, what each agent may tell in a warm start, as
            {agent: sentences of its view}; `letters` of the options to choose from, and the
            `options` themselves where no line of the text begins with one.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    views: dict[str, str]
    meta: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self) | {"answers": list(self.answers)}

    @staticmethod
    def from_json(row: dict) -> Question:
        return Question(
            row["id"],
            row["text"],
            tuple(row["answers"]),
            dict(row["views"]),
            dict(row.get("meta", {})),
        )

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the options to choose from: those that the data give, else those of the
        lettered lines of the text; empty when there are none."""
        return tuple(self.meta.get("letters") or listed_options(self.text))

    @property
    def options(self) -> dict[str, str]:
        """{letter: text} of the options to choose from, the text empty where it is not known;
        `meta.options` without letters are a, b, c and so on."""
        if given := self.meta.get("options"):
            return dict(zip(self.letters or string.ascii_lowercase, given, strict=False))
        listed = listed_options(self.text)
        return {letter: listed.get(letter, "") for letter in self.letters}


def check_question(
    question: Question,
    agents: tuple[str, ...] = (),
    choice: bool | None = None,
    answer_field: str = "answers",
) -> None:
    """See whether a question can be asked, and answered rightly.

    Args:
        agents: whose views must say something, unless it is a choice among options.
        choice: as in `read_questions`.
        answer_field: what the data call the answers.

    Raises:
        RowError: naming the field.
    """
    for name, text in (("id", question.id), ("text", question.text)):
        if is_blank(text):
            raise RowError(name, "empty")
    letters = letters_to_choose(question, choice)
    for agent in agents:
        if letters is None and is_blank(question.views[agent]):
            raise RowError(f"views.{agent}", f"empty; {agent} needs a text to read")
    for answer in question.answers:
        fault = answer_fault(answer, letters)
        if fault:
            raise RowError(answer_field, fault)
    _check_options(question)
    _check_script(question)


def _check_options(question: Question) -> None:
    """Raises RowError for letters that are not those of the options beside them."""
    options, letters = question.meta.get("options"), question.letters
    if options and letters and len(options) != len(letters):
        raise RowError("meta.options", f"{len(options)} options, but {len(letters)} letters")


def letters_to_choose(question: Question, choice: bool | None = None) -> tuple[str, ...] | None:
    """The letters of a choice among options; None for a question with a free answer."""
    letters = question.letters
    if choice is None:
        one_of_them = letters and all(answer_fault(a, letters) is None for a in question.answers)
        return letters if one_of_them or question.meta.get("letters") else None
    return letters if choice else None


def _check_script(question: Question) -> None:
    """Raises RowError when an agent's script tells what its view does not hold."""
    for agent, sentences in question.meta.get("script", {}).items():
        view = question.views.get(agent)
        if view is None:
            raise RowError(f"meta.script.{agent}", "no agent that reads a view")
        if len(standing_in(sentences, view)) < sum(not is_blank(s) for s in sentences):
            raise RowError(
                f"meta.script.{agent}", f"tells what does not stand word for word in views.{agent}"
            )


def standing_in(sentences: Iterable[str], view: str) -> list[str]:
    """Those sentences that a view holds, word for word but for white space; no blank ones."""
    text = " ".join(view.split())
    return [s for s in sentences if not is_blank(s) and " ".join(s.split()) in text]
