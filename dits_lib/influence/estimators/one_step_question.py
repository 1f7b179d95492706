"""One-step influence of all pairs of a searched question together: `theta - eta * sum_z g_z`."""

from __future__ import annotations

import numpy as np

from ...pairs import Pair
from ...tasks import Question
from ..base import Amount, Effort, Estimator, Scores, ScoringContext
from ..gradients import gradients_of, step, sum_by
from ..validation_play import ValidationPlay


def one_step_question(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """All pairs of a searched question in one step; each pair gets an equal part of the change."""
    import torch

    engine, settings = context.engine, context.settings
    before, lora_seed = engine.snapshot(), context.lora(seed)
    play = ValidationPlay(engine, context.system, questions, settings, seed)
    table = np.zeros((len(pairs), len(questions)))
    for block in whole_groups(pairs, settings.gradient_block):
        names = list(dict.fromkeys(pairs[i].question_id for i in block))
        owner = torch.tensor([names.index(pairs[i].question_id) for i in block])
        gradients = gradients_of(context, [pairs[i] for i in block], lora_seed)
        stepped = step(sum_by(gradients, owner, len(names)), context.step_size)
        changes = play.changes(stepped)
        table[block] = (changes / owner.bincount()[:, None].numpy())[owner.numpy()]
    cost = engine.usage.minus(before) | {"gradients": len(pairs)} | play.noise()
    return Scores.of_table("one_step_question", pairs, table, cost)


def whole_groups(pairs: list[Pair], size: int) -> list[list[int]]:
    """Indices of the pairs in blocks of about `size`, all pairs of a question in one block."""
    blocks: list[list[int]] = [[]]
    for name in dict.fromkeys(pair.question_id for pair in pairs):
        members = [i for i, pair in enumerate(pairs) if pair.question_id == name]
        if blocks[-1] and len(blocks[-1]) + len(members) > size:
            blocks.append([])
        blocks[-1] += members
    return blocks


def effort(amount: Amount) -> Effort:
    """Every searched question's pairs play every question together."""
    rows = Effort(gradient_rows=2 * (amount.searched + amount.pairs))
    return amount.played_under(amount.searched) + rows


ESTIMATOR = Estimator("one_step_question", one_step_question, effort, scores_alone=False)
