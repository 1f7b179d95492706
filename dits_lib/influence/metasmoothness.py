"""How smooth a training is in the weights of its examples: whether a derivative through it foresees
what it ends with at other weights (Engstrom et al., 2025, arXiv 2503.13751, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Weights = dict[str, torch.Tensor]


def metasmoothness(
    train: Callable[[torch.Tensor], Weights],
    weights: torch.Tensor,
    directions: list[torch.Tensor],
    step: float,
) -> list[float]:
    """The empirical metasmoothness of a training along each of some directions, by two trainings
    for each and one for all.

    Args:
        train: from the weights of the examples [n] to the trained weights by name, always the same
            for the same.
        weights: z, where it is measured.
        directions: v, [n] each.
        step: h > 0.

    Raises:
        ValueError: where the training ends alike whatever the weights are: see `agreement`.
    """
    start = train(weights)
    return [
        agreement(start, train(weights + step * v), train(weights + 2 * step * v))
        for v in directions
    ]


def agreement(start: Weights, once: Weights, twice: Weights) -> float:
    """`sign(A(z + hv) - A(z))^T diag(d / |d|_1) sign(A(z + 2hv) - A(z + hv))` with
    `d = |A(z + 2hv) - A(z)|` (Engstrom et al., definition 2, eq. 6): do the trained weights go on
    in the second step as they went in the first, each counted by how far it went. 1: all do; 0:
    chance; -1: none does.

    Args:
        start, once, twice: A(z), A(z + hv) and A(z + 2hv), the trained weights by name.

    Raises:
        ValueError: where no weight of `twice` differs from `start`.
    """
    agreed, total = 0.0, 0.0
    for name, first in start.items():
        middle, last = once[name].double(), twice[name].double()
        moved = (last - first.double()).abs()
        agreed += float((moved * (middle - first.double()).sign() * (last - middle).sign()).sum())
        total += float(moved.sum())
    if total == 0:
        raise ValueError(
            "the training ends alike at the weights and two steps away, so that there is no "
            "metasmoothness; take a larger step, or a direction along which it changes"
        )
    return agreed / total
