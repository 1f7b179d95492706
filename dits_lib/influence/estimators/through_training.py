"""Influence through training: what a pair's weight in the loss does to the metric of the model that
the whole DPO training ends with, `dE[F(theta_T(w))] / dw_z`.

Other estimators ask where one step from the policy leads. Here the training itself is run on all
pairs; the gradient of the expected metric at its end comes from sampled dialogues, as in
`policy_gradient`; and one sweep backwards through the steps turns it into the derivative with
respect to the weight of every pair (metagradients; Engstrom et al., 2025; Ilyas and Engstrom, 2025,
MAGIC, who take it for a loss, which has a gradient of its own).

The derivative at all pairs need not foresee what half of them do, since a weight's effect changes
when others go. So there may be `rounds`: after each sweep the pairs with the worst score so far
are left out of the training, in equal steps that end with the share alpha that will be kept, and
the rest are trained on as they will be. A pair that is left out keeps a small weight beside them
(`UnrolledDPO`), for at weight 0 AdamW is hardly smooth: derivatives there are several times as
large as those of the kept pairs, and foresee less of what the whole pair does than those at a
tenth of its weight. The score of a pair is the mean of its derivatives over the rounds. It is a
mean, and not the order in which pairs went, because

- the metric's change along the way from all pairs to the half is the sum of the pairs' derivatives
  on it: their mean over points of the way ranks all pairs in one unit, and scores of a set may be
  added up;
- the later trainings, nearer to the one that the half is kept for, count more by themselves: the
  fewer pairs share the same number of steps, the more a weight does;
- every score rests on all sweeps, and what the noise of one has left out the next ones may take in
  again: who is trained on is decided among all pairs, by the same mean as in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from ...agents import Dialogue
from ...engines import Engine, derive_seed
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
    spread is part of the standard error; `weight` of every pair in the loss of that training;
    `rounds` of trainings and sweeps, of which the last is on the share alpha of the pairs (1: on
    all of them, once); share of its weight that a pair keeps which a round has `left_out`."""

    orders: Count = 2
    groups: Count = 2
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    left_out: Annotated[float, Field(ge=0, lt=1)] = 0.1


def through_training(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: ThroughOptions,
) -> Scores:
    """The table has a column for each order of the pairs and group of validation questions, the
    mean over the rounds. The rounds are no repetitions of one measurement, so that their spread is
    not in the standard error; all columns share the pairs that were left out."""
    import torch

    engine, everyone = context.engine, len(pairs)
    before, tables, read, sweeps = engine.snapshot(), [], 0, 0
    for number, share in enumerate(shares_of(options.rounds, context.alpha)):
        kept = best(np.mean(tables, axis=0).mean(1), share) if tables else np.arange(everyone)
        weights, columns = torch.full((everyone,), options.weight * options.left_out), []
        weights[torch.as_tensor(kept)] = options.weight
        drawn = ("round", number, seed) if number else seed
        given = pairs, weights, questions, drawn, options.orders, options.groups, kept
        for run, states, wanted in trainings(context, *given):
            columns.append(run.back(states, weights, wanted))
            read += context.training.steps * context.training.batch + sum(map(len, run.guests))
        tables.append(np.concatenate(columns, axis=1))
        sweeps += tables[-1].shape[1]
        context = replace(context, loss=run.loss)  # its reference is read
    cost = engine.usage.minus(before) | {"gradients": read, "sweeps": sweeps}
    return Scores.of_table("through_training", pairs, np.mean(tables, axis=0), cost)


def shares_of(rounds: int, alpha: float) -> list[float]:
    """The share of the pairs that each round trains on: all, then in equal steps down to alpha."""
    return np.linspace(1.0, alpha, rounds).tolist()


def best(scores: np.ndarray, share: float) -> np.ndarray:
    """Indices, ascending, of this share of the pairs, those of the highest scores: one at least,
    and of equal ones the first."""
    count = max(1, round(share * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def trainings(
    context: ScoringContext,
    pairs: list[Pair],
    weights: torch.Tensor,
    questions: list[Question],
    seed: object,
    orders: int,
    groups: int,
    kept: np.ndarray | None = None,
) -> Iterator[tuple[UnrolledDPO, list[TrainingState], list[dict]]]:
    """For each order of the pairs, a training on those that are kept (by default all of them) with
    these weights: the training, the states that it keeps, and `ends_of` for the groups of the
    questions."""
    settings = context.settings
    fit = {"rows": settings.gradient_rows, "tokens": settings.gradient_tokens}
    parts = [questions[start::groups] for start in range(min(groups, len(questions)))]
    for order in range(orders):
        drawn = derive_seed(seed, "order", order) % 2**31
        with context.engine.learning() as learner:
            given = learner, pairs, context.loss, context.training, drawn, kept
            run = UnrolledDPO(*given, **fit)
            states, played = run.train(weights), []
            apart = learner is not context.engine and context.training.lora_rank > 0
            if not apart:  # all weights are trained: nothing else can speak with them
                played = ends_said(context, run, learner, states[-1], parts, (seed, order))
        # An engine that speaks faster than it learns takes the trained adapter.
        if apart:
            played = ends_said(context, run, context.engine, states[-1], parts, (seed, order))
        with context.engine.learning() as learner:
            run.learner = learner
            yield run, states, ends_of(context, run, states[-1], played)


def ends_said(
    context: ScoringContext,
    run: UnrolledDPO,
    speaker: Engine,
    last: TrainingState,
    parts: list[list[Question]],
    seed: object,
) -> list[list[list[Dialogue]]]:
    """Dialogues of the trained model on groups of questions, [groups][questions][samples]."""
    settings, noise = context.settings, derive_seed("ends", seed)
    with run.speaking(last) as adapter:
        if adapter is not None:  # it was trained where the learner is
            adapter = adapter.to(speaker.stack_device)
        given = settings.policy_samples, settings.temperature, noise, adapter
        return [play_samples(speaker, context.system, part, *given) for part in parts]


def ends_of(
    context: ScoringContext,
    run: UnrolledDPO,
    last: TrainingState,
    played: list[list[list[Dialogue]]],
) -> list[dict]:
    """`grad E[F]` at the end of a training, by name of the weights, for each group of questions: as
    in `policy_gradient`, from dialogues that the trained model said."""
    settings, wanted = context.settings, []
    for dialogues in played:
        rows, factors, _ = leave_one_out_rows(dialogues)
        factors = [factor / len(dialogues) for factor in factors]
        given = last, rows, factors, settings.temperature, settings.gradient_rows
        wanted.append(run.gradient(*given))
    return wanted


def effort(amount: Amount) -> Effort:
    """For each round and order a training, each of whose steps is taken twice and differentiated
    twice, with the pairs that the round leaves out beside the rest, and the dialogues that its
    model says."""
    options = ESTIMATOR.options_of(amount.settings)
    trained = 2 * amount.training.steps * amount.training.batch
    sampled = amount.questions * amount.settings.policy_samples
    total = Effort(forward_rows=2 * amount.pairs)
    for share in shares_of(options.rounds, amount.alpha):
        rows = (2 + 2 * options.groups) * trained / share
        once = Effort(dialogues=sampled, gradient_rows=rows + sampled)
        total += once.times(options.orders)
    return total


FOLLOWS = {
    "uses": SAMPLES_POLICY,
    "uses_training": True,
    "needs_spread": True,
    "columns_are_questions": False,
    "scores_alone": False,
    "unit": "derivative",
}
"""What is true of every estimator that follows a training."""

ESTIMATOR = Estimator(
    "through_training", through_training, effort, ThroughOptions, uses_alpha=True, **FOLLOWS
)
