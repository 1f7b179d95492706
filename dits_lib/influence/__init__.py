"""Influence estimators, all of one contract (`Scores`), and how far each can be trusted."""

from .base import (
    DPOLoss,
    Estimator,
    InfluenceSettings,
    Options,
    ScoreError,
    Scores,
    ScoringContext,
    Training,
    mean_and_stderr,
)
from .gradients import dpo_gradients, dpo_losses, flatten, fresh_stack, part, step
from .registry import ESTIMATORS, score_pairs
from .reliability import by_group, rank_correlation, reliability, resampled_rows
from .step_size import beyond_grid, choose_step_size, step_response
from .validation_play import ValidationPlay, evaluate_adapters, metric_table

__all__ = [
    "ESTIMATORS",
    "DPOLoss",
    "Estimator",
    "InfluenceSettings",
    "Options",
    "ScoreError",
    "Scores",
    "ScoringContext",
    "Training",
    "ValidationPlay",
    "beyond_grid",
    "by_group",
    "choose_step_size",
    "dpo_gradients",
    "dpo_losses",
    "evaluate_adapters",
    "flatten",
    "fresh_stack",
    "mean_and_stderr",
    "metric_table",
    "part",
    "rank_correlation",
    "reliability",
    "resampled_rows",
    "score_pairs",
    "step",
    "step_response",
]
