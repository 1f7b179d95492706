"""One-step influence on the metric itself (the paper's estimator, DITS eq. 4).

`I(z) = F(theta - eta * grad L_DPO(z, theta)) - F(theta)`, with F the mean metric over V validation
questions. The released formula divides by a constant epsilon; we report the change of the metric
for the step, which ranks alike and can be read. All candidates play the same questions under the
same noise (common random numbers), side by side in one batch.
"""

from __future__ import annotations

import numpy as np

from ...agents import System
from ...engines import Engine
from ...pairs import Pair
from ...tasks import Question
from ..base import Amount, DPOLoss, Effort, Estimator, InfluenceSettings, Scores, ScoringContext
from ..gradients import gradients_of, step
from ..validation_play import ValidationPlay


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
    """Change of the metric after one gradient step on each pair.

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
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """`one_step_influence` as an estimator."""
    engine, settings = context.engine, context.settings
    before, lora_seed = engine.snapshot(), context.lora(seed)
    play, rows = ValidationPlay(engine, context.system, questions, settings, seed), []
    for start in range(0, len(pairs), settings.gradient_block):
        block = pairs[start : start + settings.gradient_block]
        stepped = step(gradients_of(context, block, lora_seed), context.step_size)
        rows.append(play.changes(stepped))
    cost = engine.usage.minus(before) | {"gradients": len(pairs)} | play.noise()
    return Scores.of_table("one_step", pairs, np.concatenate(rows), cost)


def effort(amount: Amount) -> Effort:
    """Every pair plays every question."""
    plays = amount.pairs * amount.questions * amount.settings.samples
    return Effort(stepped_dialogues=plays, gradient_rows=2 * amount.pairs)


ESTIMATOR = Estimator("one_step", one_step, effort)
