"""Monte Carlo tree search over dialogues: all questions' trees grow together, so the engine sees
full batches.

A node is a reply; the path from the root is a dialogue. A repetition selects a node of each tree
and plays from it to the end; every node on the way backs up the reward, and Q(node) is the mean of
what it backed up. The parts follow Optima (Chen et al., 2024) as DITS uses it (sections 3.1 and
4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from rapidfuzz.distance import Levenshtein

from .agents import Dialogue, System, Turn, parse_answer, parse_call
from .engines import Engine, derive_seed
from .rollout import State, play
from .settings import Count, Positive, Settings, Share
from .settings.kinds import PartOf
from .tasks import Question


class SearchSettings(Settings):
    """Settings of the search.

    Attributes:
        repetitions: k, times a node is selected in each tree.
        rollouts: dialogues played from the selected node.
        max_depth: nodes after this many replies or more are not selected (what tools say does not
            count).
        max_candidates: softmax over this many best candidates.
        softmax_temperature: of that softmax.
        candidate_distance: a candidate whose text is nearer than this (normalised edit distance)
            to a better one is dropped.
        merge_distance: replies nearer than this to a sibling become one node, if they give the
            same answer and make the same call.
        temperature: of sampling.
        top_p: of sampling, as in `Request`; 1 switches it off.
        token_weight: lambda_1 of the reward, times tokens / T, T the 80th percentile (Optima:
            -0.6; 0 switches it off).
        fluency_weight: lambda_2 of the reward, times the mean probability of a token; 0 switches
            it off.
        guide: what steers the selection: `q`, `influence`, or `both`.
    """

    section: ClassVar = "search"

    repetitions: Annotated[int, Field(ge=1, le=1000)]
    rollouts: Annotated[int, Field(ge=1, le=100)]
    max_depth: Annotated[int, Field(ge=1, le=100)]
    max_candidates: Count
    softmax_temperature: Positive
    candidate_distance: Share
    merge_distance: Share
    temperature: Annotated[float, Field(gt=0, le=5)]
    top_p: PartOf
    token_weight: Annotated[float, Field(ge=-10, le=10)]
    fluency_weight: Annotated[float, Field(ge=-10, le=10)]
    guide: Literal["q", "influence", "both"]


@dataclass
class Node:
    """A reply in a tree; the root has no turn. `total / visits` is its Q-value."""

    turn: Turn | None
    parent: int | None
    depth: int
    children: list[int] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    terminal: bool = False

    @property
    def q(self) -> float:
        return self.total / self.visits if self.visits else 0.0


@dataclass
class Tree:
    """The search tree of one question. `rewards` lists (leaf, metric, reward) of every dialogue
    played."""

    question: Question
    nodes: list[Node] = field(default_factory=lambda: [Node(None, None, 0)])
    rewards: list[tuple[int, float, float]] = field(default_factory=list)

    def turns(self, node: int) -> tuple[Turn, ...]:
        """The dialogue from the root to a node."""
        path: list[Turn] = []
        while self.nodes[node].parent is not None:
            path.append(self.nodes[node].turn)
            node = self.nodes[node].parent
        return tuple(reversed(path))

    def level(self, node: int) -> int:
        """Replies of the model on the way to a node."""
        return sum(turn.trainable for turn in self.turns(node))

    def to_json(self) -> dict:
        nodes = [
            vars(node) | {"turn": node.turn.to_json() if node.turn else None} for node in self.nodes
        ]
        return {"question": self.question.to_json(), "nodes": nodes, "rewards": self.rewards}

    @staticmethod
    def from_json(row: dict) -> Tree:
        nodes = [
            Node(**n | {"turn": Turn.from_json(n["turn"]) if n["turn"] else None})
            for n in row["nodes"]
        ]
        return Tree(Question.from_json(row["question"]), nodes, [tuple(r) for r in row["rewards"]])


NodeScorer = Callable[[list[Tree]], list[dict[int, float]]]
"""Scores nodes of every tree, for a guided search: {node: score}; nodes left out count as the
mean."""


def distance(a: str, b: str) -> float:
    """Normalised Levenshtein distance in [0, 1]."""
    return Levenshtein.normalized_distance(a, b)


def candidates(tree: Tree, values: np.ndarray, settings: SearchSettings) -> list[int]:
    """Nodes that may be selected, best first: the root and the expanded nodes above the depth
    limit, without near copies."""
    expanded = [node for node in range(len(tree.nodes)) if _expanded(tree, node, settings)]
    kept: list[int] = []
    for node in sorted(expanded, key=lambda node: (-values[node], node)):
        text = _text(tree, node)
        near = (distance(text, _text(tree, other)) < settings.candidate_distance for other in kept)
        if not any(near):
            kept.append(node)
    return kept[: settings.max_candidates]


def _expanded(tree: Tree, index: int, settings: SearchSettings) -> bool:
    """Whether dialogues may be played from a node: the root always, others once they have children
    and lie above the depth limit."""
    node = tree.nodes[index]
    if node.parent is None:
        return True
    return bool(node.children) and not node.terminal and tree.level(index) < settings.max_depth


def _text(tree: Tree, node: int) -> str:
    turn = tree.nodes[node].turn
    return turn.text if turn else ""


def select(
    tree: Tree, values: np.ndarray, settings: SearchSettings, rng: np.random.Generator
) -> int:
    """A node drawn from Softmax(values / temperature) over the candidates."""
    nodes = candidates(tree, values, settings)
    logits = values[nodes] / settings.softmax_temperature
    weights = np.exp(logits - logits.max())
    return int(rng.choice(nodes, p=weights / weights.sum()))


def insert(
    tree: Tree, start: int, dialogue: Dialogue, reward: float, settings: SearchSettings
) -> int:
    """Add a dialogue that continues node `start`, merging near-equal replies; back its reward up.
    Returns the leaf."""
    node = start
    for turn in dialogue.turns[tree.nodes[start].depth :]:
        node = _child(tree, node, turn, settings)
    tree.nodes[node].terminal = True
    tree.rewards.append((node, dialogue.metric, reward))
    leaf, up = node, node
    while up is not None:
        tree.nodes[up].visits += 1
        tree.nodes[up].total += reward
        up = tree.nodes[up].parent
    return leaf


def _child(tree: Tree, parent: int, turn: Turn, settings: SearchSettings) -> int:
    """The child that a reply leads to: one that is there already, or a new one."""
    for index in tree.nodes[parent].children:
        if _same_reply(tree.nodes[index].turn, turn, settings.merge_distance):
            return index
    tree.nodes.append(Node(turn, parent, tree.nodes[parent].depth + 1))
    tree.nodes[parent].children.append(len(tree.nodes) - 1)
    return len(tree.nodes) - 1


def _same_reply(a: Turn, b: Turn, merge_distance: float) -> bool:
    """Whether two replies are one node. A word more or less changes little, but replies with
    different answers or calls lead to different rewards, however near their texts are."""
    if parse_answer(a.text) != parse_answer(b.text) or parse_call(a.text) != parse_call(b.text):
        return False
    return a.text == b.text or distance(a.text, b.text) < merge_distance


def reward_of(
    dialogue: Dialogue, question: Question, settings: SearchSettings, token_scale: float
) -> float:
    """Optima's reward: metric + lambda_1 * tokens / T + lambda_2 * fluency. Planted harm inverts
    the metric's part."""
    metric = dialogue.metric if question.meta.get("reward_sign", 1) > 0 else 1.0 - dialogue.metric
    reward = metric + settings.token_weight * dialogue.tokens / token_scale
    if settings.fluency_weight:
        replies = [turn for turn in dialogue.turns if turn.trainable]
        reward += settings.fluency_weight * float(np.mean([np.exp(t.logprob) for t in replies]))
    return reward


def tree_search(
    engine: Engine,
    system: System,
    questions: list[Question],
    settings: SearchSettings,
    seed: object,
    scorer: NodeScorer | None = None,
) -> list[Tree]:
    """Grow one tree for each question.

    Args:
        seed: of all randomness; a question's tree depends on it and on the question, not on the
            other questions (but with a token reward on T, and with a guide by influence on the
            scale, which all questions share).
        scorer: needed when `settings.guide` is `influence` or `both`.

    Raises:
        ValueError: when the guide needs a scorer and there is none.
    """
    if settings.guide != "q" and scorer is None:
        raise ValueError(f"search.guide is {settings.guide!r}, which needs a scorer of nodes")
    trees = [Tree(question) for question in questions]
    opened = [_selected(tree, _q_values(tree), 0, settings, seed) for tree in trees]
    states = [state for _, own in opened for state in own]
    dialogues = play(engine, system, states, settings.temperature, top_p=settings.top_p)
    # T of the reward: what counts as long follows from the first dialogues of all questions.
    token_scale = max(1.0, float(np.percentile([dialogue.tokens for dialogue in dialogues], 80)))

    def add(tree: Tree, node: int, dialogue: Dialogue) -> None:
        reward = reward_of(dialogue, tree.question, settings, token_scale)
        insert(tree, node, dialogue, reward, settings)

    for number, (tree, (node, _)) in enumerate(zip(trees, opened, strict=True)):
        for dialogue in dialogues[number * settings.rollouts : (number + 1) * settings.rollouts]:
            add(tree, node, dialogue)
    # Trees that influence guides wait for each other, since all are scored together before each
    # repetition.
    step = 1 if scorer and settings.guide != "q" else max(1, settings.repetitions - 1)
    for first in range(1, settings.repetitions, step):
        values = _guiding_values(trees, settings, scorer)
        some = range(first, min(first + step, settings.repetitions))
        _grow(engine, system, trees, values, some, settings, seed, add)
    return trees


def _selected(
    tree: Tree, values: np.ndarray, repetition: int, settings: SearchSettings, seed: object
) -> tuple[int, list[State]]:
    """The node that a repetition selects, and the states to play from it."""
    rng = np.random.default_rng(abs(derive_seed(seed, "select", tree.question.id, repetition)))
    node = select(tree, values, settings, rng)
    noise = [
        derive_seed(seed, "rollout", tree.question.id, repetition, rollout)
        for rollout in range(settings.rollouts)
    ]
    return node, [State(tree.question, tree.turns(node), drawn) for drawn in noise]


def _grow(
    engine: Engine,
    system: System,
    trees: list[Tree],
    values: list[np.ndarray],
    repetitions: range,
    settings: SearchSettings,
    seed: object,
    add: Callable[[Tree, int, Dialogue], None],
) -> None:
    """Some repetitions of every tree. A tree goes on as soon as its own dialogues have ended: the
    engine's batch stays full.

    Args:
        values: of each tree's nodes, for the first of the repetitions; the next ones go by
            Q-values.
    """
    owner: list[tuple[int, int, int]] = []  # tree, repetition and selected node of every state
    ended: list[dict[int, Dialogue]] = [{} for _ in trees]

    def begin(number: int, repetition: int, value: np.ndarray) -> list[State]:
        node, states = _selected(trees[number], value, repetition, settings, seed)
        owner.extend([(number, repetition, node)] * len(states))
        return states

    def then(index: int, dialogue: Dialogue) -> list[State]:
        number, repetition, node = owner[index]
        ended[number][index] = dialogue
        if len(ended[number]) < settings.rollouts:
            return []
        # In the order of the rollouts, whichever ended first.
        for _, played in sorted(ended[number].items()):
            add(trees[number], node, played)
        ended[number] = {}
        if repetition + 1 not in repetitions:
            return []
        return begin(number, repetition + 1, _q_values(trees[number]))

    first = [
        state
        for number, value in enumerate(values)
        for state in begin(number, repetitions.start, value)
    ]
    play(engine, system, first, settings.temperature, then=then, top_p=settings.top_p)


def _q_values(tree: Tree) -> np.ndarray:
    return np.array([node.q for node in tree.nodes])


def _guiding_values(
    trees: list[Tree], settings: SearchSettings, scorer: NodeScorer | None
) -> list[np.ndarray]:
    """Q-values, influence, or the sum of both after each was scaled to unit spread over all
    trees."""
    q = [_q_values(tree) for tree in trees]
    if settings.guide == "q" or scorer is None:
        return q
    scored = scorer(trees)
    known = np.array([value for tree in scored for value in tree.values()])
    mean, spread = (known.mean(), known.std() or 1.0) if len(known) else (0.0, 1.0)
    influence = [
        np.array([(s.get(i, mean) - mean) / spread for i in range(len(t.nodes))])
        for s, t in zip(scored, trees, strict=True)
    ]
    if settings.guide == "influence":
        return influence
    every = np.concatenate(q)
    return [
        i + (v - every.mean()) / (every.std() or 1.0) for i, v in zip(influence, q, strict=True)
    ]
