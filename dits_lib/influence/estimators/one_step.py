"""One-step influence on the metric itself (the paper's estimator, DITS eq. 4).

`I(z) = F(theta - eta * grad L_DPO(z, theta)) - F(theta)`, with F the mean metric over V validation
questions. The paper divides by a constant epsilon; we report the change of the metric for the step,
which ranks alike and can be read (`combined_score` divides). All candidates play the same questions
under the same noise (common random numbers), side by side in one batch.

With `group` above 1 a step is taken on several pairs, drawn at random, as DPO would on a batch of
them, and all of them get what it changes (the authors' code scores five pairs with each step).
"""

from __future__ import annotations

import math

import numpy as np

from ...agents import System
from ...engines import Engine, derive_seed
from ...pairs import Pair
from ...settings import Count
from ...tasks import Question
from ..base import (
    Amount,
    DPOLoss,
    Effort,
    Estimator,
    InfluenceSettings,
    Options,
    Scores,
    ScoringContext,
)
from ..gradients import gradients_of, mean_by, mean_lengths, step
from ..validation_play import ValidationPlay


class OneStepOptions(Options):
    """`group`: pairs of a step, drawn at random, that share its score."""

    group: Count = 1


def one_step_influence(
    engine: Engine,
    system: System,
    pairs: list[Pair],
    questions: list[Question],
    step_size: float,
    settings: InfluenceSettings,
    seed: object,
    lora_seed: int | None = None,
    loss: DPOLoss | None = None,
) -> Scores:
    """Change of the metric after one gradient step on each pair alone, under one draw of A.

    Args:
        pairs: candidates.
        questions: the V validation questions.
        step_size: eta of the step; choose it with `step_response`.
        seed: of A and of the noise; equal seeds and questions give equal numbers.
        lora_seed: of A, if other than the seed's.
        loss: whose gradient is the step; None: that of params/micro.yaml.
    """
    context = ScoringContext(engine, system, step_size, settings, lora_seed, loss=loss or DPOLoss())
    return one_step(context, pairs, questions, seed)


def one_step(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: OneStepOptions | None = None,
) -> Scores:
    """`one_step_influence` as an estimator; options None: each pair takes a step of its own."""
    import torch

    engine, settings = context.engine, context.settings
    before, lora_seed = engine.snapshot(), context.lora(seed)
    play = ValidationPlay(engine, context.system, questions, settings, seed)
    size = options.group if options else 1
    owners, table = groups_of(len(pairs), size, seed), np.zeros((len(pairs), len(questions)))
    block = max(1, settings.gradient_block // size)
    for first in range(0, owners.max(initial=-1) + 1, block):
        members = np.flatnonzero((owners >= first) & (owners < first + block))
        some, own = [pairs[i] for i in members], torch.tensor(owners[members] - first)
        if size == 1:
            gradients = gradients_of(context, some, lora_seed)
        else:
            gradients = gradients_of(context, some, lora_seed, mean_lengths(some, own))
            gradients = mean_by(gradients, own)
        table[members] = play.changes(step(gradients, context.step_size))[own.numpy()]
    cost = engine.usage.minus(before) | {"gradients": len(pairs)} | play.noise()
    return Scores.of_table("one_step", pairs, table, cost)


def groups_of(count: int, size: int, seed: object) -> np.ndarray:
    """[count] the group of each pair: groups of `size` pairs drawn at random, the last one smaller
    where they do not come out even; pairs of size 1 stay in their order."""
    order = np.arange(count)
    if size > 1:
        order = np.random.default_rng(derive_seed(seed, "groups") % 2**32).permutation(count)
    owners = np.empty(count, dtype=int)
    owners[order] = np.arange(count) // size
    return owners


def effort(amount: Amount) -> Effort:
    """Every pair, or group of pairs, plays every question."""
    steps = math.ceil(amount.pairs / ESTIMATOR.options_of(amount.settings).group)
    return amount.played_under(steps) + Effort(gradient_rows=2 * amount.pairs)


ESTIMATOR = Estimator("one_step", one_step, effort, options=OneStepOptions)
