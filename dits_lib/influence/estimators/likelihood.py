"""Influence on the likelihood of good validation dialogues, by gradient dot products (TracIn,
Pruthi et al., 2020; LESS, Xia et al., 2024).

`score(z) = -eta <g_z, grad log pi(good dialogues)>`: positive when the step makes the good
dialogues likelier.
"""

from __future__ import annotations

from collections.abc import Callable

from ...engines import derive_seed
from ...pairs import Pair
from ...tasks import Question
from ..base import SAMPLES_POLICY, Estimator, Scores, ScoringContext
from ..validation_gradients import first_order_changes, play_samples
from .policy_gradient import effort


def likelihood(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """Change of the mean log likelihood, in nats a dialogue, of each question's best sampled
    dialogues."""
    return likelihood_scores("likelihood", context, pairs, questions, seed)


def likelihood_scores(
    name: str,
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    precondition: Callable | None = None,
) -> Scores:
    """Scores under this name; `precondition` changes the pairs' gradients first."""
    engine, settings = context.engine, context.settings
    before, temperature = engine.snapshot(), settings.temperature
    count, noise = settings.policy_samples, derive_seed(seed, "good")
    played = play_samples(engine, context.system, questions, count, temperature, noise)
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
    validation = rows, weights, owners
    table = first_order_changes(
        context, pairs, validation, len(questions), seed, temperature, precondition
    )
    cost = {"gradients": len(pairs), "backward_rows": len(rows)}
    return Scores.of_table(name, pairs, table, engine.usage.minus(before) | cost)


ESTIMATOR = Estimator("likelihood", likelihood, effort, uses=SAMPLES_POLICY, needs_spread=True)
