"""Which pairs a selection keeps: plain values, a picture and a table of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.figure import Figure

from ..selection import combined_score, drawn_share, top_share
from .nodes import chip, cut


@dataclass(frozen=True)
class Kept:
    """What a selection by H keeps.

    Attributes:
        score: H, [n_pairs], in the units of the scale.
        kept: numbers of the pairs, ascending.
        drawn: share of them that a draw among ties decided, 0 to 1.
    """

    score: np.ndarray
    kept: np.ndarray
    drawn: float


def kept_pairs(
    rows: Sequence[Mapping], gamma: float, alpha: float, scale: Mapping | None = None
) -> Kept:
    """The share of the pairs that have the highest H = influence + gamma Q. Ties are broken by a
    draw that is always the same, so that equal settings keep equal pairs.

    Args:
        rows: of the pairs, one each, with `influence` and `Q` of the chosen reply.
        alpha: the share, above 0 to 1.
        scale: `scale` and `step_size` as `selection.combined_score` takes them.

    Raises:
        ValueError: for a scale that `combined_score` does not take.
    """
    influence = np.array([row["influence"] for row in rows], dtype=float)
    q_value = np.array([row["Q"] for row in rows], dtype=float)
    return _top(combined_score(influence, q_value, gamma, **(scale or {})), alpha)


def kept_by(rows: Sequence[Mapping], name: str, alpha: float) -> Kept:
    """What one of the two scores alone keeps.

    Args:
        name: `influence` or `Q`.
        alpha: the share, above 0 to 1.
    """
    return _top(np.array([row[name] for row in rows], dtype=float), alpha)


def _top(score: np.ndarray, alpha: float) -> Kept:
    kept = top_share(score, alpha, np.random.default_rng(0))
    return Kept(score, kept, drawn_share(score, alpha))


def kept_sentence(rows: Sequence[Mapping], found: Kept, by_influence: Kept, by_q: Kept) -> str:
    """How many pairs are kept, what they have in common with those that influence or Q alone keep,
    and how many ties decided.

    Args:
        by_influence, by_q: what influence and Q alone keep, of the same rows.
    """
    own = set(found.kept.tolist())
    with_i, with_q = (len(own & set(other.kept.tolist())) for other in (by_influence, by_q))
    told = f"H keeps {len(own)} of {len(rows)} pairs: {with_i} of them influence alone keeps too, "
    told += f"{with_q} of them Q alone."
    drawn = round(found.drawn * len(own))
    if drawn:
        told += f" {drawn} of them {'was' if drawn == 1 else 'were'} drawn among ties at the cut."
    return told


def kept_picture(rows: Sequence[Mapping], found: Kept) -> bytes:
    """Influence against Q of the chosen reply as a PNG: a dot a pair, those that are kept filled;
    the line is the lowest H that is kept."""
    influence = np.array([row["influence"] for row in rows], dtype=float)
    q_value = np.array([row["Q"] for row in rows], dtype=float)
    inside = np.isin(np.arange(len(rows)), found.kept)
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axis = figure.subplots()
    for own, face, name in ((~inside, "none", "left out"), (inside, "C0", "kept")):
        axis.scatter(q_value[own], influence[own], 26, face, edgecolors="C0", label=name)
    limits = axis.get_xlim(), axis.get_ylim()
    _draw_cut(axis, influence, q_value, found)
    axis.set(xlim=limits[0], ylim=limits[1], xlabel="Q of the chosen reply", ylabel="influence")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=96)
    return picture.getvalue()


def _draw_cut(axis, influence: np.ndarray, q_value: np.ndarray, found: Kept) -> None:
    """The line of equal H through the last pair that is kept: H is linear in influence and Q on
    every scale."""
    terms = np.column_stack([influence, q_value, np.ones(len(influence))])
    (of_influence, of_q, rest), *_ = np.linalg.lstsq(terms, found.score, rcond=None)
    lowest = found.score[found.kept].min() if len(found.kept) else 0.0
    if abs(of_influence) < 1e-9 or not len(found.kept):
        return  # influence does not vary, and Q alone decides
    at = np.array(axis.get_xlim())
    axis.plot(at, (lowest - rest - of_q * at) / of_influence, color="0.5", lw=1, zorder=0)


def kept_table(rows: Sequence[Mapping], found: Kept, room: int = 120) -> str:
    """All pairs from the highest H to the lowest, as HTML; those that are kept are marked. What
    agents said is escaped.

    Args:
        rows: with `agent`, `chosen` and `rejected` beside the two scores.
        room: characters of a reply, about.
    """
    order = np.lexsort((~np.isin(np.arange(len(rows)), found.kept), -found.score))
    head = "".join(
        f"<th>{name}</th>" for name in ("", "H", "I", "Q", "agent", "chosen", "rejected")
    )
    body = []
    for i in order:
        row, inside = rows[i], i in found.kept
        mark, name = ("kept", ' class="dits-shown"') if inside else ("", "")
        numbers = f"{found.score[i]:.2f}", f"{row['influence']:+.4f}", chip(row["Q"])
        cells = [f"<td>{cell}</td>" for cell in (mark, *numbers, escape(str(row["agent"])))]
        cells += [
            f'<td class="dits-said">{escape(cut(row[reply], room))}</td>'
            for reply in ("chosen", "rejected")
        ]
        body.append(f"<tr{name}>{''.join(cells)}</tr>")
    return f'<div class="dits-page"><table><tr>{head}</tr>{"".join(body)}</table></div>'
