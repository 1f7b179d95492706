"""The size of the influence step: chosen by how the policy answers to it."""

from __future__ import annotations

import numpy as np
import scipy

from ..agents import System
from ..engines import Engine, derive_seed
from ..pairs import Pair
from ..tasks import Question
from .base import InfluenceSettings
from .gradients import gradients_of, step
from .validation_play import evaluate_adapters, metric_table


def step_response(
    engine: Engine,
    system: System,
    pairs: list[Pair],
    questions: list[Question],
    step_sizes: list[float],
    settings: InfluenceSettings,
    seed: object,
) -> list[dict]:
    """How the policy answers to steps of each size, on questions that serve nothing else.

    Returns one row a step size: `changed`, share of dialogues that differ from the base model's;
    `mean_change` of the metric; `spread`, standard deviation of the candidates' scores;
    `repeatable`, rank correlation between the scores of the two halves of the questions (NaN
    without variation).
    """
    gradients = gradients_of(engine, pairs, settings, derive_seed(seed, "lora"))
    base = evaluate_adapters(engine, system, questions, None, 1, settings, seed)
    base_replies = [[turn.token_ids for turn in dialogue.turns] for dialogue in base[0]]
    rows = []
    for size in step_sizes:
        played = evaluate_adapters(
            engine, system, questions, step(gradients, size), len(pairs), settings, seed
        )
        changed = np.mean(
            [
                [t.token_ids for t in d.turns] != s
                for row in played
                for d, s in zip(row, base_replies, strict=True)
            ]
        )
        table = metric_table(played, settings.samples) - metric_table(base, settings.samples)
        halves = table[:, ::2].mean(1), table[:, 1::2].mean(1)
        varied = all(half.std() > 0 for half in halves)
        rows.append(
            {
                "step_size": size,
                "changed": float(changed),
                "mean_change": float(table.mean()),
                "spread": float(table.mean(1).std()),
                "repeatable": float(scipy.stats.spearmanr(*halves).statistic)
                if varied
                else float("nan"),
            }
        )
    return rows


def choose_step_size(rows: list[dict], target_changed: float) -> float:
    """The step size whose share of changed dialogues is nearest to the target: smaller changes no
    token, larger breaks the model."""
    return min(rows, key=lambda row: abs(row["changed"] - target_changed))["step_size"]
