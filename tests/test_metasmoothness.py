"""Metasmoothness against trainings whose end is known in closed form."""

import numpy as np
import pytest
import torch

from dits_lib.influence.metasmoothness import agreement, metasmoothness


def test_weights_that_turn_back_count_against_by_how_far_they_went():
    """Along v = (1, 1) from (0, 0): one goes on, one turns after 1.2 h and ends 0.8 h^2 away, and
    one stands still."""

    def train(z):
        along = z.sum() / 2
        return {
            "on": (2 * along)[None],
            "turned": ((along - 0.12) ** 2)[None],
            "still": z.new_ones(3),
        }

    zero, ones = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    found = metasmoothness(train, zero, [ones, -ones], 0.1)
    # Backwards nothing turns: (-0.32)^2 and (-0.22)^2 lie on one side of the minimum.
    assert found == pytest.approx([(0.4 - 0.008) / (0.4 + 0.008), 1.0])
    assert metasmoothness(lambda z: {"turned": train(z)["turned"]}, zero, [ones], 0.1) == [-1.0]


@pytest.mark.parametrize("rate, smooth", [(0.01, True), (1.7, False)])
def test_gradient_descent_on_weighted_squares(rate, smooth):
    """`theta - rate * w * (theta - x)`, each coordinate an example of its own: after T steps
    `theta_T = x (1 - (1 - rate * w)^T)`, which turns where rate * w passes 1."""
    x, steps = np.array([1.0, -2.0, 0.5, 3.0]), 2
    direction = np.array([0.5, 1.0, -1.0, -0.3])

    def train(weights):
        theta = torch.zeros(4, dtype=torch.float64)
        for _ in range(steps):
            theta = theta - rate * weights * (theta - torch.tensor(x))
        return {"theta": theta}

    ones = torch.ones(4, dtype=torch.float64)
    (found,) = metasmoothness(train, ones, [torch.tensor(direction)], 0.3)
    start, once, twice = (
        x * (1 - (1 - rate * (1 + far * direction)) ** steps) for far in (0.0, 0.3, 0.6)
    )
    far = np.abs(twice - start)
    by_hand = (np.sign(once - start) * np.sign(twice - once) * far).sum() / far.sum()
    assert found == pytest.approx(by_hand)
    assert found == 1 if smooth else found < 0.99


def test_a_training_that_never_changes_has_none():
    one = {"a": torch.ones(2)}
    with pytest.raises(ValueError, match="ends alike.*larger step"):
        agreement(one, {"a": torch.zeros(2)}, one)
