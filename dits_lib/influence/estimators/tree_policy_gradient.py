"""The policy gradient with advantages from search trees grown on the validation questions."""

from __future__ import annotations

from ...engines import derive_seed
from ...pairs import Pair
from ...search import Tree, tree_search
from ...tasks import Question
from ..base import Amount, Effort, Estimator, Scores, ScoringContext
from ..validation_gradients import Row
from .policy_gradient import advantage_scores


def tree_policy_gradient(
    context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
) -> Scores:
    """Advantages from search trees of the validation questions: Q of a reply minus Q of its parent.

    A heuristic, and biased: the search visits replies of high Q more often than the policy says
    them, and a parent's Q holds the child's own dialogues.
    """
    engine, before, settings = context.engine, context.engine.snapshot(), context.search
    noise, initial = derive_seed(seed, "trees"), context.initial
    trees = tree_search(engine, context.system, questions, settings, noise, initial=initial)
    rows, temperature = tree_rows(trees), settings.temperature
    return advantage_scores(
        "tree_policy_gradient", context, pairs, len(questions), rows, before, seed, temperature
    )


def tree_rows(trees: list[Tree]) -> tuple[list[Row], list[float], list[int]]:
    """As `leave_one_out_rows`, from trees: a node counts with the share of its tree's dialogues
    that went through it (see the bias named in `tree_policy_gradient`)."""
    rows, weights, owners = [], [], []
    for question, tree in enumerate(trees):
        for node in tree.nodes[1:]:
            parent = tree.nodes[node.parent]
            if node.turn.trainable:
                rows.append((node.turn.prompt_ids, node.turn.token_ids))
                weights.append((node.q - parent.q) * node.visits / tree.nodes[0].visits)
                owners.append(question)
    return rows, weights, owners


def effort(amount: Amount) -> Effort:
    """A search of the validation questions, whose every reply is read with a backward pass."""
    played = amount.questions * amount.rollouts
    return Effort(dialogues=played, gradient_rows=2 * amount.pairs + played)


ESTIMATOR = Estimator(
    "tree_policy_gradient", tree_policy_gradient, effort, uses=(), grows_trees=True
)
