"""Influence by the policy gradient: one backward pass over validation dialogues serves all pairs.

A step on pair z moves the expected metric by
`E[F(theta - eta g_z)] - E[F(theta)] = -eta <g_z, grad E[F]> + O(eta^2)`. The gradient of the
expected metric is estimated from dialogues sampled on the validation questions (REINFORCE;
Williams, 1992),

    grad E[F] = E[ sum_turns A(turn) * grad log pi(turn) ],

with the advantage A the dialogue's metric minus the mean of the question's other samples
(leave-one-out; Kool et al., 2019). The scores have the unit of one-step influence: a change of the
metric for the step.
"""

from __future__ import annotations

from ...agents import Dialogue
from ...engines import derive_seed
from ...pairs import Pair
from ...tasks import Question
from ..base import SAMPLES_POLICY, Amount, Effort, Estimator, Scores, ScoringContext
from ..validation_gradients import Row, first_order_changes, play_samples


def policy_gradient(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """Advantages from `policy_samples` dialogues of each question, leave-one-out."""
    before, temperature = context.engine.snapshot(), context.settings.temperature
    rows = sampled_rows(context, questions, seed)
    return advantage_scores(
        "policy_gradient", context, pairs, len(questions), rows, before, seed, temperature
    )


def sampled_rows(
    context: ScoringContext, questions: list[Question], seed: object
) -> tuple[list[Row], list[float], list[int]]:
    """`leave_one_out_rows` of `policy_samples` dialogues of every question."""
    settings, noise = context.settings, derive_seed(seed, "policy")
    count, temperature = settings.policy_samples, settings.temperature
    given = context.engine, context.system, questions, count, temperature, noise
    return leave_one_out_rows(play_samples(*given))


def leave_one_out_rows(played: list[list[Dialogue]]) -> tuple[list[Row], list[float], list[int]]:
    """Rows, weights and owners (questions) whose weighted log-probability gradient is each
    question's `grad E[F]`."""
    rows, weights, owners = [], [], []
    for question, dialogues in enumerate(played):
        total, count = sum(d.metric for d in dialogues), len(dialogues)
        for dialogue in dialogues:
            advantage = (dialogue.metric - (total - dialogue.metric) / (count - 1)) / count
            for turn in dialogue.turns:
                if turn.trainable:
                    rows.append((turn.prompt_ids, turn.token_ids))
                    weights.append(advantage)
                    owners.append(question)
    return rows, weights, owners


def advantage_scores(
    name: str,
    context: ScoringContext,
    pairs: list[Pair],
    count: int,
    validation: tuple[list[Row], list[float], list[int]],
    before,
    seed: object,
    temperature: float,
) -> Scores:
    """Scores from rows, weights (advantages) and owners (questions, `count` of them); `before` is
    the engine's usage when the scoring began."""
    table = first_order_changes(context, pairs, validation, count, seed, temperature)
    cost = {"gradients": len(pairs), "backward_rows": sum(w != 0 for w in validation[1])}
    return Scores.of_table(name, pairs, table, context.engine.usage.minus(before) | cost)


def effort(amount: Amount) -> Effort:
    """Sampled dialogues, read once with a backward pass, whatever the number of pairs."""
    sampled = amount.questions * amount.settings.policy_samples
    return Effort(dialogues=sampled, gradient_rows=2 * amount.pairs + sampled)


ESTIMATOR = Estimator(
    "policy_gradient", policy_gradient, effort, uses=SAMPLES_POLICY, needs_spread=True
)
