"""Classic influence: what a step on a pair does to the DPO loss of validation pairs (Koh & Liang,
2017, first order).

`L_val(theta - eta * g_z) - L_val(theta) = -eta * <g_val, g_z> + O(eta^2)`; the score is the
decrease, so positive is helpful. Both gradients are of the loss of the training; the validation
pairs' reference is the policy before the step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...engines import Engine, derive_seed
from ...pairs import Pair, extract_pairs
from ...search import tree_search
from ...tasks import Question
from ..base import (
    Amount,
    DPOLoss,
    Effort,
    Estimator,
    InfluenceSettings,
    ScoreError,
    Scores,
    ScoringContext,
)
from ..gradients import dpo_gradients, flatten, gradient_options


def dpo_loss_influence(
    engine: Engine,
    pairs: list[Pair],
    validation: list[Pair],
    step_size: float,
    settings: InfluenceSettings,
    seed: object,
    lora_seed: int | None = None,
    loss: DPOLoss | None = None,
) -> Scores:
    """First-order decrease of the mean DPO loss of the validation pairs, for a step of `step_size`
    on each pair.

    Args:
        loss: of the pairs; None: that of params/micro.yaml.

    Raises:
        ScoreError: without validation pairs.
    """
    if not validation:
        raise ScoreError("no validation pairs: the search on the validation questions gave none")
    before, loss, parts = engine.snapshot(), loss or DPOLoss(), []
    if lora_seed is None:
        fixed = settings.lora_seed
        lora_seed = derive_seed(seed, "lora") if fixed is None else fixed
    options = gradient_options(settings, loss) | {"seed": lora_seed}
    own = options | {"loss": replace(loss, reference=None)}
    with engine.learning() as learner:
        wanted = flatten(dpo_gradients(learner, validation, **own))
        for start in range(0, len(pairs), settings.gradient_block):
            block = pairs[start : start + settings.gradient_block]
            steps = flatten(dpo_gradients(learner, block, **options))
            parts.append(step_size * (steps @ wanted.T).cpu().double().numpy())
    cost = engine.usage.minus(before) | {"gradients": len(pairs) + len(validation)}
    return Scores.of_table("dpo_loss", pairs, np.concatenate(parts), cost)


def dpo_loss(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """`dpo_loss_influence` as an estimator: the validation pairs come from a search on the
    validation questions."""
    engine, system, before = context.engine, context.system, context.engine.snapshot()
    noise, initial = derive_seed(seed, "trees"), context.initial
    grown = tree_search(engine, system, questions, context.search, noise, initial=initial)
    limits = context.pairs.min_value, context.pairs.min_gap, context.pairs.upper_half
    validation = extract_pairs(engine.tokenizer, system, grown, *limits)
    scores = dpo_loss_influence(
        engine,
        pairs,
        validation,
        context.step_size,
        context.settings,
        seed,
        context.lora(seed),
        context.loss,
    )
    scores.cost |= engine.usage.minus(before)
    return scores


def effort(amount: Amount) -> Effort:
    """A search of the validation questions, whose every reply may be learned from."""
    played = amount.questions * amount.rollouts
    return Effort(dialogues=played, gradient_rows=2 * amount.pairs + played)


ESTIMATOR = Estimator("dpo_loss", dpo_loss, effort, uses=(), grows_trees=True)
