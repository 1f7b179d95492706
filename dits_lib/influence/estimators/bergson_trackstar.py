"""Influence by TrackStar (Chang et al., 2025) as the library bergson computes it, on the policy
gradient of the metric. Needs bergson: `make setup PEERS=1`.

The gradient of a pair's loss by a layer's weights is projected from both sides, `g = P G Q`
(random signs). With `H` the mean of `g g^T` over the pairs, layer by layer,

    score(z) = -eta <u_z, H^(-1/2) g_F>,  u_z = H^(-1/2) g_z / |H^(-1/2) g_z|,

where `g_F` is grad E[F] (`policy_gradient`), projected alike. Pairs whose gradients point where
many do, and pairs of long gradients, count less than by a plain product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ...pairs import Pair
from ...settings import Positive
from ...tasks import Question
from ..base import SAMPLES_POLICY, Options, Scores, ScoringContext
from ..peers import PeerEstimator, bergson_loaded, pair_rows, summed_gradients
from .policy_gradient import effort, sampled_rows

if TYPE_CHECKING:
    import torch


class TrackStarOptions(Options):
    """`projection`: rows and columns that each layer's gradient is projected to; `damping` of H,
    relative to its mean eigenvalue; whether H is used (`preconditioned`) and whether the pairs'
    gradients are scaled to one length (`normalised`)."""

    projection: Annotated[int, Field(ge=2, le=256)] = 16
    damping: Positive = 0.1
    preconditioned: bool = True
    normalised: bool = True


def bergson_trackstar(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: TrackStarOptions,
) -> Scores:
    """The table has a column for each validation question. Pairs and target keep their mean length,
    so that the scores are of the size of `policy_gradient`'s."""
    engine, settings = context.engine, context.settings
    before, temperature = engine.snapshot(), settings.temperature
    rows = sampled_rows(context, questions, seed)
    with engine.learning() as learner:
        given = pair_rows(learner, pairs, context.loss)
        common = {"processor": processor_of(options, context.lora(seed) % 2**31)}
        common["batch"] = settings.gradient_rows
        steps = summed_gradients(learner, given, len(pairs), **common)
        wanted = summed_gradients(learner, rows, len(questions), temperature=temperature, **common)
    steps, wanted = conditioned(steps, wanted, options)
    table = -context.step_size * (steps @ wanted.T).double().numpy()
    cost = {"gradients": len(pairs), "backward_rows": sum(w != 0 for w in rows[1])}
    cost = engine.usage.minus(before) | cost
    return Scores.of_table("bergson_trackstar", pairs, table, cost)


def processor_of(options: TrackStarOptions, seed: int):
    """bergson's record of how gradients are projected."""
    with bergson_loaded():
        from bergson import GradientProcessor

        return GradientProcessor(projection_dim=options.projection, projection_seed=seed)


def conditioned(
    steps: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], options: TrackStarOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs' gradients and the target's, {layer: [n, size]}, each as one matrix [n, all sizes]
    after preconditioning by the pairs' and scaling."""
    import torch

    plain = [torch.cat([*gradients.values()], dim=1) for gradients in (steps, wanted)]
    if options.preconditioned:
        inverse = root_inverse(steps, options.damping)
        steps, wanted = inverse.apply(steps), inverse.apply(wanted)
    found = [torch.cat([*gradients.values()], dim=1) for gradients in (steps, wanted)]
    if options.normalised:
        found[0] = found[0] / found[0].norm(dim=1, keepdim=True).clamp(min=1e-30)
    a, b = (
        new * old.norm(dim=1).mean() / new.norm(dim=1).mean().clamp(min=1e-30)
        for new, old in zip(found, plain, strict=True)
    )
    return a, b


def root_inverse(gradients: dict[str, torch.Tensor], damping: float):
    """bergson's preconditioner `H^(-1/2)` of these gradients {layer: [n, size]}: as its pipeline
    does without mixing in the target's H, which a few questions would not tell."""
    with bergson_loaded():
        from bergson.config import InversionConfig
        from bergson.gradients import GradientProcessor
        from bergson.hessians.preconditioner import DensePreconditioner

        grams = {name: g.T @ g / len(g) for name, g in gradients.items()}
        return DensePreconditioner.from_processor(
            GradientProcessor(hessians=grams),
            inversion_cfg=InversionConfig(damping_factor=damping),
            power=-0.5,
        )


ESTIMATOR = PeerEstimator(
    "bergson_trackstar",
    bergson_trackstar,
    effort,
    TrackStarOptions,
    uses=SAMPLES_POLICY,
    needs_spread=True,
    holds_all_gradients=True,
    scores_alone=False,
)
