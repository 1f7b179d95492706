"""What gradient-based estimators share: log-probability gradients of validation replies, one for
each question, all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..agents import Dialogue, System
from ..engines import Engine, LoRAStack, derive_seed
from ..pairs import Pair
from ..rollout import State, play
from ..tasks import Question
from .base import ScoringContext
from .gradients import (
    dpo_gradients,
    flatten,
    fresh_stack,
    gradient_by_b,
    gradient_options,
    passes,
)

if TYPE_CHECKING:
    from ..engines import TransformersEngine

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""(prompt ids, reply ids)"""


def play_samples(
    engine: Engine,
    system: System,
    questions: list[Question],
    samples: int,
    temperature: float,
    seed: object,
    adapter: LoRAStack | None = None,
) -> list[list[Dialogue]]:
    """`samples` dialogues of every question, under the only adapter of a stack if one is given:
    [questions][samples]."""
    index = None if adapter is None else 0
    states = [
        State(q, (), derive_seed(seed, q.id, sample), index)
        for q in questions
        for sample in range(samples)
    ]
    played = play(engine, system, states, temperature, adapter)
    return [played[start : start + samples] for start in range(0, len(played), samples)]


def logprob_gradients(
    learner: TransformersEngine,
    rows: list[Row],
    weights: list[float],
    owners: list[int],
    count: int,
    *,
    rank: int,
    scaling: float,
    seed: int,
    batch: int = 64,
    tokens: int | None = None,
    checkpointing: bool = False,
    temperature: float = 1.0,
) -> LoRAStack:
    """For each owner, the gradient with respect to B (at B = 0) of `sum_i weights_i * log
    pi(reply_i | prompt_i)` over its rows.

    Args:
        owners: [rows], each in range(count): a question, or a pair.
        batch, tokens: rows that share a pass, and their tokens; see `passes`.
        checkpointing: see `checkpointed`.
        temperature: of log pi: that at which the replies were sampled.
        seed: of A; gradients are comparable with those of `dpo_gradients` of the same seed, rank
            and scaling.

    Returns:
        A stack of `count` gradients.
    """
    import torch

    total = fresh_stack(learner, count, rank, scaling, seed)
    kept = [i for i in range(len(rows)) if weights[i] != 0]
    kept.sort(key=lambda i: (len(rows[i][0]) + len(rows[i][1]), owners[i]))
    for chunk in passes([[row] for row in rows], kept, batch, tokens):
        present = sorted({owners[i] for i in chunk})
        part = fresh_stack(learner, len(present), rank, scaling, seed)
        index = torch.tensor([present.index(owners[i]) for i in chunk], device=learner.device)
        weight = torch.tensor([weights[i] for i in chunk], device=learner.device)
        given = [rows[i] for i in chunk], part, index, temperature
        found = gradient_by_b(
            lambda given=given, weight=weight: (
                learner.teacher_forced(*given).sum(1) * weight
            ).sum(),
            learner,
            part,
            index,
            checkpointing,
        )
        for name, gradient in found.items():
            total.weights[name][1].index_add_(
                0, torch.tensor(present, device=learner.device), gradient
            )
    learner.usage.prompt_tokens += sum(len(rows[i][0]) + len(rows[i][1]) for i in kept)
    return total


def first_order_changes(
    context: ScoringContext,
    pairs: list[Pair],
    validation: tuple[list[Row], list[float], list[int]],
    count: int,
    seed: object,
    temperature: float,
    precondition: Callable | None = None,
) -> np.ndarray:
    """`-eta <g_z, G_q>`, [pairs, count]: g_z the gradient of a pair's loss, G_q that of the
    validation rows of owner q.

    Args:
        validation: rows, weights and owners, as in `logprob_gradients`.
        precondition: changes all pairs' gradients [n, parameters] before the product (then all are
            held at once).
    """
    settings, lora_seed, parts = context.settings, context.lora(seed), []
    options = gradient_options(settings, context.loss)
    with context.engine.learning() as learner:
        wanted = flatten(
            logprob_gradients(
                learner,
                *validation,
                count,
                rank=settings.rank,
                scaling=settings.scaling,
                seed=lora_seed,
                batch=settings.gradient_rows,
                tokens=settings.gradient_tokens,
                checkpointing=settings.gradient_checkpointing,
                temperature=temperature,
            )
        )
        size = len(pairs) if precondition else settings.gradient_block
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            steps = flatten(dpo_gradients(learner, block, seed=lora_seed, **options))
            steps = precondition(steps) if precondition else steps
            parts.append(-context.step_size * (steps @ wanted.T).cpu().double().numpy())
    return np.concatenate(parts)
