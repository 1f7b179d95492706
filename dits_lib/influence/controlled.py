"""One-step influence with the policy gradient as a control variate.

Both estimate the same change, the first by play on few questions, the second cheaply on many. With y the one-step change and x the policy
gradient's, both by question,

    value = mean over the played questions of [ y - b * (x - mean of x over all questions) ],    b = cov(y, x) / var(x),

with the standard error of that mean and of the control's own mean. It has the expectation of y (up to the estimation of b, one number for all pairs) and the less variance the more x and y go together.
"""

from __future__ import annotations

import numpy as np

from ..pairs import Pair
from ..tasks import Question
from .base import Scores, Setting, mean_and_stderr
from .one_step import one_step
from .policy_gradient import policy_gradient


def controlled(table: np.ndarray, covariate: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The table [n, V] less what the covariate [n, W] of the same first V questions explains; the share of variance that is left; and b.

    Raises:
        ValueError: when the covariate has fewer questions than the table.
    """
    if covariate.shape[1] < table.shape[1]:
        raise ValueError(f"the control has {covariate.shape[1]} questions, the scores {table.shape[1]}; it takes at least as many")
    own = covariate[:, : table.shape[1]]
    x, y = own - own.mean(1, keepdims=True), table - table.mean(1, keepdims=True)
    slope = float((x * y).sum() / (x**2).sum()) if (x**2).sum() > 0 else 0.0
    left = float(((y - slope * x) ** 2).sum() / (y**2).sum()) if (y**2).sum() > 0 else 1.0
    return table - slope * (own - covariate.mean(1, keepdims=True)), left, slope


def one_step_controlled(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """One-step influence on the first `control_share` of the questions, controlled by the policy gradient on all of them."""
    before = setting.engine.snapshot()
    played = max(2, round(setting.config.control_share * len(questions)))
    plain = one_step(setting, pairs, questions[:played], seed)
    control = policy_gradient(setting, pairs, questions, seed)
    table, left, slope = controlled(plain.per_question, control.per_question)
    value, stderr = mean_and_stderr(table)
    mean_error = slope * mean_and_stderr(control.per_question)[1]
    spent = {"gradients": 2 * len(pairs), "backward_rows": control.cost["backward_rows"], "variance_left": left}
    return Scores("one_step_controlled", value, np.hypot(stderr, mean_error), setting.engine.usage.minus(before) | spent, table)
