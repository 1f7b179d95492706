"""Selections against brute force."""

from itertools import combinations

import numpy as np
import pytest

from dits_lib.influence import Estimator
from dits_lib.selection import (
    ARMS,
    SCALES,
    combined_score,
    drawn_share,
    select_arm,
    standardise,
    top_share,
)

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


@pytest.mark.parametrize(
    ("scores", "alpha", "share"),
    [
        ([3.0, 2.0, 1.0, 0.0], 0.5, 0.0),
        ([0.0] * 6, 0.5, 1.0),
        ([0.0] * 6, 1.0, 0.0),  # all are kept, so nothing is drawn
        ([1.0, 0.0, 0.0, 0.0], 0.5, 0.5),
        ([2.0, 1.0, 1.0, 0.0], 0.75, 0.0),  # the tie lies within what is kept
        ([], 0.5, 0.0),
    ],
)
def test_the_share_that_a_draw_decides(scores, alpha, share):
    assert drawn_share(np.array(scores), alpha) == share


def test_the_drawn_share_is_what_differs_between_draws():
    """Pairs that are kept under each of many draws are named by their scores, the rest is drawn."""
    scores = np.random.default_rng(3).integers(0, 3, 40).astype(float)
    kept = [set(top_share(scores, 0.5, np.random.default_rng(i))) for i in range(200)]
    always = len(set.intersection(*kept))
    assert 0 < drawn_share(scores, 0.5) < 1
    assert drawn_share(scores, 0.5) == pytest.approx(1 - always / 20)


def test_standardise_and_combined_score():
    assert standardise(np.full(5, 3.0)).tolist() == [0.0] * 5
    assert standardise(INFLUENCE).std() == pytest.approx(1) and combined_score(
        INFLUENCE, Q, 0
    ) == pytest.approx(standardise(INFLUENCE))


SCALED = {
    "standardised": (INFLUENCE - INFLUENCE.mean()) / INFLUENCE.std() + 2 * (Q - Q.mean()) / Q.std(),
    "paper": INFLUENCE / 0.3 + 2 * Q,
    "released": (INFLUENCE - min(INFLUENCE)) / (max(INFLUENCE) - min(INFLUENCE)) + 2 * Q,
}


@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_is_its_closed_form(scale):
    assert combined_score(INFLUENCE, Q, 2.0, scale, 0.3) == pytest.approx(SCALED[scale])
    one = {name: np.argsort(combined_score(INFLUENCE, Q, 0.0, name, 0.3)) for name in SCALES}
    assert one[scale].tolist() == np.argsort(INFLUENCE).tolist()  # alone, influence ranks alike
    assert len(combined_score(np.zeros(0), np.zeros(0), 1.0, scale, 0.3)) == 0


def test_the_scale_decides_which_pairs_are_kept():
    influence, q_value = np.array([0.02, 0.0, 0.01, 0.03]), np.array([0.0, 0.9, 0.4, 0.1])
    scores = {
        "standardised": standardise(influence) + standardise(q_value),
        "paper": influence / 10 + q_value,
        "released": influence / 0.03 + q_value,
    }
    for scale in SCALES:
        kept = select_arm("gamma_1", 0.5, RNG, q_value, influence, scale=scale, step_size=10.0)
        assert tuple(kept) == brute(scores[scale], 2)
    assert brute(scores["paper"], 2) != brute(scores["released"], 2)


def test_influence_that_does_not_vary_leaves_the_order_to_q():
    flat = np.full(9, 3.0)
    for scale in SCALES:
        assert np.argsort(combined_score(flat, Q, 1.0, scale, 1.0)).tolist() == Q.argsort().tolist()


def test_a_scale_that_cannot_be_used_is_told():
    with pytest.raises(ValueError, match="unknown scale 'raw'; allowed: standardised, paper"):
        combined_score(INFLUENCE, Q, 1.0, "raw")
    for size in (None, 0.0, float("nan")):
        with pytest.raises(ValueError, match="divides the influence by its step size"):
            combined_score(INFLUENCE, Q, 1.0, "paper", size)


def test_values_are_divided_by_the_step_where_they_are_changes():
    change, derivative = (
        Estimator("own", lambda *a: None, lambda a: None, unit=unit)
        for unit in ("change", "derivative")
    )
    assert (change.divisor(0.3), derivative.divisor(0.3)) == (0.3, 1.0)


def test_an_unknown_arm_is_named():
    with pytest.raises(ValueError, match="unknown arm 'best'; allowed: full"):
        select_arm("best", 0.5, RNG, Q)
    assert set(ARMS) >= {"full", "random", "q_value", "dpo_loss", "gamma_0", "gamma_1", "reversed"}
