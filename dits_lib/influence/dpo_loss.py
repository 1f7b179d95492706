"""Classic influence: what a step on a pair does to the DPO loss of validation pairs (Koh & Liang, 2017, first order).

`L_val(theta - eta * g_z) - L_val(theta) = -eta * <g_val, g_z> + O(eta^2)`; the score is the decrease, so positive is helpful.
"""

from __future__ import annotations

import numpy as np

from ..engines import Engine, derive_seed
from ..pairs import Pair, extract_pairs
from ..search import search
from ..tasks import Question
from .base import InfluenceConfig, Scores, Setting, mean_and_stderr
from .gradients import dpo_gradients, flatten
from .one_step import gradient_options


def dpo_loss_influence(
    engine: Engine, pairs: list[Pair], validation: list[Pair], step_size: float, config: InfluenceConfig, seed: object,
    lora_seed: int | None = None,
) -> Scores:
    """First-order decrease of the mean DPO loss of the validation pairs, for a step of `step_size` on each pair.

    Raises:
        ValueError: without validation pairs.
    """
    if not validation:
        raise ValueError("no validation pairs: the search on the validation questions gave none")
    before = engine.snapshot()
    options = gradient_options(config) | {"seed": derive_seed(seed, "lora") if lora_seed is None else lora_seed}
    parts = []
    with engine.learning() as learner:
        targets = flatten(dpo_gradients(learner, validation, **options))
        for start in range(0, len(pairs), config.gradient_block):
            candidates = flatten(dpo_gradients(learner, pairs[start : start + config.gradient_block], **options))
            parts.append(step_size * (candidates @ targets.T).cpu().double().numpy())
    table = np.concatenate(parts)
    value, stderr = mean_and_stderr(table)
    return Scores("dpo_loss", value, stderr, engine.usage.minus(before) | {"gradients": len(pairs) + len(validation)}, table)


def dpo_loss(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """`dpo_loss_influence` as an estimator: the validation pairs come from a search on the validation questions."""
    engine, before = setting.engine, setting.engine.snapshot()
    trees = search(engine, setting.system, questions, setting.search, derive_seed(seed, "trees"))
    validation = extract_pairs(engine.tokenizer, setting.system, trees, setting.min_value, setting.min_gap)
    scores = dpo_loss_influence(engine, pairs, validation, setting.step_size, setting.config, seed, setting.lora(seed))
    scores.cost |= engine.usage.minus(before)
    return scores
