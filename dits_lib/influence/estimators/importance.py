"""Influence by importance sampling: validation dialogues sampled once, reweighted under each
candidate's step; nothing is generated.

For question q with dialogues d_1 ... d_S of the base policy, `F_z(q) = sum_s w_s F(d_s) / sum_s
w_s` with `w_s = pi_z(d_s) / pi(d_s)`, by teacher-forced passes. The effective sample size `(sum
w)^2 / sum w^2` tells how far the reweighting can be trusted: near S little moved, near 1 the step
has left the samples behind.
"""

from __future__ import annotations

import numpy as np

from ...engines import derive_seed
from ...pairs import Pair
from ...tasks import Question
from ..base import SAMPLES_POLICY, Amount, Effort, Estimator, Scores, ScoringContext
from ..gradients import dpo_gradients, gradient_options, part, step
from ..validation_gradients import play_samples


def importance(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """Change of the self-normalised reweighted metric; `cost` holds the mean and the least
    effective sample size."""
    before, settings = context.engine.snapshot(), context.settings
    options = gradient_options(settings, context.loss) | {"seed": context.lora(seed)}
    played = play_samples(
        context.engine,
        context.system,
        questions,
        settings.policy_samples,
        settings.temperature,
        derive_seed(seed, "importance"),
    )
    metric = np.array([[dialogue.metric for dialogue in dialogues] for dialogues in played])
    with context.engine.learning() as learner:
        flat, blocks = [d for dialogues in played for d in dialogues], []
        for start in range(0, len(pairs), settings.gradient_block):
            some = pairs[start : start + settings.gradient_block]
            steps = step(dpo_gradients(learner, some, **options), context.step_size)
            blocks.append(_log_ratios(learner, steps, flat, settings.temperature))
    ratios = np.concatenate(blocks).reshape(len(pairs), *metric.shape)
    weights = np.exp(ratios - ratios.max(axis=2, keepdims=True))
    table = (weights * metric).sum(2) / weights.sum(2) - metric.mean(1)
    size = weights.sum(2) ** 2 / (weights**2).sum(2)
    cost = {
        "gradients": len(pairs),
        "effective_samples_mean": float(size.mean()),
        "effective_samples_least": float(size.min()),
    }
    return Scores.of_table("importance", pairs, table, context.engine.usage.minus(before) | cost)


def _log_ratios(learner, steps, dialogues, temperature: float) -> np.ndarray:
    """log pi_z(d) - log pi(d), [pairs, dialogues]: summed over the replies of a dialogue."""
    import torch

    rows, owner = [], []
    for index, dialogue in enumerate(dialogues):
        for turn in dialogue.turns:
            if turn.trainable:
                rows.append((turn.prompt_ids, turn.token_ids))
                owner.append(index)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    log_ratios, block = np.zeros((len(steps), len(dialogues))), 8
    with torch.inference_mode():
        width = max(1, learner.max_rows // block)
        for start in range(0, len(order), width):
            chunk = order[start : start + width]
            texts = [rows[i] for i in chunk]
            base = learner.teacher_forced(texts, temperature=temperature).sum(1)
            for first in range(0, len(steps), block):
                some = part(steps, first, min(first + block, len(steps)))
                index = torch.arange(len(some), device=learner.device).repeat_interleave(len(texts))
                moved = (
                    learner.teacher_forced(texts * len(some), some, index, temperature)
                    .sum(1)
                    .reshape(len(some), -1)
                )
                np.add.at(
                    log_ratios[first : first + len(some)].T,
                    [owner[i] for i in chunk],
                    (moved - base).T.cpu().double().numpy(),
                )
    learner.usage.prompt_tokens += (len(steps) + 1) * sum(len(p) + len(r) for p, r in rows)
    return log_ratios


def effort(amount: Amount) -> Effort:
    """Every sampled dialogue is read again under every pair's step."""
    sampled = amount.questions * amount.settings.policy_samples
    return Effort(dialogues=sampled, forward_rows=amount.pairs * sampled)


ESTIMATOR = Estimator("importance", importance, effort, uses=SAMPLES_POLICY, needs_spread=True)
