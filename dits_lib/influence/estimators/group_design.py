"""Group design: what many overlapping groups of pairs do together, handed down to the pairs (data
models; Ilyas et al., 2022).

One pair is a weak cause, a group a strong one. Each of `count` groups holds half of the pairs:
every other group is a random half of the searched questions, the rest are random halves of clusters
of similar gradients. A LoRA of each group takes `steps` plain steps on batches of its pairs, all
groups side by side; then all play the validation questions. A ridge regression of the change of the
metric on membership gives a pair's score: its own coefficient plus those of its question and its
cluster, so that a strong effect of either is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from ...engines import LoRAStack, derive_seed
from ...pairs import Pair
from ...settings import Count, Positive
from ...settings.kinds import MOST
from ...tasks import Question
from ..base import Amount, Effort, Estimator, Options, Scores, ScoringContext
from ..gradients import (
    dpo_gradients,
    dpo_losses,
    flatten,
    fresh_stack,
    gradient_options,
    mean_lengths,
)
from ..validation_play import ValidationPlay

if TYPE_CHECKING:
    import torch

    from ...engines import TransformersEngine

CLUSTERS = 8


class GroupOptions(Options):
    """`count` groups; `steps` of each; `batch` pairs of a step; `rate`: its size, in units of the
    step size."""

    count: Annotated[int, Field(ge=4, le=MOST)] = 48
    steps: Count = 8
    batch: Count = 8
    rate: Positive = 0.7


def group_design(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: GroupOptions,
) -> Scores:
    """A pair's score is the change of the metric that its membership in a group makes."""
    engine, settings = context.engine, context.settings
    before, lora_seed = engine.snapshot(), context.lora(seed)
    rng = np.random.default_rng(derive_seed(seed, "groups") % 2**32)
    searched = np.array([pair.question_id for pair in pairs])
    with engine.learning() as learner:
        own = gradient_options(settings, context.loss)
        gradients = dpo_gradients(learner, pairs, seed=lora_seed, **own)
        clusters = gradient_clusters(flatten(gradients), derive_seed(seed, "clusters") % 2**32)
        del gradients
        member = draw_groups(options.count, searched, clusters, rng)
        stack = train_groups(learner, pairs, member, context, options, lora_seed, rng)
        stack = stack.to(engine.stack_device)
    play = ValidationPlay(engine, context.system, questions, settings, seed)
    table = handed_down(member, play.changes(stack), [searched, clusters])
    trained = len(member) * options.steps * options.batch
    cost = {"gradients": len(pairs) + trained, "groups": len(member)} | play.noise()
    return Scores.of_table("group_design", pairs, table, engine.usage.minus(before) | cost)


def gradient_clusters(gradients: torch.Tensor, seed: int) -> np.ndarray:
    """[n] cluster of each gradient [n, p], by k-means on the cosines between them."""
    import torch
    from sklearn.cluster import KMeans

    unit = torch.nn.functional.normalize(gradients, dim=1)
    cosines = (unit @ unit.T).cpu().numpy()
    return KMeans(min(CLUSTERS, len(cosines)), n_init=3, random_state=seed).fit_predict(cosines)


def draw_groups(
    count: int, questions: np.ndarray, clusters: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Membership [count, n]: halves of the questions and halves of the clusters in turn."""
    member = np.zeros((count, len(questions)), dtype=bool)
    for index in range(count):
        labels = questions if index % 2 == 0 else clusters
        names = np.unique(labels)
        chosen = rng.choice(names, max(1, len(names) // 2), replace=False)
        member[index] = np.isin(labels, chosen)
    return member


def train_groups(
    learner: TransformersEngine,
    pairs: list[Pair],
    member: np.ndarray,
    context: ScoringContext,
    options: GroupOptions,
    lora_seed: int,
    rng: np.random.Generator,
) -> LoRAStack:
    """`options.steps` plain gradient steps of every group at once, each on the mean loss of a batch
    of the group's pairs, of `options.rate` times the step size."""
    import torch

    settings, step_size = context.settings, options.rate * context.step_size
    stack = fresh_stack(learner, len(member), settings.rank, settings.scaling, lora_seed)
    for _ in range(options.steps):
        drawn = [
            (group, int(pair))
            for group, row in enumerate(member)
            for pair in rng.choice(np.flatnonzero(row), options.batch)
        ]
        drawn.sort(key=lambda item: len(pairs[item[1]].prompt_ids))
        owners = torch.tensor([group for group, _ in drawn])
        lengths = mean_lengths([pairs[i] for _, i in drawn], owners)
        moved = LoRAStack(
            {name: (a, b.clone()) for name, (a, b) in stack.weights.items()}, stack.scaling
        )
        for start in range(0, len(drawn), settings.gradient_rows):
            stop = start + settings.gradient_rows
            leaves = [b.requires_grad_() for _, b in stack.weights.values()]
            losses = dpo_losses(
                learner,
                [pairs[i] for _, i in drawn[start:stop]],
                stack,
                context.loss,
                owners[start:stop],
                lengths=lengths[start:stop],
            )
            for name, gradient in zip(
                stack.weights,
                torch.autograd.grad(losses.sum() / options.batch, leaves),
                strict=True,
            ):
                moved.weights[name][1].sub_(step_size * gradient)
        stack = moved
    return stack


def handed_down(member: np.ndarray, changes: np.ndarray, shared: list[np.ndarray]) -> np.ndarray:
    """Scores of the pairs, [n, V], from the changes [groups, V] that the groups [groups, n] made.

    Args:
        shared: labels [n] of what pairs have in common; every label has a coefficient of its own,
            added to its pairs'.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    inside = member - member.mean(axis=0)
    # [n, labels]
    labels = [np.equal.outer(names, np.unique(names)).astype(float) for names in shared]
    design = np.hstack([inside, *(inside @ of / np.sqrt(of.sum(0)) for of in labels)])
    strength = RidgeCV(alphas=np.logspace(-2, 5, 29)).fit(design, changes.mean(1)).alpha_
    coefficients = Ridge(alpha=strength).fit(design, changes).coef_.T  # [columns, V]
    total, start = coefficients[: member.shape[1]].copy(), member.shape[1]
    for of in labels:
        total += (of / np.sqrt(of.sum(0))) @ coefficients[start : start + of.shape[1]]
        start += of.shape[1]
    return total


def effort(amount: Amount) -> Effort:
    """Every group is trained, and plays every question."""
    options = ESTIMATOR.options_of(amount.settings)
    trained = amount.pairs + options.count * (1 + options.steps * options.batch)
    return amount.played_under(options.count) + Effort(gradient_rows=2 * trained)


ESTIMATOR = Estimator(
    "group_design",
    group_design,
    effort,
    options=GroupOptions,
    holds_all_gradients=True,
    scores_alone=False,
)
