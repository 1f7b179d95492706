"""The notebooks: which tasks each serves, and how many questions of each split it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..agents import TASKS, Task

if TYPE_CHECKING:
    from .params import Params


@dataclass(frozen=True)
class Need:
    """So many questions, and the parameters of which they are the sum, as a message gives them."""

    count: int
    keys: str

    def __add__(self, other: Need) -> Need:
        return Need(self.count + other.count, f"{self.keys} + {other.keys}")


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
    needs: Callable[[Params], dict[str, Need]]

    def tasks_of(self, names: Iterable[str]) -> list[str]:
        """Those of these tasks that it serves."""
        return [name for name in names if self.serves(TASKS[name])]


def _dialogue(task: Task) -> bool:
    return not task.on_pages


def _on_pages(task: Task) -> bool:
    return task.on_pages


def _of(p: Params, key: str, times: int = 1, factor: str = "") -> Need:
    """The value of a parameter, the largest of a list or mapping.

    Args:
        times: how often it is asked for.
        factor: what that number is, where it is more than a number: `iterations.rounds`.
    """
    section, name = key.split(".")
    settings = getattr(p, section)
    value = getattr(settings, name)
    # The sizes of deep search have a section of their own, which stands in for `sizes`.
    words = f"{settings.section}.{name}"
    if isinstance(value, Mapping):
        largest = max(value, key=value.get, default=None)
        words, value = f"{words}.{largest}", value.get(largest, 0)
    elif isinstance(value, list):
        value = max(value, default=0)
    before = f"{factor or times} * " if times > 1 or factor else ""
    return Need(times * value, f"{before}{words} {value}")


def _most(*needs: Need) -> Need:
    return max(needs, key=lambda need: need.count)


def _searched(p: Params) -> Need:
    """Training questions of the two searches that all studies begin with."""
    return _of(p, "sizes.sft_questions") + _of(p, "sizes.train_questions")


def _rollout(p: Params) -> dict[str, Need]:
    return {"train": _searched(p)}


def _scoring(p: Params) -> dict[str, Need]:
    return {
        "train": _searched(p),
        "validation": _most(
            _of(p, "scoring.retest_questions", times=2),
            _of(p, "scoring.noise", times=2),
            _of(p, "sizes.loss_questions"),
        ),
        "development": _of(p, "influence.step_questions"),
    }


def _arms(p: Params) -> dict[str, Need]:
    """What an ablation of selections asks for."""
    return {
        "train": _searched(p),
        "validation": _most(
            _of(p, "influence.validation_questions"), _of(p, "sizes.loss_questions")
        ),
        "development": _of(p, "influence.step_questions"),
        "test": _of(p, "sizes.test_questions"),
    }


def _selection(p: Params) -> dict[str, Need]:
    """Those of the arms; the pairs of every seed are scored twice."""
    twice = _of(p, "influence.validation_questions", times=2)
    return _arms(p) | {"validation": _most(twice, _of(p, "sizes.loss_questions"))}


def _budget(p: Params) -> dict[str, Need]:
    searched = _of(p, "sizes.sft_questions") + _of(p, "budget.questions")
    return _arms(p) | {
        "train": _most(_searched(p), searched),
        "validation": _most(_of(p, "budget.validation"), _of(p, "budget.estimators")),
    }


def _iterations(p: Params) -> dict[str, Need]:
    rounds = p.iterations.rounds
    # The model that DPO starts from is asked other questions than those that made it.
    searches = 2 if p.iterations.search_with == "start" else 1
    factor = "2 * " if searches == 2 else ""
    each = _of(p, "iterations.questions", searches * rounds, f"{factor}iterations.rounds {rounds}")
    return _arms(p) | {"train": _searched(p) + each}


def _fidelity(p: Params) -> dict[str, Need]:
    raced = [_of(p, "fidelity.race_questions")] if p.fidelity.race_pairs else []
    return _arms(p) | {
        "train": _most(_searched(p), _of(p, "sizes.sft_questions") + _of(p, "fidelity.questions")),
        "validation": _most(_of(p, "fidelity.validation", times=2), _of(p, "fidelity.use"), *raced),
    }


def _sensitivity(p: Params) -> dict[str, Need]:
    most = _most(_of(p, "sensitivity.validation"), _of(p, "influence.validation_questions"))
    return _arms(p) | {"validation": most}


NOTEBOOKS: dict[str, Notebook] = {
    notebook.name: notebook
    for notebook in (
        # The micro world's own questions, whatever the data of the profile are.
        Notebook("00_dits_in_one_page", "0 DITS in one page", _dialogue, lambda _: {}),
        Notebook(
            "01_rollout",
            "1 Rollout: search trees and pairs",
            _dialogue,
            _rollout,
        ),
        Notebook(
            "02_scoring",
            "2 Scoring: influence against Q-values",
            _dialogue,
            _scoring,
        ),
        Notebook("03_selection_ablation", "3 Selection", _dialogue, _selection),
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
    return params.sft.warm_start != "none" or guides_search(params)


def guides_search(params: Params) -> bool:
    """Whether influence guides a search of these parameters, in whatever notebook."""
    tried = "07_sensitivity" in params.notebooks and set(params.sensitivity.guide) - {"q"}
    return params.search.guide != "q" or bool(tried)


def questions_needed(params: Params) -> dict[str, int]:
    """How many questions of each split the notebooks of these parameters ask for, at most.

    A warm start takes further training questions, a search that influence guides further
    validation questions: the last ones, which serve nothing else.
    """
    return {split: need.count for split, need in needs_of(params).items()}


def needs_of(params: Params) -> dict[str, Need]:
    """As `questions_needed`, with the keys of the parameters whose sum each count is, and the
    notebook that asks for most."""
    none = Need(0, "no notebook")
    needs = dict.fromkeys(("train", "development", "test", "validation"), none)
    for name in params.notebooks:
        for split, need in NOTEBOOKS[name].needs(params).items():
            needs[split] = _most(needs[split], Need(need.count, f"{need.keys} ({name})"))
    if params.sft.warm_start != "none":
        needs["train"] += _of(params, "sft.warm_questions")
    if guides_search(params):
        needs["validation"] += _of(params, "influence.validation_questions")
    return needs
