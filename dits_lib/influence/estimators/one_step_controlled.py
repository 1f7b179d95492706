"""One-step influence with the policy gradient as a control variate.

Both estimate the same change, the first by play on few questions, the second cheaply on many. With
y the one-step change and x the policy gradient's, both by question,

    value = mean over the played questions of [ y - b * (x - mean of x over all questions) ],    b =
    cov(y, x) / var(x),

with the standard error of that mean and of the control's own mean. It has the expectation of y (up
to the estimation of b, one number for all pairs) and the less variance the more x and y go
together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from ...pairs import Pair
from ...tasks import Question
from ..base import (
    PLAYS,
    Amount,
    Effort,
    Estimator,
    Options,
    Scores,
    ScoringContext,
    mean_and_stderr,
)
from .one_step import one_step
from .policy_gradient import effort as policy_effort
from .policy_gradient import policy_gradient


class ControlOptions(Options):
    """`played_share`: of the questions, that are played; the rest serve the control variate."""

    played_share: Annotated[float, Field(gt=0, lt=1)] = 0.2


def controlled(table: np.ndarray, covariate: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The table [n, V] less what the covariate [n, W] of the same first V questions explains; the
    share of variance that is left; and b.

    Raises:
        ValueError: when the covariate has fewer questions than the table.
    """
    if covariate.shape[1] < table.shape[1]:
        raise ValueError(
            f"the control has {covariate.shape[1]} questions, the scores {table.shape[1]}; it "
            "takes at least as many"
        )
    control = covariate[:, : table.shape[1]]
    x, y = control - control.mean(1, keepdims=True), table - table.mean(1, keepdims=True)
    slope = float((x * y).sum() / (x**2).sum()) if (x**2).sum() > 0 else 0.0
    left = float(((y - slope * x) ** 2).sum() / (y**2).sum()) if (y**2).sum() > 0 else 1.0
    return table - slope * (control - covariate.mean(1, keepdims=True)), left, slope


def one_step_controlled(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: ControlOptions,
) -> Scores:
    """One-step influence on the first questions, controlled by the policy gradient on all."""
    before = context.engine.snapshot()
    played = max(2, round(options.played_share * len(questions)))
    plain = one_step(context, pairs, questions[:played], seed)
    control = policy_gradient(context, pairs, questions, seed)
    table, left, slope = controlled(plain.per_question, control.per_question)
    stderr = np.hypot(mean_and_stderr(table)[1], slope * mean_and_stderr(control.per_question)[1])
    cost = context.engine.usage.minus(before) | {
        "gradients": 2 * len(pairs),
        "backward_rows": control.cost["backward_rows"],
        "variance_left": left,
        **{name: plain.cost[name] for name in ("controls", "noise_floor") if name in plain.cost},
    }
    return Scores.of_table("one_step_controlled", pairs, table, cost, stderr)


def effort(amount: Amount) -> Effort:
    """One-step on a share of the questions, the policy gradient on all."""
    played = round(ESTIMATOR.options_of(amount.settings).played_share * amount.questions)
    plain = replace(amount, questions=played).played_under(amount.pairs)
    return plain + Effort(gradient_rows=2 * amount.pairs) + policy_effort(amount)


ESTIMATOR = Estimator(
    "one_step_controlled",
    one_step_controlled,
    effort,
    options=ControlOptions,
    uses=(*PLAYS, "policy_samples"),
    needs_spread=True,
    columns_are_questions=False,
    scores_alone=False,
    own_stderr=True,
)
