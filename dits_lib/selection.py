"""Which pairs are trained on: rankings and baselines."""

from __future__ import annotations

import numpy as np

ARMS = ("full", "random", "q_value", "dpo_loss", "gamma_0", "gamma_1", "reversed")
"""Selections that are compared: all pairs, a random half, the half of highest Q, of highest classic
influence, of highest influence (gamma 0), of highest influence plus Q (gamma 1), and, as a control,
of lowest influence."""

SCALES = ("standardised", "paper", "released")
"""Units in which influence and Q are added; see `combined_score`."""


def standardise(values: np.ndarray) -> np.ndarray:
    """Zero mean and unit standard deviation; zeros where the values do not vary."""
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values, dtype=float)


def unit_range(values: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1]; zeros where the values do not vary."""
    spread = np.ptp(values) if len(values) else 0.0
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values, dtype=float)


def combined_score(
    influence: np.ndarray,
    q_value: np.ndarray,
    gamma: float,
    scale: str = "standardised",
    step_size: float | None = None,
) -> np.ndarray:
    """H(z), [n_pairs], by which pairs are ranked: influence plus gamma times Q of the chosen reply.

    Args:
        influence: I(z), [n_pairs].
        q_value: Q(s, a_high), [n_pairs].
        scale: in which units the two are added:
            `standardised`: both to zero mean and unit spread, since their scales differ (ours);
            `paper`: I / eps + gamma * Q, as written (DITS eq. 4 and 6);
            `released`: influence scaled to [0, 1], Q as it is
            (generate_influence_dataset.py of the authors' code).
        step_size: eps, by which `paper` divides: that of the influence step where I is a change of
            the metric, 1 where it is a derivative already (`Estimator.divisor`).

    Raises:
        ValueError: for an unknown scale, or `paper` without a step size above 0.
    """
    if scale == "standardised":
        return standardise(influence) + gamma * standardise(q_value)
    if scale == "released":
        return unit_range(influence) + gamma * q_value
    if scale != "paper":
        raise ValueError(f"unknown scale {scale!r}; allowed: {', '.join(SCALES)}")
    if step_size is None or not step_size > 0:
        raise ValueError(
            f"scale 'paper' divides the influence by its step size, but that is {step_size}; "
            "it must be above 0"
        )
    return influence / step_size + gamma * q_value


def top_share(scores: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Indices, ascending, of the round(alpha * n) highest scores (one at least, if there are any);
    ties are broken at random."""
    count = max(1, round(alpha * len(scores)))
    order = np.lexsort((rng.random(len(scores)), -np.asarray(scores)))
    return np.sort(order[:count])


def drawn_share(scores: np.ndarray, alpha: float) -> float:
    """Share of the pairs that `top_share` keeps which a draw among ties decided: 0 where the scores
    alone name them, 1 where all scores are equal and some are dropped."""
    scores = np.asarray(scores)
    if not len(scores):
        return 0.0
    count = min(len(scores), max(1, round(alpha * len(scores))))
    last = np.sort(scores)[::-1][count - 1]
    above, tied = int((scores > last).sum()), int((scores == last).sum())
    return (count - above) / count if tied > count - above else 0.0


def select_arm(
    arm: str,
    alpha: float,
    rng: np.random.Generator,
    q_value: np.ndarray,
    influence: np.ndarray | None = None,
    dpo_loss: np.ndarray | None = None,
    scale: str = "standardised",
    step_size: float | None = None,
) -> np.ndarray:
    """Indices of the pairs that an arm trains on.

    Args:
        scale, step_size: of the arms that add Q to the influence; see `combined_score`.

    Raises:
        ValueError: for an unknown arm.
    """
    if arm == "full":
        return np.arange(len(q_value))
    scores = {
        "random": lambda: rng.random(len(q_value)),
        "q_value": lambda: q_value,
        "dpo_loss": lambda: dpo_loss,
        "gamma_0": lambda: combined_score(influence, q_value, 0.0, scale, step_size),
        "gamma_1": lambda: combined_score(influence, q_value, 1.0, scale, step_size),
        "reversed": lambda: -influence,
    }
    if arm not in scores:
        raise ValueError(f"unknown arm {arm!r}; allowed: {', '.join(ARMS)}")
    return top_share(scores[arm](), alpha, rng)
