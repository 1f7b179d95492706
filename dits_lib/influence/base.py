"""What every influence estimator takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..agents import System
from ..engines import Engine, derive_seed
from ..search import SearchConfig


@dataclass(frozen=True)
class InfluenceConfig:
    """Settings of the influence step; the ranges are checked in `params`.

    Attributes:
        beta: of the DPO loss.
        rank, scaling: of the LoRA adapters.
        samples: dialogues of each validation question.
        temperature: of those dialogues; 0 is greedy.
        candidates: adapters whose dialogues share a batch.
        gradient_rows: pairs that share a forward and backward pass.
        gradient_block: pairs whose gradients are held at once (`racing`, `group_design` and `likelihood_adam` hold all).
        policy_samples: dialogues of each validation question, for the estimators that do not play under each candidate.
        race_questions, race_error: questions a round of `racing`, and the chance allowed to put a pair on the wrong side of the cut.
        learned_share: of the pairs, that `learned` scores itself; it predicts the rest.
        control_share: of the questions, that `one_step_controlled` plays; the rest serve its control variate alone.
        group_count, group_steps, group_batch, group_rate: groups of `group_design`, steps of each, pairs a step, and its size (x step size).
    """

    beta: float = 0.1
    rank: int = 8
    scaling: float = 2.0
    samples: int = 1
    temperature: float = 1.0
    candidates: int = 32
    gradient_rows: int = 64
    policy_samples: int = 16
    gradient_block: int = 1024
    race_questions: int = 20
    race_error: float = 0.1
    learned_share: float = 0.5
    control_share: float = 0.2
    group_count: int = 48
    group_steps: int = 8
    group_batch: int = 8
    group_rate: float = 0.7


@dataclass(frozen=True)
class Setting:
    """What every estimator is given beside pairs and questions.

    Attributes:
        engine, system: the policy and the agents.
        step_size: eta of the step.
        config: the settings.
        lora_seed: of the LoRA's A; None draws one for each scoring. Scores under one A can be compared without the noise of projection.
        search, min_value, min_gap: how trees and pairs of validation questions are made, by the estimators that need them.
        alpha: share of the pairs that will be kept: estimators that spend their questions around the cut need it.
    """

    engine: Engine
    system: System
    step_size: float
    config: InfluenceConfig
    lora_seed: int | None = None
    search: SearchConfig = SearchConfig()
    min_value: float = 0.4
    min_gap: float = 0.2
    alpha: float = 0.5

    def lora(self, seed: object) -> int:
        """The seed of A for a scoring of this seed."""
        return derive_seed(seed, "lora") if self.lora_seed is None else self.lora_seed


@dataclass
class Scores:
    """Influence of each pair on the validation metric: positive is helpful.

    Attributes:
        estimator: its name.
        value: [n_pairs].
        stderr: [n_pairs], standard error over the validation questions (or pairs).
        cost: tokens, and whatever else the estimator spends.
        per_question: [n_pairs, V], the terms whose mean is `value`, NaN where a pair did not play a question; None if there are none.
    """

    estimator: str
    value: np.ndarray
    stderr: np.ndarray
    cost: dict = field(default_factory=dict)
    per_question: np.ndarray | None = None

    @property
    def tie_share(self) -> float:
        """Share of the pairs whose value another pair has too."""
        _, counts = np.unique(self.value, return_counts=True)
        return float(counts[counts > 1].sum() / max(1, len(self.value)))

    def to_json(self) -> dict:
        table = None if self.per_question is None else np.round(self.per_question, 9).tolist()
        return {
            "estimator": self.estimator, "value": self.value.tolist(), "stderr": self.stderr.tolist(), "cost": self.cost,
            "per_question": table,
        }

    @staticmethod
    def from_json(row: dict) -> Scores:
        table = None if row["per_question"] is None else np.array(row["per_question"])
        return Scores(row["estimator"], np.array(row["value"]), np.array(row["stderr"]), row["cost"], table)


def mean_and_stderr(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error over the last axis, NaN left out; the error is NaN for one column.

    Means are rounded to 9 digits, so that equal scores are equal numbers whatever order they were added in.
    """
    count = (~np.isnan(table)).sum(axis=-1)
    spread = np.nanstd(table, axis=-1, ddof=1) / np.sqrt(count) if table.shape[-1] > 1 else np.full(table.shape[:-1], np.nan)
    return np.nanmean(table, axis=-1).round(9), spread
