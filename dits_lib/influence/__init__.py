"""Influence estimators, all of one contract (`Scores`), and how far each can be trusted."""

from .base import InfluenceConfig, Scores, Setting, mean_and_stderr
from .dpo_loss import dpo_loss_influence
from .estimators import ESTIMATORS, TREE_ESTIMATORS, by_group
from .gradients import dpo_gradients, dpo_losses, flatten, fresh_stack, part, step
from .one_step import choose_step_size, evaluate_adapters, metric_table, one_step_influence, step_response
from .reliability import rank_correlation, reliability, resampled_rows

__all__ = [
    "ESTIMATORS",
    "InfluenceConfig",
    "TREE_ESTIMATORS",
    "Scores",
    "Setting",
    "by_group",
    "choose_step_size",
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
    "rank_correlation",
    "reliability",
    "resampled_rows",
    "step",
    "step_response",
]
