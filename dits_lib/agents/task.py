"""A task in one record: its agents, its questions, its metric, and how it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..tasks.base import Question
from ..tasks.public import PUBLIC
from .base import System, Turn


@dataclass(frozen=True)
class World:
    """What the made-up worlds are drawn by, from the parameters of a profile.

    Attributes:
        seed: of the profile; a world that is one for all splits follows from it.
        facts_per_view: facts that an agent reads.
        harmful: `{"share": ..., "kind": ...}` of training questions harmed on purpose, or None.
    """

    seed: int
    facts_per_view: int
    harmful: dict | None = None


QuestionMaker = Callable[[str, int, int, World], list[Question]]
"""(split, count, seed, world) -> questions of the made-up world."""

Script = Callable[[Question, np.random.Generator], list[Turn]]
"""The turns of a dialogue that ends in the gold answer; those that are no lesson not trainable."""


@dataclass(frozen=True)
class Task:
    """One task; a new one is a file that builds this record, and its line in `agents/__init__.py`.

    Attributes:
        name: in parameters, tables and folders.
        title: in figures.
        metric: what is measured, such as `F1`.
        system: (style of the prompts, {limit: value} where other than the style's) -> agents.
        styles: styles of prompts that it has: `micro` (the micro world's few words), `chat`;
            some also `optima` (a terse language of programs).
        questions: of the made-up world.
        world: that world's name in tables.
        readers: agents that read a text of their own in every question (`Question.views`).
        limits: {name: (least, most)} of what parameters may limit in section `agents.<name>`.
        warm_start: script for `sft.warm_start`; None: it has none.
        on_pages: its agents search and read pages: section `web` says where, and who judges.
        can_be_harmed: whether `questions` knows planted harm.
        choice: whether its questions hold options to choose from, and its agents no context.
    """

    name: str
    title: str
    metric: str
    system: Callable[..., System]
    questions: QuestionMaker
    styles: tuple[str, ...] = ("micro", "chat")
    world: str = "the micro world"
    readers: tuple[str, ...] = ()
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    warm_start: Script | None = None
    on_pages: bool = False
    can_be_harmed: bool = False
    choice: bool = False

    @property
    def label(self) -> str:
        """Title and metric, as on the axes of figures."""
        return f"{self.title} ({self.metric})"

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the public data sets that serve it."""
        return tuple(name for name, data in PUBLIC.items() if data.task == self.name)
