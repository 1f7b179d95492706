"""Influence functions by EK-FAC (Grosse et al., 2023) as the library bergson computes them, on the
policy gradient of the metric. Needs bergson: `make setup PEERS=1`.

    score(z) = -eta <g_z, F^(-1) g_F>

with `g_z` the gradient of a pair's loss by the weights, `g_F` that of E[F] (`policy_gradient`), and
F the Fisher matrix of the model on the pairs' replies. bergson knows the curvature of cross entropy
alone: F stands in for that of the DPO loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...engines import derive_seed
from ...pairs import Pair
from ...settings import Count, Positive
from ...tasks import Question
from ..base import SAMPLES_POLICY, Amount, Effort, Options, Scores, ScoringContext
from ..peers import PeerEstimator, inverse_fisher, pair_rows, scored_rows, summed_gradients
from .policy_gradient import sampled_rows

if TYPE_CHECKING:
    import torch


class EKFACOptions(Options):
    """`groups` of validation questions, a target each, whose spread is the standard error: the
    gradients of so many by all weights are held; `damping` of F, relative to its mean eigenvalue,
    layer by layer."""

    groups: Count = 4
    damping: Positive = 0.1


def bergson_ekfac(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: EKFACOptions,
) -> Scores:
    """The table has a column for each group of validation questions. The target keeps its mean
    length, so that the scores are of the size of `policy_gradient`'s."""
    engine, settings = context.engine, context.settings
    before, temperature = engine.snapshot(), settings.temperature
    groups = min(options.groups, len(questions))
    rows = grouped(sampled_rows(context, questions, seed), len(questions), groups)
    batch, drawn = settings.gradient_rows, derive_seed(seed, "labels") % 2**31
    with engine.learning() as learner:
        given = pair_rows(learner, pairs, context.loss)
        wanted = summed_gradients(learner, rows, groups, temperature=temperature, batch=batch)
        turned = inverse_fisher(
            learner, wanted, given, damping=options.damping, seed=drawn, batch=batch
        )
        products = scored_rows(learner, given, len(pairs), turned, batch=batch)
    shrunk = mean_length(wanted) / max(mean_length(turned), 1e-30)
    table = -context.step_size * shrunk * products.double().numpy()
    cost = {"gradients": len(pairs), "backward_rows": sum(w != 0 for w in rows[1])}
    return Scores.of_table("bergson_ekfac", pairs, table, engine.usage.minus(before) | cost)


def grouped(given: tuple, questions: int, groups: int) -> tuple:
    """Rows, weights and owners of questions, as those of groups of questions, a mean each."""
    rows, weights, owners = given
    sizes = [len(range(group, questions, groups)) for group in range(groups)]
    named = [owner % groups for owner in owners]
    return rows, [w / sizes[g] for w, g in zip(weights, named, strict=True)], named


def mean_length(gradients: dict[str, torch.Tensor]) -> float:
    """Mean Euclidean length of the rows of {layer: [n, size]}, all layers together."""
    return sum(g.square().sum(1) for g in gradients.values()).sqrt().mean().item()


def effort(amount: Amount) -> Effort:
    """Sampled dialogues, read once with a backward pass, and the pairs three times: for the
    factors, for their eigenvalues, and for the scores."""
    sampled = amount.questions * amount.settings.policy_samples
    return Effort(dialogues=sampled, gradient_rows=6 * amount.pairs + sampled)


ESTIMATOR = PeerEstimator(
    "bergson_ekfac",
    bergson_ekfac,
    effort,
    EKFACOptions,
    uses=(*SAMPLES_POLICY, "gradient_rows"),  # labels are drawn batch by batch
    needs_spread=True,
    columns_are_questions=False,
    scores_alone=False,
)
