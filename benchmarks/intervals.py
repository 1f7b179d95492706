"""Which interval for a paired difference over seeds and questions holds its level?

    python -m benchmarks.intervals

Draws runs whose true effect is 0 and counts how often each interval holds it: Student's t over the
seeds' means, a mixed model with a random intercept for seeds (balanced, in closed form), and, where
seeds share questions, what `dits_lib.report.paired` does. Writes benchmarks/intervals.md; takes
about three minutes on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from dits_lib.report import markdown_table
from dits_lib.report.stats import detectable_distance, half_width, joint_level, paired_effect

LEVELS = (0.95, 0.99)
SEEDS = (3, 4, 5, 7, 10)
RATIOS = (0.0, 0.25, 1.0, 4.0, 16.0)
"""Variance between seeds, in variances of a seed's mean over its questions."""
COUNT = 100
"""Questions of a seed."""


def own_questions(runs: int = 100_000) -> pd.DataFrame:
    """Coverage where every seed asks questions of its own, from the exact distributions of the mean
    squares; the variance of a seed's mean over its questions is 1."""
    rng, rows = np.random.default_rng(0), []
    for seeds in SEEDS:
        for ratio in RATIOS:
            mean = rng.normal(0, np.sqrt((ratio + 1) / seeds), runs)
            between = (ratio + 1) * rng.chisquare(seeds - 1, runs) / (seeds - 1)
            inner = seeds * (COUNT - 1)
            within = rng.chisquare(inner, runs) / inner
            whole = seeds * COUNT - 1
            pooled = ((seeds - 1) * between + inner * within) / whole
            none = between < within  # REML then puts the variance between seeds at 0
            stderr = np.sqrt(np.where(none, pooled, between) / seeds)
            plain = np.sqrt(between / seeds)
            row = {"seeds": seeds, "between seeds": ratio}
            for level in LEVELS:
                far = 0.5 + level / 2
                t = stats.t.ppf(far, seeds - 1)
                widths = {
                    "t": t * plain,
                    "mixed, normal": stats.norm.ppf(far) * stderr,
                    "mixed, t": np.where(none, stats.t.ppf(far, whole), t) * stderr,
                }
                for name, half in widths.items():
                    row[f"{name}, {level:.0%}"] = np.mean(np.abs(mean) < half)
            rows.append(row)
    return pd.DataFrame(rows)


def shared_questions(runs: int = 2000) -> pd.DataFrame:
    """Coverage where seeds draw their questions from one pool; the variance of an effect between
    questions is that of one answer, 1."""
    rng, rows = np.random.default_rng(0), []
    for seeds in (3, 5, 10):
        for share in (1.0, 0.5, 0.1):
            for ratio in (0.0, 1.0, 16.0):
                rows.append(
                    {"seeds": seeds, "in common": f"{share:.0%}", "between seeds": ratio}
                    | _shared_row(rng, seeds, round(COUNT / share), ratio, runs)
                )
    return pd.DataFrame(rows)


def _shared_row(
    rng: np.random.Generator, seeds: int, pool: int, ratio: float, runs: int
) -> dict[str, float]:
    """Coverage of the t interval, of one with Satterthwaite's degrees of freedom, and of ours."""
    hits = {(name, level): 0 for level in LEVELS for name in ("t", "Satterthwaite", "ours")}
    for _ in range(runs):
        asked = np.array([rng.permutation(pool)[:COUNT] for _ in range(seeds)])
        effects = rng.normal(size=(seeds, COUNT)) + rng.normal(size=pool)[asked]
        effects += rng.normal(0, np.sqrt(2 * ratio / COUNT), (seeds, 1))
        found = paired_effect(effects, np.zeros_like(effects), asked)
        mean, error = found.pop("estimate"), {k: v for k, v in found.items() if k != "count"}
        own, shared = error["stderr"] ** 2, error["shared"] ** 2
        df = (own + shared) ** 2 / (own**2 / error["df"] + shared**2 / error["shared_df"])
        for level in LEVELS:
            halves = {
                "t": half_width(level, error["stderr"], error["df"]),
                "Satterthwaite": half_width(level, np.sqrt(own + shared), df),
                "ours": half_width(level, **error),
            }
            for name, half in halves.items():
                hits[name, level] += abs(mean) < half
    return {f"{name}, {level:.0%}": hit / runs for (name, level), hit in hits.items()}


def detectable_effects() -> pd.DataFrame:
    """Smallest effects that are decided in 80 % of the runs, in standard deviations of a seed's
    mean difference, where so many comparisons hold together at 95 %."""
    return pd.DataFrame(
        {
            "seeds": seeds,
            **{
                f"{count} comparisons": detectable_distance(
                    0.8, joint_level(count), stderr=1 / np.sqrt(seeds), df=seeds - 1
                )
                for count in (1, 2, 4, 8, 16, 32)
            },
        }
        for seeds in (3, 4, 5, 6, 8, 10, 15, 20)
    )


TEXT = """# Intervals for paired differences over seeds and questions

Written by `python -m benchmarks.intervals`; do not edit. Each number is the share of runs whose
interval holds the true effect. `between seeds` is the variance between seeds, in variances of a
seed's mean over its {count} questions: 0 where seeds differ by their questions alone.

## Seeds with questions of their own ({runs:,} runs each)

{own}

**t over the seeds' means** holds its level at every ratio. A **mixed model** with a random
intercept for seeds (REML; in a balanced design its variance is the larger of the mean square
between seeds and the pooled one) with normal quantiles, as statsmodels gives them, falls short of
it as soon as seeds differ. With quantiles of t (seeds - 1 degrees of freedom, or those of all
answers where it finds no variance between seeds) it is wider than t where seeds do not differ,
and too sure where they differ a little: with three seeds at 95 %, with up to seven at 99 %, the
kind of level that joint intervals need.

Nothing narrower can be had. Let the variance of a seed's mean be T, with S seeds, d = S - 1, t
the quantile of Student's t, and r the estimate of T. Take any interval mean +- h(r), and compare
it with h(r) = t sqrt(r / S). Coverage is concave in h, and at that h its derivative in h(r), at
the variance T (1 + t^2 / d), is proportional to r^(d/2 - 1) exp(-r d / 2T), which is the density
of r at the variance T. So an interval whose coverage at T (1 + t^2 / d) is no smaller has a mean
width at T that is no smaller: one that is narrower on average at any variance misses its level at
a larger one. That T is at least v, which is all that the answers to single questions tell, rules
out no larger variance, and so changes nothing. What gives power is more seeds (t falls from
{t3:.1f} with 3 seeds to {t5:.1f} with 5 and {t10:.1f} with 10; at 99 % from {u3:.1f} to {u5:.1f}
and {u10:.1f}), and more questions and more runs of a seed, which lower T.

### What can be detected

The smallest effect that is decided in 80 % of the runs, in standard deviations of one seed's mean
difference, by the number of comparisons whose intervals hold together.

{detectable}

## Seeds that share questions ({few:,} runs each)

Seeds draw their {count} questions from one pool, and have a share `in common`, on average. What a
question does to all seeds alike is not in their spread.

{shared}

**t over the seeds' means**, blind to it, is too sure, the more so with more seeds.
**Satterthwaite's** degrees of freedom for the sum of the two variances are too sure with three
seeds, and at 99 % in part with five. **Ours** takes each part with its own quantile and adds the
two as squares; it holds its level, and is wide where seeds are few and questions matter more.
Where nothing is shared it is t.
"""


def main() -> int:
    """Write benchmarks/intervals.md."""
    own, shared = own_questions(), shared_questions()
    quantiles = {
        f"{name}{seeds}": stats.t.ppf(0.5 + level / 2, seeds - 1)
        for name, level in (("t", 0.95), ("u", 0.99))
        for seeds in (3, 5, 10)
    }
    text = TEXT.format(
        count=COUNT,
        runs=100_000,
        few=2000,
        own=markdown_table(_shown(own)),
        shared=markdown_table(_shown(shared)),
        detectable=markdown_table(_shown(detectable_effects())),
        **quantiles,
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print("read benchmarks/intervals.md")
    return 0


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.copy()
    for column in shown.columns:
        if "%" in column:
            shown[column] = shown[column].map(lambda x: f"{x:.3f}")
        elif "comparisons" in column:
            shown[column] = shown[column].map(lambda x: f"{x:.2f}")
        elif column == "between seeds":
            shown[column] = shown[column].map(lambda x: f"{x:g}")
    return shown.astype(str)


if __name__ == "__main__":
    sys.exit(main())
