"""Influence estimators, all of one contract (`Scores`), and how far each can be trusted."""

from .base import InfluenceConfig, Scores, Setting, mean_and_stderr
from .controlled import controlled
from .dpo_loss import dpo_loss_influence
from .estimators import ESTIMATORS, TREE_ESTIMATORS, by_group
from .gradients import dpo_gradients, dpo_losses, flatten, fresh_stack, part, step
from .one_step import choose_step_size, evaluate_adapters, metric_table, one_step_influence, step_response
from .racing import race
from .reliability import rank_correlation, reliability, resampled_rows

__all__ = [
    "ESTIMATORS",
    "InfluenceConfig",
    "TREE_ESTIMATORS",
    "Scores",
    "Setting",
    "by_group",
    "choose_step_size",
    "controlled",
    "dpo_gradients",
    "dpo_loss_influence",
    "dpo_losses",
    "evaluate_adapters",
    "flatten",
    "fresh_stack",
    "mean_and_stderr",
    "metric_table",
    "one_step_influence",
    "part",
    "race",
    "rank_correlation",
    "reliability",
    "resampled_rows",
    "step",
    "step_response",
]
