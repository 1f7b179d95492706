"""Adaptive V: validation questions are spent on the pairs whose place above or below the cut is still open (racing; Maron & Moore, 1997).

All pairs play a first round of questions. After each round a pair whose mean differs from the cut (between the last kept and the first
dropped) by more than its confidence bound is settled and plays no more. The bound is Student's, at error probability
`race_error / (2 * rounds)`: by the union bound over the rounds, a pair whose true place differs from the one it was settled in is seen with
probability `race_error` at most, as far as means of questions are normal and the cut is where it seems. Pairs whose true values tie
are never settled: they play all questions, and their order is chance whatever V.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from ..pairs import Pair
from ..tasks import Question
from .base import Scores, Setting, mean_and_stderr
from .gradients import step, take
from .one_step import evaluate_adapters, gradients_of, metric_changes, metric_table


def race(play: Callable[[np.ndarray, np.ndarray], np.ndarray], count: int, questions: int, batch: int, alpha: float, error: float) -> np.ndarray:
    """Play rounds of questions until all candidates are settled or no question is left.

    Args:
        play: (candidates [k], questions [b]) -> changes of the metric [k, b].
        count, questions: how many there are.
        batch: questions a round.
        alpha: share of the candidates that will be kept.
        error: allowed for each candidate, over all rounds.

    Returns:
        [count, questions]: what was played; NaN where it was not.
    """
    table = np.full((count, questions), np.nan)
    rounds = np.array_split(np.arange(questions), max(1, -(-questions // batch)))
    live, keep = np.arange(count), min(max(1, round(alpha * count)), count - 1)
    for columns in rounds:
        table[np.ix_(live, columns)] = play(live, columns)
        live = live[~settled(table, live, keep, error / len(rounds))]
        if not len(live):
            break
    return table


def settled(table: np.ndarray, live: np.ndarray, keep: int, error: float) -> np.ndarray:
    """Which of the live candidates lie on one side of the cut, at this error probability (two-sided)."""
    means = np.nanmean(table, axis=1)
    high = np.sort(means)[::-1]
    cut = (high[keep - 1] + high[keep]) / 2
    rows = table[live][:, ~np.isnan(table[live[0]])]
    count = rows.shape[1]
    if count < 2:
        return np.zeros(len(live), dtype=bool)
    # A pair whose dialogues never changed has no spread of its own, which does not make its mean exact.
    spread = np.sqrt(np.maximum(rows.var(axis=1, ddof=1), rows.var(axis=1, ddof=1).mean()))
    return np.abs(means[live] - cut) > stats.t.ppf(1 - error / 2, count - 1) * spread / np.sqrt(count)


def racing(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """One-step influence of every pair on as many of the questions as it takes; `cost` tells the share of (pair, question) plays made."""
    engine, system, config = setting.engine, setting.system, setting.config
    before = engine.snapshot()
    steps = step(gradients_of(engine, pairs, config, setting.lora(seed)), setting.step_size)

    def play(candidates: np.ndarray, columns: np.ndarray) -> np.ndarray:
        asked = [questions[i] for i in columns]
        base = metric_table(evaluate_adapters(engine, system, asked, None, 1, config, seed), config.samples)
        return metric_changes(engine, system, take(steps, candidates), base, asked, config, seed)

    table = race(play, len(pairs), len(questions), config.race_questions, setting.alpha, config.race_error)
    played = ~np.isnan(table)
    spent = {"gradients": len(pairs), "played": float(played.mean())}
    return Scores("racing", *mean_and_stderr(table), engine.usage.minus(before) | spent, table)
