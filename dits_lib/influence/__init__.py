"""Influence estimators, all of one contract (`Scores`), and how far each can be trusted."""

from .base import Scores, mean_and_stderr
from .dpo_loss import dpo_loss_influence
from .gradients import dpo_gradients, dpo_losses, flatten, fresh_stack, part, step
from .one_step import InfluenceConfig, choose_step_size, evaluate_adapters, metric_table, one_step_influence, step_response
from .reliability import rank_correlation, reliability, resampled_rows

__all__ = [
    "InfluenceConfig",
    "Scores",
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
