"""Influence by the policy gradient: one backward pass over validation dialogues serves all candidates.

A step on pair z moves the expected metric by `E[F(theta - eta g_z)] - E[F(theta)] = -eta <g_z, grad E[F]> + O(eta^2)`. The gradient of the
expected metric is estimated from dialogues sampled on the validation questions (REINFORCE; Williams, 1992),

    grad E[F] = E[ sum_turns A(turn) * grad log pi(turn) ],

with the advantage A either the dialogue's metric minus the mean of the question's other samples (leave-one-out; Kool et al., 2019), or, from
search trees grown on the validation questions, a reply's Q-value minus its parent's. The scores have the unit of one-step influence: a
change of the metric for the step.
"""

from __future__ import annotations

from ..agents import Dialogue
from ..engines import derive_seed
from ..pairs import Pair
from ..search import Tree, search
from ..tasks import Question
from .base import Scores, Setting, mean_and_stderr
from .targets import Row, against_targets, play_samples


def policy_gradient(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """Advantages from `config.policy_samples` dialogues of each question, leave-one-out.

    Raises:
        ValueError: with fewer than two samples a question, which have no baseline.
    """
    samples = setting.config.policy_samples
    if samples < 2:
        raise ValueError(f"policy_samples is {samples}; the leave-one-out baseline needs 2 or more")
    before = setting.engine.snapshot()
    heat = setting.config.temperature
    played = play_samples(setting.engine, setting.system, questions, samples, heat, derive_seed(seed, "policy"))
    return _scores(setting, pairs, len(questions), leave_one_out_rows(played), before, "policy_gradient", seed, heat)


def tree_policy_gradient(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """Advantages from search trees of the validation questions: Q of a reply minus Q of its parent.

    A heuristic, and biased: the search visits replies of high Q more often than the policy says them, and a parent's Q holds the
    child's own dialogues.
    """
    before = setting.engine.snapshot()
    trees = search(setting.engine, setting.system, questions, setting.search, derive_seed(seed, "trees"))
    return _scores(setting, pairs, len(questions), tree_rows(trees), before, "tree_policy_gradient", seed, setting.search.temperature)


def leave_one_out_rows(played: list[list[Dialogue]]) -> tuple[list[Row], list[float], list[int]]:
    """Rows, weights and owners (questions) whose weighted log-probability gradient is each question's `grad E[F]`."""
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


def tree_rows(trees: list[Tree]) -> tuple[list[Row], list[float], list[int]]:
    """As `leave_one_out_rows`, from trees: a node counts with the share of its tree's dialogues that went through it (see the bias
    named in `tree_policy_gradient`)."""
    rows, weights, owners = [], [], []
    for question, tree in enumerate(trees):
        for node in tree.nodes[1:]:
            parent = tree.nodes[node.parent]
            if node.turn.trainable:
                rows.append((node.turn.prompt_ids, node.turn.token_ids))
                weights.append((node.q - parent.q) * node.visits / tree.nodes[0].visits)
                owners.append(question)
    return rows, weights, owners


def _scores(setting: Setting, pairs: list[Pair], count: int, target, before, name: str, seed: object, temperature: float) -> Scores:
    table = against_targets(setting, pairs, target, count, seed, temperature)
    spent = {"gradients": len(pairs), "backward_rows": sum(weight != 0 for weight in target[1])}
    return Scores(name, *mean_and_stderr(table), setting.engine.usage.minus(before) | spent, table)
