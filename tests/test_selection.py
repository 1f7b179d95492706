"""Selections against brute force."""

from itertools import combinations

import numpy as np
import pytest

from dits_lib.selection import ARMS, combined_score, select_arm, standardise, top_share

RNG = np.random.default_rng(0)
INFLUENCE, Q, CLASSIC = RNG.normal(size=9), RNG.random(9), RNG.normal(size=9)


def brute(scores, count):
    """The subset of largest total score, by trying all."""
    return max(combinations(range(len(scores)), count), key=lambda s: sum(scores[i] for i in s))


@pytest.mark.parametrize(
    ("arm", "scores"),
    [
        ("q_value", Q),
        ("dpo_loss", CLASSIC),
        ("gamma_0", INFLUENCE),
        ("reversed", -INFLUENCE),
        ("gamma_1", (INFLUENCE - INFLUENCE.mean()) / INFLUENCE.std() + (Q - Q.mean()) / Q.std()),
    ],
)
def test_each_arm_keeps_the_subset_of_largest_score(arm, scores):
    for alpha in (0.1, 0.5, 1.0):
        kept = select_arm(arm, alpha, np.random.default_rng(0), Q, INFLUENCE, CLASSIC)
        assert tuple(kept) == brute(scores, max(1, round(alpha * 9)))


def test_full_and_random():
    assert select_arm("full", 0.5, RNG, Q).tolist() == list(range(9))
    picks = [tuple(select_arm("random", 0.5, np.random.default_rng(i), Q)) for i in range(300)]
    assert all(len(set(p)) == 4 for p in picks)
    shares = np.bincount(np.concatenate(picks), minlength=9) / 300
    assert np.abs(shares - 4 / 9).max() < 0.12


def test_ties_are_broken_at_random_and_by_seed():
    flat = np.zeros(20)
    one, two = (top_share(flat, 0.5, np.random.default_rng(s)).tolist() for s in (1, 2))
    assert one != two and one == top_share(flat, 0.5, np.random.default_rng(1)).tolist()


def test_standardise_and_combined_score():
    assert standardise(np.full(5, 3.0)).tolist() == [0.0] * 5
    assert standardise(INFLUENCE).std() == pytest.approx(1) and combined_score(
        INFLUENCE, Q, 0
    ) == pytest.approx(standardise(INFLUENCE))


def test_an_unknown_arm_is_named():
    with pytest.raises(ValueError, match="unknown arm 'best'; allowed: full"):
        select_arm("best", 0.5, RNG, Q)
    assert set(ARMS) >= {"full", "random", "q_value", "dpo_loss", "gamma_0", "gamma_1", "reversed"}
