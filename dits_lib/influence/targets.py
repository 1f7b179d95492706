"""What gradient-based estimators share: log-probability gradients of validation replies, one a question, all at once."""

from __future__ import annotations

import torch

from ..agents import Dialogue, System
from ..engines import Engine, LoRAStack, TransformersEngine, derive_seed
from ..rollout import State, play
from ..tasks import Question
from .gradients import fresh_stack

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""(prompt ids, reply ids)"""


def play_samples(engine: Engine, system: System, questions: list[Question], samples: int, temperature: float, seed: object) -> list[list[Dialogue]]:
    """`samples` dialogues of every question: [questions][samples]."""
    states = [State(q, (), derive_seed(seed, q.id, sample)) for q in questions for sample in range(samples)]
    played = play(engine, system, states, temperature)
    return [played[start : start + samples] for start in range(0, len(played), samples)]


def logprob_gradients(
    learner: TransformersEngine, rows: list[Row], weights: list[float], owners: list[int], count: int, *, rank: int, scaling: float, seed: int,
    batch: int = 64,
) -> LoRAStack:
    """For each owner, the gradient with respect to B (at B = 0) of `sum_i weights_i * log pi(reply_i | prompt_i)` over its rows.

    Args:
        owners: [rows], each in range(count): a question, or a pair.
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
        value = (learner.teacher_forced([rows[i] for i in chunk], part, index).sum(1) * weight).sum()
        for name, gradient in zip(part.weights, torch.autograd.grad(value, leaves), strict=True):
            total.weights[name][1].index_add_(0, torch.tensor(present, device=learner.device), gradient)
    learner.usage.prompt_tokens += sum(len(rows[i][0]) + len(rows[i][1]) for i in kept)
    return total
