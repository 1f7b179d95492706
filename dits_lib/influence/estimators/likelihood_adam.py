"""`likelihood` with the pairs' gradients preconditioned as Adam would.

A pair's gradient is divided by the root of its mean square over all pairs, as Adam's update is; the
result is scaled back to the plain step's length, so that both can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...pairs import Pair
from ...tasks import Question
from ..base import SAMPLES_POLICY, Estimator, Scores, ScoringContext
from .likelihood import likelihood_scores
from .policy_gradient import effort

if TYPE_CHECKING:
    import torch


def likelihood_adam(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """As `likelihood`, the pairs' gradients preconditioned."""
    return likelihood_scores("likelihood_adam", context, pairs, questions, seed, preconditioned)


def preconditioned(gradients: torch.Tensor) -> torch.Tensor:
    """Gradients [n, p] over the root mean square of each coordinate, each row scaled back to its
    length."""
    scale = gradients.square().mean(0).sqrt()
    moved = gradients / (scale + 1e-3 * scale.mean() + 1e-12)
    return moved * (
        gradients.norm(dim=1, keepdim=True) / moved.norm(dim=1, keepdim=True).clamp(min=1e-12)
    )


ESTIMATOR = Estimator(
    "likelihood_adam",
    likelihood_adam,
    effort,
    uses=SAMPLES_POLICY,
    needs_spread=True,
    holds_all_gradients=True,
    scores_alone=False,
)
