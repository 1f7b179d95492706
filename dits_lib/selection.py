"""Which pairs are trained on: rankings and baselines."""

from __future__ import annotations

import numpy as np

ARMS = ("full", "random", "q_value", "dpo_loss", "gamma_0", "gamma_1", "reversed")
"""Selections that are compared: all pairs, a random half, the half of highest Q, of highest classic
influence, of highest influence (gamma 0), of highest influence plus Q (gamma 1), and, as a control,
of lowest influence."""


def standardise(values: np.ndarray) -> np.ndarray:
    """Zero mean and unit standard deviation; zeros where the values do not vary."""
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values, dtype=float)


def combined_score(influence: np.ndarray, q_value: np.ndarray, gamma: float) -> np.ndarray:
    """H(z) = I(z) + gamma * Q(s, a_high) (DITS eq. 6), both standardised, since their scales
    differ.

    The released code scales the influence alone to [0, 1] and adds raw Q-values, whose spread is
    ten times smaller.
    """
    return standardise(influence) + gamma * standardise(q_value)


def top_share(scores: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Indices, ascending, of the round(alpha * n) highest scores (one at least, if there are any);
    ties are broken at random."""
    count = max(1, round(alpha * len(scores)))
    order = np.lexsort((rng.random(len(scores)), -np.asarray(scores)))
    return np.sort(order[:count])


def select_arm(
    arm: str,
    alpha: float,
    rng: np.random.Generator,
    q_value: np.ndarray,
    influence: np.ndarray | None = None,
    dpo_loss: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of the pairs that an arm trains on.

    Raises:
        ValueError: for an unknown arm.
    """
    if arm == "full":
        return np.arange(len(q_value))
    scores = {
        "random": lambda: rng.random(len(q_value)),
        "q_value": lambda: q_value,
        "dpo_loss": lambda: dpo_loss,
        "gamma_0": lambda: combined_score(influence, q_value, 0.0),
        "gamma_1": lambda: combined_score(influence, q_value, 1.0),
        "reversed": lambda: -influence,
    }
    if arm not in scores:
        raise ValueError(f"unknown arm {arm!r}; allowed: {', '.join(ARMS)}")
    return top_share(scores[arm](), alpha, rng)
