"""The size of the influence step: chosen by how the policy answers to it."""

from __future__ import annotations

import numpy as np
import scipy

from ..agents import System
from ..engines import Engine, LoRAStack
from ..pairs import Pair
from ..tasks import Question
from .base import Amount, DPOLoss, Effort, InfluenceSettings, ScoringContext
from .gradients import gradients_of, step, zero_steps
from .validation_play import changed_share, evaluate_adapters, metric_table


def step_response(
    engine: Engine,
    system: System,
    pairs: list[Pair],
    questions: list[Question],
    step_sizes: list[float],
    settings: InfluenceSettings,
    seed: object,
    loss: DPOLoss | None = None,
) -> list[dict]:
    """How the policy answers to steps of each size, on questions that serve nothing else.

    Args:
        loss: whose gradient is the step; None: that of params/micro.yaml.

    Returns one row a step size: `changed`, share of dialogues that differ from the base model's;
    `floor`, the share that differs under steps of zero, which is noise (0 for an exact engine);
    `mean_change` of the metric; `spread`, standard deviation of the candidates' scores;
    `repeatable`, rank correlation between the scores of the two halves of the questions (NaN
    without variation).
    """
    context = ScoringContext(engine, system, 1.0, settings, loss=loss or DPOLoss())
    gradients = gradients_of(context, pairs, context.lora(seed))

    def played(stack: LoRAStack | None, count: int):
        return evaluate_adapters(engine, system, questions, stack, count, settings, seed)

    # Where numbers depend on the batch, the base goes the same way as a step.
    base = played(None if engine.exact else zero_steps(gradients, 1), 1)
    floor = 0.0
    if not engine.exact:
        floor = changed_share(played(zero_steps(gradients, len(pairs)), len(pairs)), base[0])
    rows = []
    for size in step_sizes:
        stepped = played(step(gradients, size), len(pairs))
        table = metric_table(stepped, settings.samples) - metric_table(base, settings.samples)
        rows.append(
            {
                "step_size": size,
                "changed": changed_share(stepped, base[0]),
                "floor": floor,
                "mean_change": float(table.mean()),
                "spread": float(table.mean(1).std()),
                "repeatable": _between_halves(table),
            }
        )
    return rows


def response_effort(amount: Amount, sizes: int) -> Effort:
    """What `step_response` takes for so many step sizes; an engine that is not exact plays the base
    as a step of zero, and once more beside every pair for the floor."""
    each = amount.questions * amount.settings.samples
    stepped, own = amount.pairs * sizes, Effort(gradient_rows=2 * amount.pairs)
    if amount.exact:
        return own + Effort(dialogues=each, stepped_dialogues=stepped * each)
    return own + Effort(stepped_dialogues=(stepped + 1 + amount.pairs) * each)


def _between_halves(table: np.ndarray) -> float:
    """Rank correlation between the scores [candidates, V] of every other question and the rest."""
    halves = table[:, ::2].mean(1), table[:, 1::2].mean(1)
    if not all(half.std() > 0 for half in halves):
        return float("nan")
    return float(scipy.stats.spearmanr(*halves).statistic)


def choose_step_size(
    rows: list[dict], target_changed: float, target_repeatable: float | None = None
) -> float:
    """The step size whose share of changed dialogues, less the noise floor, is nearest to the
    target: smaller changes no token, larger breaks the model.

    Args:
        target_repeatable: the smallest step size whose scores repeat at least so well over halves
            of the questions (a rank correlation), whatever it changes; where none does, the one
            that repeats best. None: by `target_changed`.
    """
    if target_repeatable is None:
        return min(rows, key=lambda row: abs(_moved(row) - target_changed))["step_size"]
    able = [row["step_size"] for row in rows if row["repeatable"] >= target_repeatable]
    return min(able) if able else max(rows, key=_repeats)["step_size"]


def beyond_grid(
    rows: list[dict], target_changed: float, target_repeatable: float | None = None
) -> str | None:
    """A warning where the target lies outside what the tried step sizes reach, so that the best
    size may not be among them; None where it lies inside."""
    ordered = sorted(rows, key=lambda row: row["step_size"])
    if target_repeatable is not None:
        best = max(rows, key=_repeats)
        if best["repeatable"] >= target_repeatable:
            return None
        return (
            f"no step size of influence.step_sizes gives scores that repeat at "
            f"{target_repeatable:g}; {best['step_size']:g} repeats best, at "
            f"{best['repeatable']:.2f}; try larger ones, or more influence.step_questions"
        )
    low, high = _moved(ordered[0]), _moved(ordered[-1])
    if high < target_changed:
        edge, share, advice = ordered[-1], high, "larger"
    elif low > target_changed:
        edge, share, advice = ordered[0], low, "smaller"
    else:
        return None
    return (
        f"the step size {edge['step_size']:g} is at the edge of influence.step_sizes: it changes "
        f"{share:.1%} of the dialogues beyond noise, the target is {target_changed:.0%}; try "
        f"{advice} ones"
    )


def _repeats(row: dict) -> float:
    """How well a step's scores repeat; scores without variation repeat worst."""
    return -2.0 if np.isnan(row["repeatable"]) else row["repeatable"]


def _moved(row: dict) -> float:
    """Share of dialogues that a step changes beyond the noise floor."""
    return row["changed"] - row["floor"]
