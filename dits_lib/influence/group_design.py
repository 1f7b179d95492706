"""Group design: what many overlapping groups of pairs do together, handed down to the pairs (data models; Ilyas et al., 2022).

One pair is a weak cause, a group a strong one. Each of `group_count` groups holds half of the pairs: every other group is a random half of the
searched questions, the rest are random halves of clusters of similar gradients. A LoRA of each group takes `group_steps` plain steps on
batches of its pairs, all groups side by side; then all play the validation questions. A ridge regression of the change of the metric on
membership gives a pair's score: its own coefficient plus those of its question and its cluster, so that a strong effect of either is shared.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge, RidgeCV

from ..engines import LoRAStack, TransformersEngine, derive_seed
from ..pairs import Pair
from ..tasks import Question
from .base import InfluenceConfig, Scores, Setting, mean_and_stderr
from .gradients import dpo_gradients, dpo_losses, flatten, fresh_stack
from .one_step import evaluate_adapters, gradient_options, metric_changes, metric_table

CLUSTERS = 8


def group_design(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """A pair's score is the change of the metric that its membership in a group makes."""
    engine, config = setting.engine, setting.config
    before, rng = engine.snapshot(), np.random.default_rng(derive_seed(seed, "groups") % 2**32)
    with engine.learning() as learner:
        gradients = flatten(dpo_gradients(learner, pairs, seed=setting.lora(seed), **gradient_options(config)))
        clusters = gradient_clusters(gradients, derive_seed(seed, "clusters") % 2**32)
        del gradients
        member = draw_groups(config.group_count, np.array([pair.question_id for pair in pairs]), clusters, rng)
        stack = train_groups(learner, pairs, member, config.group_rate * setting.step_size, config, setting.lora(seed), rng).to(engine.stack_device)
    base = metric_table(evaluate_adapters(engine, setting.system, questions, None, 1, config, seed), config.samples)
    changes = metric_changes(engine, setting.system, stack, base, questions, config, seed)
    table = handed_down(member, changes, [np.array([pair.question_id for pair in pairs]), clusters])
    spent = {"gradients": len(pairs) + member.shape[0] * config.group_steps * config.group_batch, "groups": member.shape[0]}
    return Scores("group_design", *mean_and_stderr(table), engine.usage.minus(before) | spent, table)


def gradient_clusters(gradients: torch.Tensor, seed: int) -> np.ndarray:
    """[n] cluster of each gradient [n, p], by k-means on the cosines between them."""
    unit = torch.nn.functional.normalize(gradients, dim=1)
    cosines = (unit @ unit.T).cpu().numpy()
    return KMeans(min(CLUSTERS, len(cosines)), n_init=3, random_state=seed).fit_predict(cosines)


def draw_groups(count: int, questions: np.ndarray, clusters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Membership [count, n]: halves of the questions and halves of the clusters in turn."""
    member = np.zeros((count, len(questions)), dtype=bool)
    for index in range(count):
        labels = questions if index % 2 == 0 else clusters
        names = np.unique(labels)
        chosen = rng.choice(names, max(1, len(names) // 2), replace=False)
        member[index] = np.isin(labels, chosen)
    return member


def train_groups(
    learner: TransformersEngine, pairs: list[Pair], member: np.ndarray, step_size: float, config: InfluenceConfig, lora_seed: int,
    rng: np.random.Generator,
) -> LoRAStack:
    """`group_steps` plain gradient steps of every group at once, each on the mean DPO loss of a batch of the group's pairs."""
    stack = fresh_stack(learner, len(member), config.rank, config.scaling, lora_seed)
    for _ in range(config.group_steps):
        drawn = [(group, int(pair)) for group, row in enumerate(member) for pair in rng.choice(np.flatnonzero(row), config.group_batch)]
        drawn.sort(key=lambda item: len(pairs[item[1]].prompt_ids))
        moved = LoRAStack({name: (a, b.clone()) for name, (a, b) in stack.weights.items()}, stack.scaling)
        for start in range(0, len(drawn), config.gradient_rows):
            chunk = drawn[start : start + config.gradient_rows]
            leaves = [b.requires_grad_() for _, b in stack.weights.values()]
            losses = dpo_losses(learner, [pairs[i] for _, i in chunk], stack, config.beta, torch.tensor([group for group, _ in chunk]))
            for name, gradient in zip(stack.weights, torch.autograd.grad(losses.sum() / config.group_batch, leaves), strict=True):
                moved.weights[name][1].sub_(step_size * gradient)
        stack = moved
    return stack


def handed_down(member: np.ndarray, changes: np.ndarray, shared: list[np.ndarray]) -> np.ndarray:
    """Scores of the pairs, [n, V], from the changes [groups, V] that the groups [groups, n] made.

    Args:
        shared: labels [n] of what pairs have in common; every label has a coefficient of its own, added to its pairs'.
    """
    inside = member - member.mean(axis=0)
    labels = [np.equal.outer(names, np.unique(names)).astype(float) for names in shared]  # [n, labels]
    design = np.hstack([inside, *(inside @ of / np.sqrt(of.sum(0)) for of in labels)])
    strength = RidgeCV(alphas=np.logspace(-2, 5, 29)).fit(design, changes.mean(1)).alpha_
    found = Ridge(alpha=strength).fit(design, changes).coef_.T  # [columns, V]
    total, start = found[: member.shape[1]].copy(), member.shape[1]
    for of in labels:
        total += (of / np.sqrt(of.sum(0))) @ found[start : start + of.shape[1]]
        start += of.shape[1]
    return total
