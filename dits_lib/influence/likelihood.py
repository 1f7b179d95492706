"""Influence on the likelihood of good validation dialogues, by gradient dot products (TracIn, Pruthi et al., 2020; LESS, Xia et al., 2024).

`score(z) = -eta <g_z, grad log pi(good dialogues)>`: positive when the step makes the good dialogues likelier. With Adam preconditioning the
pair's gradient is divided by the root of its mean square over all pairs, as Adam's update is; the result is scaled back to the
plain step's length, so that both can be compared.
"""

from __future__ import annotations

import torch

from ..engines import derive_seed
from ..pairs import Pair
from ..tasks import Question
from .base import Scores, Setting, mean_and_stderr
from .targets import against_targets, play_samples


def likelihood(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object, adam: bool = False) -> Scores:
    """Change of the mean log likelihood, in nats a dialogue, of each question's best sampled dialogues."""
    before, config, heat = setting.engine.snapshot(), setting.config, setting.config.temperature
    played = play_samples(setting.engine, setting.system, questions, config.policy_samples, heat, derive_seed(seed, "good"))
    rows, weights, owners = [], [], []
    for question, dialogues in enumerate(played):
        best = max(dialogue.metric for dialogue in dialogues)
        good = [dialogue for dialogue in dialogues if dialogue.metric == best > 0]
        for dialogue in good:
            for turn in dialogue.turns:
                if turn.trainable:
                    rows.append((turn.prompt_ids, turn.token_ids))
                    weights.append(1 / len(good))
                    owners.append(question)
    table = against_targets(setting, pairs, (rows, weights, owners), len(questions), seed, heat, preconditioned if adam else None)
    value, stderr = mean_and_stderr(table)
    cost = setting.engine.usage.minus(before) | {"gradients": len(pairs), "backward_rows": len(rows)}
    return Scores("likelihood_adam" if adam else "likelihood", value, stderr, cost, table)


def likelihood_adam(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """As `likelihood`, the pairs' gradients preconditioned as Adam would."""
    return likelihood(setting, pairs, questions, seed, adam=True)


def preconditioned(gradients: torch.Tensor) -> torch.Tensor:
    """Gradients [n, p] over the root mean square of each coordinate, each row scaled back to its length."""
    scale = gradients.square().mean(0).sqrt()
    moved = gradients / (scale + 1e-3 * scale.mean() + 1e-12)
    return moved * (gradients.norm(dim=1, keepdim=True) / moved.norm(dim=1, keepdim=True).clamp(min=1e-12))
