"""Drawings of search trees."""

from __future__ import annotations

import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from ..search import Tree
from . import figures  # noqa: F401 (sets the theme)

WIDTH = 11.5
"""Inches of a tree, so that its text can be read at the width of a page."""
CHARACTER = 0.068
"""Inches of a character of a label, about."""
LINES = 2
"""Lines of a reply, and of what a tool answered."""
ROOM = 12
"""Characters of such a line at least: a tree of many columns is wider than `WIDTH`."""


def tree_figure(tree: Tree, influence: dict[int, float] | None = None) -> plt.Figure:
    """A search tree, root on the left: colour is Q, size is visits; a text is the reply, below it
    what a tool answered. Of a long reply the end is shown, where the answer stands.

    Args:
        influence: of the pair of the replies to a state, by the state's node; drawn as I on that
            node.
    """
    answers = {
        node.parent: node.turn
        for node in tree.nodes
        if node.turn is not None and not node.turn.trainable
    }
    replies = [i for i, node in enumerate(tree.nodes) if node.turn is None or node.turn.trainable]
    origin = {i: _parent_reply(tree, i) for i in replies}
    level = {i: tree.level(i) for i in replies}
    depth = max(level.values())
    # Characters from one column to the next, and those that the dots take.
    room = max(ROOM, int(WIDTH / (depth + 1) / CHARACTER) - 4)
    width = max(WIDTH, (depth + 1) * (room + 4) * CHARACTER)
    texts = {i: _label(tree, i, room, answers, influence) for i in replies}
    places = _places(origin, texts)
    height = 1.2 + 0.145 * (1 + max(places.values()))
    figure, axis = plt.subplots(figsize=(width, max(3.0, height)), layout="constrained")
    for index in replies[1:]:
        axis.plot(
            [level[origin[index]], level[index]],
            [places[origin[index]], places[index]],
            color="0.8",
            lw=1,
            zorder=1,
        )
    drawn = [tree.nodes[i] for i in replies]
    dots = axis.scatter(
        [level[i] for i in replies],
        [places[i] for i in replies],
        c=[n.q for n in drawn],
        s=[_dot(n.visits) for n in drawn],
        cmap="viridis",
        vmin=0,
        vmax=1,
        edgecolors="black",
        linewidths=0.5,
        zorder=3,
    )
    for index, node in zip(replies, drawn, strict=True):
        axis.annotate(
            texts[index],
            (level[index], places[index]),
            xytext=(_dot(node.visits) ** 0.5 / 2 + 3, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
            zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.4},
        )
    asked = textwrap.shorten(tree.question.text, 110, placeholder=" …")
    gold = textwrap.shorten(" or ".join(tree.question.answers), 40, placeholder=" …")
    axis.set_title(f"{asked}   (right: {gold})", fontsize=10, loc="left")
    axis.set(xlabel="reply", yticks=[], xticks=range(depth + 1), xlim=(-0.1, depth + 0.95))
    axis.set_ylim(max(places.values()) + 2, -2)
    axis.grid(False)
    figure.colorbar(
        dots, ax=axis, label="Q (mean reward)", shrink=min(1.0, 3.0 / max(3.0, height)), pad=0.01
    )
    return figure


def _label(
    tree: Tree, index: int, room: int, answers: dict, influence: dict[int, float] | None
) -> str:
    """The text beside a node, in lines of so many characters."""
    node = tree.nodes[index]
    if node.turn is None:
        lines = ["start"]
    else:
        said = f"{node.turn.agent}: {without_tags(node.turn.text)}"
        lines = _end_of(said, room, LINES)
    if index in answers:
        lines += [f"→ {line}" for line in _begin_of(answers[index].text, room - 2, LINES)]
    state = state_of(tree, index)
    if influence and state in influence:
        lines.append(f"I = {influence[state]:+.3f}")
    return "\n".join(lines)


def _end_of(text: str, room: int, count: int) -> list[str]:
    """The first words (who speaks) and the last lines of a text."""
    lines = textwrap.wrap(text, room) or [""]
    if len(lines) <= count:
        return lines
    speaker, _, rest = text.partition(" ")
    if len(speaker) > 2 * room // 3:
        speaker = f"{speaker[: 2 * room // 3 - 2]}…:"
    cut = rest[-max(ROOM, room * count - len(speaker) - 6) :]
    cut = cut.partition(" ")[2] or cut  # no part of a word
    lines = textwrap.wrap(f"{speaker} … {cut}", room)
    return lines if len(lines) <= count + 1 else [lines[0], *lines[-count:]]


def _begin_of(text: str, room: int, count: int) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), room) or [""]
    return (
        lines if len(lines) <= count else [*lines[: count - 1], lines[count - 1][: room - 1] + "…"]
    )


def _dot(visits: int) -> float:
    """Area of a node's dot, in square points."""
    return 30 + 12 * min(visits, 40)


def _parent_reply(tree: Tree, node: int) -> int | None:
    """The nearest node above that is a reply or the root."""
    above = tree.nodes[node].parent
    while (
        above is not None
        and tree.nodes[above].turn is not None
        and not tree.nodes[above].turn.trainable
    ):
        above = tree.nodes[above].parent
    return above


def state_of(tree: Tree, node: int) -> int:
    """The node of the state that is replied to after this one: itself, or what the last tool
    said."""
    while any(not tree.nodes[child].turn.trainable for child in tree.nodes[node].children):
        node = next(
            child for child in tree.nodes[node].children if not tree.nodes[child].turn.trainable
        )
    return node


def _places(origin: dict[int, int | None], texts: dict[int, str]) -> dict[int, float]:
    """Vertical places in lines of text: leaves one below the other, the others at the mean of
    their children's."""
    children: dict[int, list[int]] = {}
    for node, above in origin.items():
        children.setdefault(above, []).append(node)
    places: dict[int, float] = {}
    end = 0.0

    def place(node: int) -> float:
        nonlocal end
        lines, begin = texts[node].count("\n") + 1, end
        below = [place(child) for child in children.get(node, [])]
        # A label of many lines beside few leaves needs room of its own.
        end = max(end, begin + lines + 0.6)
        places[node] = float(np.mean(below)) if below else begin + (lines - 1) / 2
        return places[node]

    place(0)
    return places


def without_tags(text: str) -> str:
    """A text whose calls are without their tags."""
    return " ".join(re.sub(r"<call (\w+)>\s*(.*?)\s*</call>", r"\1: \2", text).split())
