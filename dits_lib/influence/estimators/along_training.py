"""Influence along a training: the gradients of the pairs at a few checkpoints of the whole DPO
training, held against the gradient of the metric at its end (TracInCP; Pruthi et al., 2020).

`-sum_c (rates of the steps up to c) / n * <P_c grad l_z(theta_c), grad E[F(theta_T)]>`: what each
step on a pair does, as if the later steps passed every change on as it is. `through_training`
follows the later steps too, for more time. P_c is what AdamW divides a gradient by at the
checkpoint (as in LESS; Xia et al., 2024), or 1.
"""

from __future__ import annotations

import numpy as np

from ...pairs import Pair
from ...settings import Count
from ...tasks import Question
from ..base import Amount, Effort, Estimator, Options, Scores, ScoringContext
from ..unrolled import divisors
from .through_training import FOLLOWS, trainings


class AlongOptions(Options):
    """`orders` of the pairs, a training each; `groups` of validation questions, whose spread is
    part of the standard error; whether gradients are divided as by AdamW (`preconditioned`)."""

    orders: Count = 1
    groups: Count = 4
    preconditioned: bool = True


def along_training(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: AlongOptions,
) -> Scores:
    """The table has a column for each order of the pairs and group of validation questions. The
    checkpoints are those that `UnrolledDPO.train` keeps, about sqrt(steps) of them."""
    import torch

    engine, columns = context.engine, []
    before, checkpoints, weights = engine.snapshot(), 0, torch.ones(len(pairs))
    given = pairs, weights, questions, seed, options.orders, options.groups
    for run, kept, wanted in trainings(context, *given):
        table = np.zeros((len(pairs), len(wanted)))
        for segment, state in enumerate(kept[1:]):
            first = segment * run.stride
            rate = sum(run.rates[first : first + run.stride]) / len(pairs)
            towards = wanted
            if options.preconditioned:
                scales = divisors(state.second, min(first + run.stride, context.training.steps))
                towards = [{n: g / scales[n] for n, g in own.items()} for own in wanted]
            table -= rate * run.slopes(state, towards, context.settings.gradient_rows)
        checkpoints += len(kept) - 1
        columns.append(table)
    read = context.training.steps * context.training.batch * options.orders
    cost = {"gradients": read + checkpoints * len(pairs), "checkpoints": checkpoints}
    table = np.concatenate(columns, axis=1)
    return Scores.of_table("along_training", pairs, table, engine.usage.minus(before) | cost)


def effort(amount: Amount) -> Effort:
    """For each order a training, the dialogues that its model says, and the pairs read at its
    checkpoints for each group (a derivative along a direction takes about two passes)."""
    options, steps = ESTIMATOR.options_of(amount.settings), amount.training.steps
    sampled = amount.questions * amount.settings.policy_samples
    checkpoints = int(steps**0.5) + 1
    read = 2 * checkpoints * options.groups * 2 * amount.pairs
    trained = 2 * steps * amount.training.batch
    once = Effort(dialogues=sampled, gradient_rows=trained + sampled, forward_rows=read)
    return once.times(options.orders) + Effort(forward_rows=2 * amount.pairs)


ESTIMATOR = Estimator("along_training", along_training, effort, AlongOptions, **FOLLOWS)
