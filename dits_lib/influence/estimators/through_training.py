"""Influence through training: what a pair's weight in the loss does to the metric of the model that
the whole DPO training ends with, `dE[F(theta_T(w))] / dw_z`.

Other estimators ask where one step from the policy leads. Here the training itself is run on all
pairs; the gradient of the expected metric at its end comes from sampled dialogues, as in
`policy_gradient`; and one sweep backwards through the steps turns it into the derivative with
respect to the weight of every pair (metagradients; Engstrom et al., 2025; Ilyas and Engstrom, 2025,
MAGIC, who take it for a loss, which has a gradient of its own).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from ...engines import derive_seed
from ...pairs import Pair
from ...settings import Count
from ...tasks import Question
from ..base import SAMPLES_POLICY, Amount, Effort, Estimator, Options, Scores, ScoringContext
from ..unrolled import TrainingState, UnrolledDPO
from ..validation_gradients import play_samples
from .policy_gradient import leave_one_out_rows

if TYPE_CHECKING:
    import torch


class ThroughOptions(Options):
    """`orders` of the pairs, a training each; `groups` of validation questions, a sweep each, whose
    spread is part of the standard error; `weight` of every pair in the loss of that training."""

    orders: Count = 2
    groups: Count = 2
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0


def through_training(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: ThroughOptions,
) -> Scores:
    """The table has a column for each order of the pairs and group of validation questions."""
    import torch

    engine = context.engine
    before, weights = engine.snapshot(), torch.full((len(pairs),), options.weight)
    given = pairs, weights, questions, seed, options.orders, options.groups
    columns = [run.back(kept, weights, wanted) for run, kept, wanted in trainings(context, *given)]
    table = np.concatenate(columns, axis=1)
    read = context.training.steps * context.training.batch * options.orders
    cost = engine.usage.minus(before) | {"gradients": read, "sweeps": table.shape[1]}
    return Scores.of_table("through_training", pairs, table, cost)


def trainings(
    context: ScoringContext,
    pairs: list[Pair],
    weights: torch.Tensor,
    questions: list[Question],
    seed: object,
    orders: int,
    groups: int,
) -> Iterator[tuple[UnrolledDPO, list[TrainingState], list[dict]]]:
    """For each order of the pairs, a training on all of them with these weights: the training, the
    states that it keeps, and `ends_of` for the groups of the questions."""
    with context.engine.learning() as learner:
        for order in range(orders):
            drawn = derive_seed(seed, "order", order) % 2**31
            run = UnrolledDPO(learner, pairs, context.loss, context.training, drawn)
            kept = run.train(weights)
            yield run, kept, ends_of(context, run, kept[-1], questions, groups, (seed, order))


def ends_of(
    context: ScoringContext,
    run: UnrolledDPO,
    last: TrainingState,
    questions: list[Question],
    groups: int,
    seed: object,
) -> list[dict]:
    """`grad E[F]` at the end of a training, by name of the weights, for each of so many groups of
    the questions (at most as many as there are): as in `policy_gradient`, from dialogues that the
    trained model says."""
    settings, temperature = context.settings, context.settings.temperature
    parts = [questions[start::groups] for start in range(min(groups, len(questions)))]
    noise, wanted = derive_seed("ends", seed), []
    with run.speaking(last) as adapter:
        given = settings.policy_samples, temperature, noise, adapter
        played = [play_samples(run.learner, context.system, part, *given) for part in parts]
    for part, dialogues in zip(parts, played, strict=True):
        rows, factors, _ = leave_one_out_rows(dialogues)
        factors = [factor / len(part) for factor in factors]
        wanted.append(run.gradient(last, rows, factors, temperature, settings.gradient_rows))
    return wanted


def effort(amount: Amount) -> Effort:
    """For each order a training, each of whose steps is taken twice and differentiated twice, and
    the dialogues that its model says."""
    options = ESTIMATOR.options_of(amount.settings)
    trained = 2 * amount.training.steps * amount.training.batch
    sampled = amount.questions * amount.settings.policy_samples
    once = Effort(dialogues=sampled, gradient_rows=(2 + 2 * options.groups) * trained + sampled)
    return once.times(options.orders) + Effort(forward_rows=2 * amount.pairs)


FOLLOWS = {
    "uses": SAMPLES_POLICY,
    "uses_training": True,
    "needs_spread": True,
    "columns_are_questions": False,
    "scores_alone": False,
    "unit": "derivative",
}
"""What is true of every estimator that follows a training."""

ESTIMATOR = Estimator("through_training", through_training, effort, ThroughOptions, **FOLLOWS)
