"""What gradient-based estimators share: log-probability gradients of validation replies, one a question, all at once."""

from __future__ import annotations

import numpy as np
import torch

from ..agents import Dialogue, System
from ..engines import Engine, LoRAStack, TransformersEngine, derive_seed
from ..pairs import Pair
from ..rollout import State, play
from ..tasks import Question
from .base import Setting
from .gradients import dpo_gradients, flatten, fresh_stack
from .one_step import gradient_options

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""(prompt ids, reply ids)"""


def play_samples(engine: Engine, system: System, questions: list[Question], samples: int, temperature: float, seed: object) -> list[list[Dialogue]]:
    """`samples` dialogues of every question: [questions][samples]."""
    states = [State(q, (), derive_seed(seed, q.id, sample)) for q in questions for sample in range(samples)]
    played = play(engine, system, states, temperature)
    return [played[start : start + samples] for start in range(0, len(played), samples)]


def logprob_gradients(
    learner: TransformersEngine, rows: list[Row], weights: list[float], owners: list[int], count: int, *, rank: int, scaling: float, seed: int,
    batch: int = 64, temperature: float = 1.0,
) -> LoRAStack:
    """For each owner, the gradient with respect to B (at B = 0) of `sum_i weights_i * log pi(reply_i | prompt_i)` over its rows.

    Args:
        owners: [rows], each in range(count): a question, or a pair.
        temperature: of log pi: that at which the replies were sampled.
        seed: of A; gradients are comparable with those of `dpo_gradients` of the same seed, rank and scaling.

    Returns:
        A stack of `count` gradients.
    """
    total = fresh_stack(learner, count, rank, scaling, seed)
    kept = [i for i in range(len(rows)) if weights[i] != 0]
    kept.sort(key=lambda i: (len(rows[i][0]) + len(rows[i][1]), owners[i]))
    for start in range(0, len(kept), batch):
        chunk = kept[start : start + batch]
        present = sorted({owners[i] for i in chunk})
        part = fresh_stack(learner, len(present), rank, scaling, seed)
        leaves = [b.requires_grad_() for _, b in part.weights.values()]
        index = torch.tensor([present.index(owners[i]) for i in chunk], device=learner.device)
        weight = torch.tensor([weights[i] for i in chunk], device=learner.device)
        value = (learner.teacher_forced([rows[i] for i in chunk], part, index, temperature).sum(1) * weight).sum()
        for name, gradient in zip(part.weights, torch.autograd.grad(value, leaves), strict=True):
            total.weights[name][1].index_add_(0, torch.tensor(present, device=learner.device), gradient)
    learner.usage.prompt_tokens += sum(len(rows[i][0]) + len(rows[i][1]) for i in kept)
    return total


def against_targets(setting: Setting, pairs: list[Pair], target: tuple[list[Row], list[float], list[int]], count: int, seed: object, temperature: float, change=None) -> np.ndarray:
    """`-eta <g_z, G_q>`, [pairs, count]: g_z the gradient of a pair's DPO loss, G_q that of the target's rows of owner q.

    Args:
        change: of all pairs' gradients [n, parameters] before the product, such as a preconditioner (then all are held at once).
    """
    config, adapter_seed, parts = setting.config, setting.lora(seed), []
    options = gradient_options(config)
    with setting.engine.learning() as learner:
        aims = flatten(logprob_gradients(
            learner, *target, count, rank=config.rank, scaling=config.scaling, seed=adapter_seed, batch=config.gradient_rows, temperature=temperature
        ))
        size = len(pairs) if change else config.gradient_block
        for start in range(0, len(pairs), size):
            steps = flatten(dpo_gradients(learner, pairs[start : start + size], seed=adapter_seed, **options))
            parts.append(-setting.step_size * ((change(steps) if change else steps) @ aims.T).cpu().double().numpy())
    return np.concatenate(parts)
