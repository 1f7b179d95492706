"""The notebooks: which tasks each serves, and how many questions of each split it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..agents import TASKS, Task

if TYPE_CHECKING:
    from .params import Params


@dataclass(frozen=True)
class Notebook:
    """One notebook.

    Attributes:
        name: of its file.
        title: in the README of the results.
        serves: whether it serves a task.
        needs: {split: questions} that it asks for, at most, for each of its tasks. All searches of
            training questions start from the first ones, so that the largest count is enough.
    """

    name: str
    title: str
    serves: Callable[[Task], bool]
    needs: Callable[[Params], dict[str, int]]

    def tasks_of(self, names: Iterable[str]) -> list[str]:
        """Those of these tasks that it serves."""
        return [name for name in names if self.serves(TASKS[name])]


def _dialogue(task: Task) -> bool:
    return not task.on_pages


def _on_pages(task: Task) -> bool:
    return task.on_pages


def _searched(p: Params) -> int:
    """Training questions of the two searches that all studies begin with."""
    return p.sizes.sft_questions + p.sizes.train_questions


def _arms(p: Params) -> dict[str, int]:
    """What an ablation of selections asks for."""
    return {
        "train": _searched(p),
        "validation": max(p.influence.validation_questions, p.sizes.loss_questions),
        "development": p.influence.step_questions,
        "test": p.sizes.test_questions,
    }


def _budget(p: Params) -> dict[str, int]:
    b = p.budget
    most = max(*b.q_questions, b.dits_questions)
    return _arms(p) | {
        "train": max(_searched(p), p.sizes.sft_questions + most),
        "validation": max([*b.validation, *b.estimators.values()]),
    }


def _iterations(p: Params) -> dict[str, int]:
    rounds = p.iterations.rounds
    return _arms(p) | {
        "train": _searched(p) + rounds * p.iterations.questions,
        "validation": (rounds + 1) * p.influence.validation_questions,
    }


def _fidelity(p: Params) -> dict[str, int]:
    f = p.fidelity
    raced = f.race_questions if f.race_pairs else 0
    return _arms(p) | {
        "train": max(_searched(p), p.sizes.sft_questions + f.questions),
        "validation": max(2 * max(f.validation.values()), *f.use.values(), raced),
    }


def _sensitivity(p: Params) -> dict[str, int]:
    most = max(*p.sensitivity.validation, p.influence.validation_questions)
    return _arms(p) | {"validation": most}


NOTEBOOKS: dict[str, Notebook] = {
    notebook.name: notebook
    for notebook in (
        Notebook(
            "01_rollout",
            "1 Rollout: search trees and pairs",
            _dialogue,
            lambda p: {"train": _searched(p)},
        ),
        Notebook(
            "02_scoring",
            "2 Scoring: influence against Q-values",
            _dialogue,
            lambda p: {
                "train": _searched(p),
                "validation": max(2 * p.scoring.retest_questions, p.sizes.loss_questions),
                "development": p.influence.step_questions,
            },
        ),
        Notebook("03_selection_ablation", "3 Selection", _dialogue, _arms),
        Notebook("04_budget_scaling", "4 Budget", _dialogue, _budget),
        Notebook("05_iterations", "5 Iterations", _dialogue, _iterations),
        Notebook(
            "06_influence_fidelity",
            "6 How far each estimator can be trusted",
            _dialogue,
            _fidelity,
        ),
        Notebook("07_sensitivity", "7 Sensitivity", _dialogue, _sensitivity),
        Notebook("08_deep_search", "8 Deep search", _on_pages, _arms),
    )
}
"""Every notebook by name, in order."""


def holds_questions_back(params: Params) -> bool:
    """Whether some questions serve nothing but a warm start or the guide of a search: which ones
    then follows from the needs of all notebooks of the profile, whichever are run."""
    return params.sft.warm_start != "none" or params.search.guide != "q"


def questions_needed(params: Params) -> dict[str, int]:
    """How many questions of each split the notebooks of these parameters ask for, at most.

    A warm start takes further training questions, a search that influence guides further
    validation questions: the last ones, which serve nothing else.
    """
    counts = dict.fromkeys(("train", "development", "test", "validation"), 0)
    for name in params.notebooks:
        for split, count in NOTEBOOKS[name].needs(params).items():
            counts[split] = max(counts[split], count)
    if params.sft.warm_start != "none":
        counts["train"] += params.sft.warm_questions
    if params.search.guide != "q":
        counts["validation"] += params.influence.validation_questions
    return counts
