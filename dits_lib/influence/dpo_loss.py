"""Classic influence: what a step on a pair does to the DPO loss of validation pairs (Koh & Liang, 2017, first order).

`L_val(theta - eta * g_z) - L_val(theta) = -eta * <g_val, g_z> + O(eta^2)`; the score is the decrease, so positive is helpful.
"""

from __future__ import annotations

from ..engines import TransformersEngine, derive_seed
from ..pairs import Pair
from .base import Scores, mean_and_stderr
from .gradients import dpo_gradients, flatten
from .one_step import InfluenceConfig


def dpo_loss_influence(
    engine: TransformersEngine, pairs: list[Pair], validation: list[Pair], step_size: float, config: InfluenceConfig, seed: object
) -> Scores:
    """First-order decrease of the mean DPO loss of the validation pairs, for a step of `step_size` on each pair.

    Raises:
        ValueError: without validation pairs.
    """
    if not validation:
        raise ValueError("no validation pairs: the search on the validation questions gave none")
    before = engine.snapshot()
    options = {"beta": config.beta, "rank": config.rank, "scaling": config.scaling, "seed": derive_seed(seed, "lora")}
    candidates = flatten(dpo_gradients(engine, pairs, **options))
    targets = flatten(dpo_gradients(engine, validation, **options))
    table = step_size * (candidates @ targets.T).cpu().double().numpy()
    value, stderr = mean_and_stderr(table)
    return Scores("dpo_loss", value, stderr, engine.usage.minus(before) | {"gradients": len(pairs) + len(validation)}, table)
