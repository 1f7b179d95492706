"""Monte Carlo tree search over dialogues: all questions' trees grow together, so the engine sees
full batches.

A node is a reply; the path from the root is a dialogue. A repetition selects a node of each tree
and plays from it to the end; every node on the way backs up the reward, and Q(node) is the mean of
what it backed up. The parts follow Optima (Chen et al., 2024) as DITS uses it (sections 3.1 and
4.1), and where the paper leaves them open the released code of both: DITS'
train/monte_carlo_deploy.py for the tree, Optima's reward/deploy_reward.py for the reward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from rapidfuzz.distance import Levenshtein

from .agents import Dialogue, System, Turn, lead_in_ids, parse_answer, parse_call
from .engines import Engine, derive_seed
from .rollout import State, play
from .settings import Count, Positive, Settings, Share
from .settings.kinds import PartOf
from .tasks import Question


class SearchSettings(Settings):
    """Settings of the search.

    The paper writes k = 8 and d = 3. In its authors' recipes k is `explore_time`, and d is
    `expand_time`: trajectories, not a depth (their files of results run from `_3_4` to `_96_8`).
    Their limit of the depth is another parameter, 10.

    Attributes:
        repetitions: k, times a node is selected in each tree.
        rollouts: d, dialogues played from the selected node.
        max_depth: nodes after this many replies or more are not selected (what tools say does not
            count).
        max_candidates: softmax over this many best candidates.
        softmax_temperature: of that softmax.
        candidate_distance: a candidate whose text is nearer than this (normalised edit distance)
            to a node selected before, itself included, is not selected again; 0 leaves all in.
        merge_distance: replies nearer than this to a sibling become one node, if they give the
            same answer and make the same call.
        temperature: of sampling.
        top_p: of sampling, as in `Request`; 1 switches it off.
        token_weight: lambda_1 of the reward, times tokens / T, T the 80th percentile (Optima:
            -0.6; 0 switches it off).
        fluency_weight: lambda_2 of the reward, over the loss of the worst reply under the initial
            model, in nats a token (Optima: 1; 0 switches it off).
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
    """The search tree of one question.

    Attributes:
        question: what its dialogues answer.
        nodes: the root first.
        rewards: (leaf, metric, reward) of every dialogue played.
        selected: the node that each repetition selected, in their order.
        out: nodes that are not selected any more, as they are near to one that was.
    """

    question: Question
    nodes: list[Node] = field(default_factory=lambda: [Node(None, None, 0)])
    rewards: list[tuple[int, float, float]] = field(default_factory=list)
    selected: list[int] = field(default_factory=list)
    out: set[int] = field(default_factory=set)

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
        return {
            "question": self.question.to_json(),
            "nodes": nodes,
            "rewards": self.rewards,
            "selected": self.selected,
            "out": sorted(self.out),
        }

    @staticmethod
    def from_json(row: dict) -> Tree:
        nodes = [
            Node(**n | {"turn": Turn.from_json(n["turn"]) if n["turn"] else None})
            for n in row["nodes"]
        ]
        rewards = [tuple(reward) for reward in row["rewards"]]
        question, selected = Question.from_json(row["question"]), list(row["selected"])
        return Tree(question, nodes, rewards, selected, set(row["out"]))


NodeScorer = Callable[[list[Tree]], list[dict[int, float]]]
"""Scores nodes of every tree, for a guided search: {node: score}; nodes left out count as the
mean."""


def distance(a: str, b: str) -> float:
    """Normalised Levenshtein distance in [0, 1]."""
    return Levenshtein.normalized_distance(a, b)


def candidates(tree: Tree, values: np.ndarray, settings: SearchSettings) -> list[int]:
    """Nodes that may be selected, best first: the root and the nodes with grandchildren, but for
    those near to a node selected before, which are out for good (`tree.out` is told of them).

    Args:
        values: [nodes], what is better.
    """
    left = [node for node in range(len(tree.nodes)) if _eligible(tree, node, settings)]
    near = settings.candidate_distance
    tree.out |= {
        node for node in left if any(_apart(tree, node, n) < near for n in set(tree.selected))
    }
    kept = [node for node in left if node not in tree.out]
    return sorted(kept, key=lambda node: (-values[node], node))[: settings.max_candidates]


def _eligible(tree: Tree, index: int, settings: SearchSettings) -> bool:
    """Whether dialogues may be played from a node that is not out: the root always, others once
    they have grandchildren and lie above the depth limit."""
    node = tree.nodes[index]
    if index in tree.out:
        return False
    if node.parent is None:
        return True
    grown = any(tree.nodes[child].children for child in node.children)
    return grown and not node.terminal and tree.level(index) < settings.max_depth


def _apart(tree: Tree, node: int, other: int) -> float:
    """Distance of two nodes' texts. The root has none, so nothing but itself is near to it (in the
    authors' code its text is the prompt)."""
    a, b = tree.nodes[node].turn, tree.nodes[other].turn
    if a is None or b is None:
        return float(node != other)
    return distance(a.text, b.text)


def select(
    tree: Tree, values: np.ndarray, settings: SearchSettings, rng: np.random.Generator
) -> int:
    """A node drawn from Softmax(values / temperature) over the candidates, or the root where none
    is left; the tree remembers it.

    Args:
        values: [nodes].
    """
    nodes = candidates(tree, values, settings) or [0]
    logits = values[nodes] / settings.softmax_temperature
    weights = np.exp(logits - logits.max())
    node = int(rng.choice(nodes, p=weights / weights.sum()))
    tree.selected.append(node)
    return node


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


LEAST_LOSS = 0.01
"""Nats a token. A smaller loss counts as this one, so that a reply which the initial model is sure
of (a loss of 0) earns 100 lambda_2 and not infinity."""


def reward_of(
    dialogue: Dialogue,
    question: Question,
    settings: SearchSettings,
    token_scale: float,
    worst_loss: float | None = None,
) -> float:
    """Optima's reward: metric + lambda_1 * tokens / T + lambda_2 / loss of the worst reply (its
    `get_score_deploy`, without the cases that it treats apart, such as replies said twice). Planted
    harm inverts the metric's part.

    Args:
        token_scale: T, tokens.
        worst_loss: of `worst_losses`; None, where no reply has tokens, earns nothing.
    """
    metric = dialogue.metric if question.meta.get("reward_sign", 1) > 0 else 1.0 - dialogue.metric
    reward = metric + settings.token_weight * dialogue.tokens / token_scale
    if settings.fluency_weight and worst_loss is not None:
        reward += settings.fluency_weight / max(worst_loss, LEAST_LOSS)
    return reward


def worst_losses(initial: Engine, dialogues: list[Dialogue]) -> list[float | None]:
    """Loss of each dialogue's worst reply under the initial model, [dialogues]: the largest mean
    negative log likelihood of a token, in nats.

    Each reply is read alone, as the first message of a chat. A reply without tokens has no loss; a
    dialogue of such replies alone has None.
    """
    spoken = [
        [turn.token_ids for turn in dialogue.turns if turn.trainable and turn.token_ids]
        for dialogue in dialogues
    ]
    different = list(dict.fromkeys(reply for replies in spoken for reply in replies))
    before = lead_in_ids(initial.tokenizer)
    scores = initial.logprobs([(before, reply) for reply in different]) if different else []
    # Rounded, so that a reply has one loss whatever it shared a batch with.
    loss = {r: round(-float(np.mean(s)), 6) for r, s in zip(different, scores, strict=True)}
    return [max((loss[reply] for reply in replies), default=None) for replies in spoken]


def tree_search(
    engine: Engine,
    system: System,
    questions: list[Question],
    settings: SearchSettings,
    seed: object,
    scorer: NodeScorer | None = None,
    initial: Engine | None = None,
) -> list[Tree]:
    """Grow one tree for each question.

    Args:
        engine: the policy, which speaks.
        seed: of all randomness; a question's tree depends on it and on the question, not on the
            other questions (but with a token reward on T, and with a guide by influence on the
            scale, which all questions share).
        scorer: needed when `settings.guide` is `influence` or `both`.
        initial: the model before any training, needed when `settings.fluency_weight` is not 0.

    Raises:
        ValueError: when the guide needs a scorer, or the reward an initial model, and there is
            none.
    """
    guided, fluent = settings.guide != "q", settings.fluency_weight != 0
    if guided and scorer is None:
        raise ValueError(f"search.guide is {settings.guide!r}, which needs a scorer of nodes")
    if fluent and initial is None:
        raise ValueError(
            f"search.fluency_weight is {settings.fluency_weight:g}, which needs the initial model"
        )
    trees = [Tree(question) for question in questions]
    token_scale: float | None = None

    def add(tree: Tree, node: int, dialogue: Dialogue, worst: float | None = None) -> None:
        reward = reward_of(dialogue, tree.question, settings, token_scale, worst)
        insert(tree, node, dialogue, reward, settings)

    # Trees wait for each other before each repetition where influence guides them, since all are
    # scored together, and where the initial model reads what was said. Others wait but once: T of
    # the reward, what counts as long, follows from the first dialogues of all questions.
    together = settings.repetitions if guided or fluent else 1
    for repetition in range(together):
        values = _guiding_values(trees, settings, scorer if repetition else None)
        opened = [
            _selected(tree, value, repetition, settings, seed)
            for tree, value in zip(trees, values, strict=True)
        ]
        states = [state for _, own in opened for state in own]
        dialogues = play(engine, system, states, settings.temperature, top_p=settings.top_p)
        if token_scale is None:
            tokens = [dialogue.tokens for dialogue in dialogues]
            token_scale = max(1.0, float(np.percentile(tokens, 80)))
        worst = worst_losses(initial, dialogues) if fluent else [None] * len(dialogues)
        places = [
            (tree, node) for tree, (node, own) in zip(trees, opened, strict=True) for _ in own
        ]
        for place, dialogue, loss in zip(places, dialogues, worst, strict=True):
            add(*place, dialogue, loss)
    if together < settings.repetitions:
        _grow(engine, system, trees, range(together, settings.repetitions), settings, seed, add)
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
    repetitions: range,
    settings: SearchSettings,
    seed: object,
    add: Callable[[Tree, int, Dialogue], None],
) -> None:
    """Some repetitions of every tree, by Q-values. A tree goes on as soon as its own dialogues have
    ended: the engine's batch stays full."""
    owner: list[tuple[int, int, int]] = []  # tree, repetition and selected node of every state
    ended: list[dict[int, Dialogue]] = [{} for _ in trees]

    def begin(number: int, repetition: int) -> list[State]:
        tree = trees[number]
        node, states = _selected(tree, _q_values(tree), repetition, settings, seed)
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
        return begin(number, repetition + 1)

    first = [state for number in range(len(trees)) for state in begin(number, repetitions.start)]
    play(engine, system, first, settings.temperature, then=then, top_p=settings.top_p)


def _q_values(tree: Tree) -> np.ndarray:
    return np.array([node.q for node in tree.nodes])


def _centred(values: list[float]) -> np.ndarray:
    """Deviations from the mean."""
    return np.array(values) - np.mean(values) if values else np.zeros(0)


def _guiding_values(
    trees: list[Tree], settings: SearchSettings, scorer: NodeScorer | None
) -> list[np.ndarray]:
    """What steers the selection, [nodes] of each tree: Q-values, influence, or both.

    Influence is put on the scale of the Q-values: its deviations from the mean of a tree get the
    spread that those of the Q-values of the same nodes have, over all trees, since a softmax is
    drawn within one tree and a shift of it changes nothing. So one `softmax_temperature` means the
    same for each guide; nodes without a score count as their tree's mean. Of both it is the sum
    over sqrt(2), which keeps that scale where they do not correlate. Without a scorer, before the
    first dialogues, all values are Q.
    """
    q = [_q_values(tree) for tree in trees]
    if settings.guide == "q" or scorer is None:
        return q
    scored = scorer(trees)
    own = [_centred(list(scores.values())) for scores in scored]
    theirs = [_centred([v[i] for i in scores]) for v, scores in zip(q, scored, strict=True)]
    every, of_q = np.concatenate(own), np.concatenate(theirs)
    scale = of_q.std() / every.std() if every.any() else 0.0
    influence = [np.zeros(len(values)) for values in q]
    for values, scores, deviations in zip(influence, scored, own, strict=True):
        values[list(scores)] = scale * deviations
    if settings.guide == "influence":
        return influence
    return [(i + values) / np.sqrt(2) for i, values in zip(influence, q, strict=True)]
