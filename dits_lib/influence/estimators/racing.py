"""Adaptive V: validation questions are spent on the pairs whose place above or below the cut is
still open (racing; Maron & Moore, 1997).

All pairs play a first round of questions. After each round a pair whose mean differs from the cut
(between the last kept and the first dropped) by more than its confidence bound is settled and plays
no more. The bound is Student's, at error probability `error / (2 * rounds)`: by the union bound
over the rounds, a pair whose true place differs from the one it was settled in is seen with
probability `error` at most, as far as means of questions are normal and the cut is where it seems.
Pairs whose true values tie are never settled: they play all questions, and their order is chance
whatever V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import scipy
from pydantic import Field

from ...pairs import Pair
from ...settings.kinds import AtLeastTwo
from ...tasks import Question
from ..base import Amount, Effort, Estimator, Options, Scores, ScoringContext
from ..gradients import gradients_of, step, take
from ..validation_play import ValidationPlay


class RaceOptions(Options):
    """`questions` of a round; `error`: chance allowed to put a pair on the wrong side of the
    cut."""

    questions: AtLeastTwo = 20
    error: Annotated[float, Field(gt=0, lt=1)] = 0.1


def race(
    play: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
    questions: int,
    batch: int,
    alpha: float,
    error: float,
) -> np.ndarray:
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
    """Which of the live candidates lie on one side of the cut, at this error probability
    (two-sided)."""
    means = np.nanmean(table, axis=1)
    high = np.sort(means)[::-1]
    cut = (high[keep - 1] + high[keep]) / 2
    rows = table[live][:, ~np.isnan(table[live[0]])]
    count = rows.shape[1]
    if count < 2:
        return np.zeros(len(live), dtype=bool)
    # A pair whose dialogues never changed has no spread of its own, which does not make its mean
    # exact.
    spread = np.sqrt(np.maximum(rows.var(axis=1, ddof=1), rows.var(axis=1, ddof=1).mean()))
    return np.abs(means[live] - cut) > scipy.stats.t.ppf(
        1 - error / 2, count - 1
    ) * spread / np.sqrt(count)


def racing(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: RaceOptions,
) -> Scores:
    """One-step influence of every pair on as many of the questions as it takes; `cost` tells the
    share of (pair, question) plays made."""
    engine, settings = context.engine, context.settings
    before = engine.snapshot()
    gradients = gradients_of(context, pairs, context.lora(seed))
    steps = step(gradients, context.step_size)
    every = ValidationPlay(engine, context.system, questions, settings, seed)

    def play(candidates: np.ndarray, columns: np.ndarray) -> np.ndarray:
        asked = [questions[i] for i in columns]
        own = ValidationPlay(engine, context.system, asked, settings, seed)
        changes = own.changes(take(steps, candidates))
        every.controls += own.controls
        return changes

    count = len(pairs), len(questions)
    table = race(play, *count, options.questions, context.alpha, options.error)
    cost = {"gradients": len(pairs), "played": float((~np.isnan(table)).mean())}
    return Scores.of_table(
        "racing", pairs, table, engine.usage.minus(before) | cost | every.noise()
    )


def effort(amount: Amount) -> Effort:
    """Every pair plays every question, at most."""
    return amount.played_under(amount.pairs) + Effort(gradient_rows=2 * amount.pairs)


ESTIMATOR = Estimator(
    "racing",
    racing,
    effort,
    options=RaceOptions,
    uses_alpha=True,
    holds_all_gradients=True,
    columns_are_questions=False,
    scores_alone=False,
)
