"""What a reader is shown of a search tree and of a node in it: plain values, and HTML made of them.

The drawing of a whole tree is in `trees.py`, the widgets that show these pages in `explorer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from matplotlib import colormaps
from matplotlib.colors import to_hex

from ..agents import LIMIT, Turn
from ..pairs import Pair
from ..search import Node, Tree
from .trees import state_of, without_tags

FOLDED = 400
"""Characters of a text from which on a page shows its first line alone, until a reader opens it."""
BARS = "▁▂▃▄▅▆▇█"
"""Q from 0 to 1, as a character of a line."""
MARKS = {"chosen": "+", "rejected": "−"}
"""How a line of the tree marks the replies of a pair."""


@dataclass(frozen=True)
class Place:
    """The place of a preference pair in its tree.

    Attributes:
        pair: the pair, with the Q-values (units of the reward) that it was made by.
        state: node of the state that both replies answer.
        chosen, rejected: nodes of the two replies.
        influence: of the pair, in the unit of its estimator; None where there are no scores.
    """

    pair: Pair
    state: int
    chosen: int
    rejected: int
    influence: float | None = None

    def role(self, node: int) -> str | None:
        """What a node is in the pair: `chosen`, `rejected`, or None."""
        return {self.chosen: "chosen", self.rejected: "rejected"}.get(node)


def pair_places(
    tree: Tree, pairs: Sequence[Pair], influence: Mapping[str, float] | None = None
) -> list[Place]:
    """Where the pairs of a tree lie in it, in their order.

    Args:
        pairs: of any trees; those of other questions are left out.
        influence: by pair id, for all of the pairs or some.

    Raises:
        ValueError: for a pair whose replies the tree does not hold: it comes of another search.
    """
    scores = influence or {}
    return [
        Place(
            pair,
            pair.node,
            _reply(tree, pair, pair.chosen, pair.chosen_ids),
            _reply(tree, pair, pair.rejected, pair.rejected_ids),
            scores.get(pair.id),
        )
        for pair in pairs
        if pair.question_id == tree.question.id
    ]


def _reply(tree: Tree, pair: Pair, text: str, token_ids: tuple[int, ...]) -> int:
    """The node of a reply of a pair."""
    children = tree.nodes[pair.node].children if pair.node < len(tree.nodes) else []
    for child in children:
        turn = tree.nodes[child].turn
        if (turn.text, turn.token_ids) == (text, token_ids):
            return child
    raise ValueError(f"pair {pair.id}: its tree has no reply {text!r} at node {pair.node}")


def rollouts_of(tree: Tree) -> int | None:
    """d, the dialogues that each repetition of a search played; None where the tree does not tell
    (repetitions that played different numbers)."""
    count, rest = divmod(len(tree.rewards), len(tree.selected) or 1)
    return count if tree.selected and count and not rest else None


def replayed(tree: Tree, dialogues: int) -> Tree:
    """The tree as it stood after its first dialogues, with the same numbers of nodes.

    Nodes are stored in the order in which they were made and rewards in the order in which they
    were backed up, so this is what was there then, with the Q-values and visits of then. After r
    whole repetitions it is the tree that a search with `search.repetitions` r finds. Which nodes
    were out (`Tree.out`) is not stored by repetition: none are, in the tree that is returned.

    Args:
        dialogues: how many, from 0 to those of the tree.

    Raises:
        ValueError: for fewer or more.
    """
    if not 0 <= dialogues <= len(tree.rewards):
        raise ValueError(f"{dialogues} dialogues: the tree was made of {len(tree.rewards)}")
    rewards = tree.rewards[:dialogues]
    nodes = [Node(node.turn, node.parent, node.depth) for node in tree.nodes]
    for leaf, _, reward in rewards:
        nodes[leaf].terminal = True
        up: int | None = leaf
        while up is not None:
            nodes[up].visits += 1
            nodes[up].total += reward
            up = nodes[up].parent
    count = 1 + max((index for index, node in enumerate(nodes) if node.visits), default=0)
    for node, whole in zip(nodes, tree.nodes, strict=True):
        node.children = [child for child in whole.children if child < count]
    rollouts = rollouts_of(tree)
    selections = -(-dialogues // rollouts) if rollouts else 0
    return replace(
        tree,
        nodes=nodes[:count],
        rewards=rewards,
        selected=tree.selected[:selections],
        out=set(),
    )


def replay_sentence(whole: Tree, tree: Tree) -> str:
    """How much of a search a tree shows, and which reply its last repetition played from.

    Args:
        whole: the tree at the end of the search.
        tree: the same after some dialogues (`replayed`).
    """
    replies = sum(node.turn is not None and node.turn.trainable for node in tree.nodes)
    size = f"{len(tree.rewards)} dialogues, {replies} different replies"
    if not tree.selected:
        return f"The whole search: {size}."
    turn = tree.nodes[tree.selected[-1]].turn
    source = "from the start" if turn is None else f"on after \u201c{cut(_said(turn), 60)}\u201d"
    told = f"Repetition {len(tree.selected)} of {len(whole.selected)} plays {source}; {size}"
    rest = len(whole.rewards) - len(tree.rewards)
    return f"{told} so far. Pairs are those of the whole search." if rest else f"{told} in all."


@dataclass(frozen=True)
class NodeFacts:
    """What is told of a node.

    Attributes:
        node: its number in the tree.
        q: mean reward of the dialogues that went through it.
        visits: those dialogues.
        dialogue: from the root to the node, what tools said included.
        answered: what tools said right after it: results of a search, a page.
        ended: (metric in [0, 1], reward) of every dialogue that ended with it.
        siblings: nodes of the replies to the same state, itself included, highest Q first; empty
            for the root.
        pair: the pair of the replies to the same state, of which it is one or not.
        below: the pair of the replies to this one.
    """

    node: int
    q: float
    visits: int
    dialogue: tuple[Turn, ...]
    answered: tuple[Turn, ...]
    ended: tuple[tuple[float, float], ...]
    siblings: tuple[int, ...]
    pair: Place | None
    below: Place | None


def node_facts(tree: Tree, node: int, places: Sequence[Place] = ()) -> NodeFacts:
    """What is told of a node.

    Args:
        places: of the tree's pairs (`pair_places`).

    Raises:
        IndexError: when the tree has no such node.
    """
    if not 0 <= node < len(tree.nodes):
        raise IndexError(f"node {node}: the tree has {len(tree.nodes)}")
    found, state = tree.nodes[node], state_of(tree, node)
    dialogue = tree.turns(node)
    last = {node, state}
    return NodeFacts(
        node,
        found.q,
        found.visits,
        dialogue,
        tree.turns(state)[len(dialogue) :],
        tuple((metric, reward) for leaf, metric, reward in tree.rewards if leaf in last),
        _siblings(tree, node),
        _pair_at(found.parent, places),
        _pair_at(state, places),
    )


def _pair_at(state: int | None, places: Sequence[Place]) -> Place | None:
    return next((place for place in places if place.state == state), None)


def _siblings(tree: Tree, node: int) -> tuple[int, ...]:
    parent = tree.nodes[node].parent
    if parent is None:
        return ()
    replies = [child for child in tree.nodes[parent].children if tree.nodes[child].turn.trainable]
    return tuple(sorted(replies, key=lambda child: (-tree.nodes[child].q, child)))


def tree_lines(tree: Tree, places: Sequence[Place] = (), room: int = 64) -> list[tuple[str, int]]:
    """A tree as lines of text, a reply each, as (line, node): Q, its bar, visits, the mark of a
    pair's reply (`MARKS`), and the reply, indented below the one that it answers. What a tool
    answered has no line of its own: the page of the reply that called it shows it.

    Args:
        room: characters of a line, about; a reply deep in the tree keeps 24 in any case. Spaces
            are such as a web page does not join.
    """
    marks = {place.chosen: MARKS["chosen"] for place in places}
    marks |= {place.rejected: MARKS["rejected"] for place in places}
    lines: list[tuple[str, int]] = []

    def add(node: int, before: str, branch: str, below: str) -> None:
        found = tree.nodes[node]
        bar = BARS[min(len(BARS) - 1, max(0, int(found.q * len(BARS))))]
        numbers = f"{found.q:5.2f} {bar} {found.visits:>4} {marks.get(node, ' ')} "
        line = f"{numbers}{before}{branch}"
        said = "start" if found.turn is None else _said(found.turn)
        lines.append(((line + cut(said, max(24, room - len(line)))).replace(" ", "\u00a0"), node))
        children = _replies(tree, node)
        for child in children:
            end = child == children[-1]
            add(child, before + below, "└ " if end else "├ ", "  " if end else "│ ")

    add(0, "", "", "")
    return lines


def _said(turn: Turn) -> str:
    return f"{turn.agent}: {without_tags(turn.text)}"


def _replies(tree: Tree, node: int) -> list[int]:
    """The replies to a node, over what tools answered in between."""
    found: list[int] = []
    for child in tree.nodes[node].children:
        found += [child] if tree.nodes[child].turn.trainable else _replies(tree, child)
    return found


def cut(text: str, room: int) -> str:
    """A text on one line of so many characters at most: of a long one the begin and the end, where
    the answer stands."""
    line = " ".join(text.split())
    if len(line) <= room:
        return line
    end = (room - 3) // 2
    return f"{line[: room - 3 - end].rstrip()} … {line[-end:].lstrip()}"


def question_line(tree: Tree, pairs: int, room: int = 110) -> str:
    """A question on one line: Q of the root, how many pairs it gave, its text."""
    count = "1 pair" if pairs == 1 else f"{pairs or 'no'} pairs"
    return f"Q {tree.nodes[0].q:.2f}, {count}: {cut(tree.question.text, room)}"


def node_page(tree: Tree, node: int, places: Sequence[Place] = ()) -> str:
    """The page of a node, as HTML: the numbers, its pairs, the dialogue from the root to it, and
    its siblings. All that agents, tools and data sets say is escaped.

    Raises:
        IndexError: when the tree has no such node.
    """
    facts = node_facts(tree, node, places)
    parts = [_numbers(facts), *_pairs(tree, facts), *_dialogue(tree, facts)]
    return f'<div class="dits-page">{"".join([*parts, *_sibling_table(tree, facts)])}</div>'


def _numbers(facts: NodeFacts) -> str:
    dialogues = "1 dialogue" if facts.visits == 1 else f"{facts.visits} dialogues"
    what = "through this reply" if facts.dialogue else "of this question"
    told = f"<p>{chip(facts.q)} Q, the mean reward of {dialogues} {what}"
    if facts.ended:
        ends = "One dialogue" if len(facts.ended) == 1 else f"{len(facts.ended)} dialogues"
        metrics, rewards = zip(*facts.ended, strict=True)
        told += f". {ends} ended here: metric {_span(metrics)}, reward {_span(rewards)}"
    return f"{told}.</p>"


def _span(values: Sequence[float]) -> str:
    """One number where all are alike, else the lowest and the highest."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _pairs(tree: Tree, facts: NodeFacts) -> list[str]:
    parts, place = [], facts.pair
    role = place.role(facts.node) if place else None
    if place and role:
        name, other = "rejected", place.rejected
        if role == "rejected":
            name, other = "chosen", place.chosen
        parts.append(
            f"<p><b>The {role} reply of a pair</b>{_influence(place)}. "
            f"The {name} one: {_quoted(tree, other)}</p>"
        )
    if facts.below:
        parts.append(
            f"<p><b>The replies that follow give a pair</b>{_influence(facts.below)}. Chosen: "
            f"{_quoted(tree, facts.below.chosen)} Rejected: "
            f"{_quoted(tree, facts.below.rejected)}</p>"
        )
    return parts


def _quoted(tree: Tree, node: int) -> str:
    """A reply with its Q-value."""
    found = tree.nodes[node]
    return f"{chip(found.q)} <q>{_text(found.turn.text)}</q>"


def _influence(place: Place) -> str:
    return "" if place.influence is None else f", of influence I = {place.influence:+.4f}"


def _dialogue(tree: Tree, facts: NodeFacts) -> list[str]:
    question = tree.question
    gold = " or ".join(question.answers)
    asked = f"<b>Asked:</b> {_text(question.text)} <i>(right: {_text(gold)})</i>"
    parts = [f'<p class="dits-asked">{asked}</p>']
    read = {agent: view for agent, view in question.views.items() if view}
    if read:
        views = "".join(f"<div><b>{_text(a)}</b> {_text(view)}</div>" for a, view in read.items())
        parts.append(
            f"<details><summary>What {_text(' and '.join(read))} read</summary>{views}</details>"
        )
    last = len(facts.dialogue) - 1
    parts += [_turn(turn, number == last) for number, turn in enumerate(facts.dialogue)]
    return parts + [_turn(turn) for turn in facts.answered]


def _turn(turn: Turn, shown: bool = False) -> str:
    """A turn of a dialogue; a long text, such as a page, opens when it is clicked."""
    kind = ("dits-turn" if turn.trainable else "dits-tool") + (" dits-shown" if shown else "")
    who = turn.agent if turn.trainable or turn.agent == LIMIT else f"{turn.agent} answered"
    body = f"<b>{_text(who)}</b> {_text(turn.text)}"
    if len(turn.text) > FOLDED:
        first = _text(cut(turn.text, 80))
        body = f"<details><summary><b>{_text(who)}</b> {first}</summary>{_text(turn.text)}"
        body += "</details>"
    return f'<div class="{kind}">{body}</div>'


def _sibling_table(tree: Tree, facts: NodeFacts) -> list[str]:
    if len(facts.siblings) < 2:
        return ["<p>No other reply to the same state.</p>"] if facts.dialogue else []
    rows = []
    for sibling in facts.siblings:
        node = tree.nodes[sibling]
        role = facts.pair.role(sibling) if facts.pair else None
        name = ' class="dits-shown"' if sibling == facts.node else ""
        rows.append(
            f"<tr{name}><td>{chip(node.q)}</td><td>{node.visits}</td><td>{role or ''}</td>"
            f'<td class="dits-said">{_text(cut(_said(node.turn), 160))}</td></tr>'
        )
    head = "<tr><th>Q</th><th>visits</th><th>pair</th><th>reply</th></tr>"
    return [f"<p><b>All replies to the same state</b></p><table>{head}{''.join(rows)}</table>"]


def chip(q: float) -> str:
    """A Q-value on the colour that it has in the drawing of a tree (0 to 1), as HTML."""
    colour = to_hex(colormaps["viridis"](min(1.0, max(0.0, q))))
    ink = "black" if q > 0.6 else "white"
    return f'<span class="dits-q" style="background:{colour};color:{ink}">{q:.2f}</span>'


def _text(text: str) -> str:
    return escape(text.strip())
