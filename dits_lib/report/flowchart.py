"""A Mermaid flowchart as SVG, so that a page shows it without JavaScript or a network.

Of the language only `flowchart BT` and lines `a --> b` are read, which is what
docs/architecture.md has.
"""

from __future__ import annotations

import re
from itertools import pairwise
from xml.sax.saxutils import escape

WIDE, HIGH, ACROSS, UP = 104, 30, 124, 64
"""Width and height of a box, and the distance between the middles of neighbours."""
Arrow = tuple[str, str]


def arrows_of(text: str) -> list[Arrow]:
    """The arrows of a flowchart that runs from bottom to top.

    Raises:
        ValueError: for any other line, or arrows in a circle.
    """
    first, *lines = (line.strip() for line in text.strip().splitlines())
    found = [re.fullmatch(r"(\w+) --> (\w+)", line) for line in lines]
    if first != "flowchart BT" or not all(found):
        raise ValueError("a flowchart of other lines than `a --> b`, or not from bottom to top")
    return [match.groups() for match in found]


def ranks(arrows: list[Arrow]) -> dict[str, int]:
    """How many rows below the top each box lies: below all that it points to."""
    names = list(dict.fromkeys(name for arrow in arrows for name in arrow))
    rank = dict.fromkeys(names, 0)
    for _ in names:
        for start, end in arrows:
            rank[start] = max(rank[start], rank[end] + 1)
    if any(rank[start] <= rank[end] for start, end in arrows) or max(rank.values()) >= len(names):
        raise ValueError("arrows in a circle")
    return rank


def _paths(arrows: list[Arrow], rank: dict[str, int]) -> list[list[tuple[int, str]]]:
    """For each arrow the places that it passes, one a row: its ends, and free places between."""
    return [
        [
            (row, start if row == rank[start] else end if row == rank[end] else f"{start}>{end}")
            for row in range(rank[start], rank[end] - 1, -1)
        ]
        for start, end in arrows
    ]


def _places(paths: list[list[tuple[int, str]]]) -> dict[tuple[int, str], float]:
    """Across: each place near the middle of those that it is joined to, none on another."""
    joined: dict[tuple[int, str], list[tuple[int, str]]] = {}
    for path in paths:
        for one, other in pairwise(path):
            joined.setdefault(one, []).append(other)
            joined.setdefault(other, []).append(one)
    rows = [
        [place for place in joined if place[0] == row] for row in {place[0] for place in joined}
    ]
    across = {
        place: number - (len(row) - 1) / 2 for row in rows for number, place in enumerate(row)
    }
    for _ in range(8):
        for row in (*rows, *reversed(rows)):
            wish = {
                place: sum(across[other] for other in joined[place]) / len(joined[place])
                for place in row
            }
            spread, last = {}, float("-inf")
            for place in sorted(row, key=wish.get):
                spread[place] = last = max(wish[place], last + 1)
            aside = sum(wish[place] - spread[place] for place in row) / len(row)
            across.update({place: x + aside for place, x in spread.items()})
    return across


def flowchart_svg(text: str) -> str:
    """The picture of a Mermaid flowchart (`arrows_of`).

    Raises:
        ValueError: when the flowchart has other parts.
    """
    arrows = arrows_of(text)
    rank = ranks(arrows)
    paths = _paths(arrows, rank)
    across = _places(paths)
    left = min(across.values())
    at = {
        (row, name): ((x - left + 0.5) * ACROSS, (row + 0.5) * UP)
        for (row, name), x in across.items()
    }
    drawn = []
    for path in paths:
        ends = [at[place] for place in path]
        ends[0] = (ends[0][0], ends[0][1] - HIGH / 2)
        ends[-1] = (ends[-1][0], ends[-1][1] + HIGH / 2)
        line = f"M{ends[0][0]:.0f},{ends[0][1]:.0f}"
        for (x, y), (to_x, to_y) in pairwise(ends):
            bend = (y + to_y) / 2
            line += f" C{x:.0f},{bend:.0f} {to_x:.0f},{bend:.0f} {to_x:.0f},{to_y:.0f}"
        drawn.append(f'<path d="{line}" fill="none" stroke="#555" marker-end="url(#tip)"/>')
    for name, row in rank.items():
        x, y = at[row, name]
        drawn.append(
            f'<rect x="{x - WIDE / 2:.0f}" y="{y - HIGH / 2:.0f}" width="{WIDE}" height="{HIGH}" '
            f'rx="6" fill="#eef4fb" stroke="#4878a8"/><text x="{x:.0f}" y="{y + 5:.0f}" '
            f'text-anchor="middle">{escape(name)}</text>'
        )
    width = (max(across.values()) - left + 1) * ACROSS
    height = (max(rank.values()) + 1) * UP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="14">\n'
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>\n'
        f'<rect width="{width:.0f}" height="{height}" fill="white"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )
