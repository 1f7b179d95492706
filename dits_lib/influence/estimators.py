"""Every estimator by name. A new one is a file with one function and a line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..pairs import Pair
from ..tasks import Question
from .base import Scores, Setting, mean_and_stderr
from .controlled import one_step_controlled
from .dpo_loss import dpo_loss
from .group_design import group_design
from .importance import importance
from .learned import learned
from .likelihood import likelihood, likelihood_adam
from .one_step import one_step, one_step_question
from .policy_gradient import policy_gradient, tree_policy_gradient
from .racing import racing

Estimator = Callable[[Setting, list[Pair], list[Question], object], Scores]
"""(setting, pairs, validation questions, seed) -> scores of the pairs."""

ESTIMATORS: dict[str, Estimator] = {
    "one_step": one_step,
    "one_step_question": one_step_question,
    "racing": racing,
    "one_step_controlled": one_step_controlled,
    "policy_gradient": policy_gradient,
    "tree_policy_gradient": tree_policy_gradient,
    "importance": importance,
    "dpo_loss": dpo_loss,
    "likelihood": likelihood,
    "likelihood_adam": likelihood_adam,
    "learned": learned,
    "group_design": group_design,
}

TREE_ESTIMATORS = ("tree_policy_gradient", "dpo_loss")
"""Those that search the validation questions, so that the search's settings decide their scores too."""


def by_group(scores: Scores, groups: list) -> Scores:
    """Scores of groups of pairs (all pairs of one question): the sum of theirs, as for one step on all at once, to first order.

    Returns scores in the order in which the groups first occur.
    """
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=float)
    known = scores.per_question
    table = member @ np.where(np.isnan(known), np.nanmean(known, axis=1, keepdims=True), known)  # an unplayed question counts as the pair's mean
    return Scores(f"{scores.estimator} by group", *mean_and_stderr(table), scores.cost, table)
