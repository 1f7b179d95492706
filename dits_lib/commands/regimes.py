"""Put the results of all profiles side by side: where does selection by influence pay?

    python -m dits_lib.commands.regimes

Reads `tables/03_differences.csv`, `tables/06_use_differences.csv` and `tables/08_differences.csv`
of every profile's folder of `results/` (those of changed parameters are left out), with the
parameters that they ran with, and writes `results/regimes`: one row for each regime (task, planted
harm, strength of DPO, NLL term), arm, what it is held against and what is equal in training
(optimiser steps or epochs), with the 95 % interval over seeds and what it decides. The figure shows
equal steps. Nothing is trained or sampled here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..agents import TASKS
from ..report.markdown import markdown_table
from ..report.names import plain
from ..settings import OUTPUT, read_yaml
from ..settings.files import write_file
from ..suite.results import is_of_changes, is_of_earlier_search, world_of
from .running import command

if TYPE_CHECKING:
    import pandas as pd

ARMS = {
    "gamma_0": "gamma_0",
    "one_step": "one_step",
    "policy_gradient": "policy_gradient",
    "along_training": "along_training",
    "through_training": "through_training",
    "q_value": "q_value",
    "full": "full",
    "sound alone": "sound alone",
}
"""Arms that are shown, by their name in a table; notebook 03's gamma_0 is the half by the
estimator of the parameters, whose name it is shown under."""


EARLIER = "earlier search; "
"""How a regime begins whose dialogues were searched by a version with other parameters."""


def regime_of(params: dict, task: str) -> str:
    """What decides whether selection can pay, in words."""
    searched = EARLIER if is_of_earlier_search(params) else ""
    harm, dpo = params["world"]["harmful"], params["dpo"]
    planted = (
        f"{harm['share']:.0%} {harm['kind'].replace('_', ' ')}"
        if harm["share"]
        else "no planted harm"
    )
    return (
        searched
        + "".join(f"{name}; " for name in world_of(params, task))
        + f"{planted}; {dpo['steps']} steps at {dpo['learning_rate']:g}"
        + (f", NLL {dpo['nll_weight']:g}" if dpo["nll_weight"] else "")
    )


def how_of(params: dict, arm: str) -> str:
    """How the scores of an arm were made, in words, beside their estimator and V; empty where
    there is nothing to tell."""
    influence = params["influence"]
    chosen = len(influence["step_sizes"]) > 1
    repeats = influence.get("target_repeatable") if chosen else None
    if arm == "one_step" and repeats:
        return f"step that repeats at {repeats:g}"
    if arm == "through_training":
        rounds = (influence.get("options") or {}).get(arm, {}).get("rounds", 1)
        return f"{rounds} rounds" if rounds > 1 else "1 round"
    return ""


def regimes(results: Path) -> pd.DataFrame:
    """Columns task, regime, results (the folder), arm, V and how (of the arm's scores), equal
    (steps or epochs), minus, mean, low, high, n, decided."""
    import pandas as pd

    rows = []
    for folder in sorted(path.parent for path in results.glob("*/params.yaml")):
        if is_of_changes(folder):
            continue
        params = read_yaml(folder / "params.yaml")
        for name in ("03_differences", "06_use_differences", "08_differences"):
            file = folder / "tables" / f"{name}.csv"
            if not file.is_file():
                continue
            use = (
                params["fidelity"]["use"]
                if name.startswith("06")
                else {params["influence"]["estimator"]: params["influence"]["validation_questions"]}
            )
            table = pd.read_csv(file)
            for row in table.assign(task=table.get("task", "deep_search")).itertuples():
                if row.arm in ARMS and row.minus in ("random", "q_value", "full"):
                    arm = ARMS[row.arm]
                    arm = params["influence"]["estimator"] if arm == "gamma_0" else arm
                    decided = (
                        "better" if row.low > 0 else "worse" if row.high < 0 else "not decided"
                    )
                    rows.append(
                        {
                            "task": row.task,
                            "regime": regime_of(params, row.task),
                            "results": folder.name,
                            "arm": arm,
                            "V": use.get(arm),
                            "how": how_of(params, arm),
                            "equal": getattr(row, "equal", "steps"),
                            "minus": row.minus,
                            "mean": row.mean,
                            "low": row.low,
                            "high": row.high,
                            "n": row.n,
                            "decided": decided,
                        }
                    )
    return pd.DataFrame(rows)


def most_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the same comparison in the same regime the profile with the most seeds, whatever it
    found; of several with as many, the one with the most comparisons."""
    same = ["task", "regime", "arm", "V", "how", "equal", "minus"]
    rows = rows.reset_index(drop=True)
    wide = rows.groupby("results")["arm"].transform("size")
    ordered = rows.assign(wide=wide).sort_values(["n", "wide"], ascending=False, kind="stable")
    return rows.loc[sorted(ordered.drop_duplicates(same).index)]


def regime_figure(rows: pd.DataFrame):
    """Each arm minus a random half at equal steps: one panel a task, a colour and marker a regime
    (`most_seeds`)."""
    import matplotlib.pyplot as plt

    from ..report import figures  # noqa: F401 (sets the theme)

    shown = most_seeds(rows[(rows["minus"] == "random") & (rows["equal"] == "steps")])
    tasks, kinds = (list(dict.fromkeys(shown[name])) for name in ("task", "regime"))
    shown = shown.assign(line=[_named(row.arm, row.how) for row in shown.itertuples()])
    order = {arm: place for place, arm in enumerate(dict.fromkeys(ARMS.values()))}
    placed = shown.assign(place=shown["arm"].map(order)).sort_values(["place", "line"])
    arms = list(dict.fromkeys(placed["line"]))[::-1]
    figure, axes = plt.subplots(
        1,
        len(tasks),
        figsize=(2.5 + 3.6 * len(tasks), 1.8 + 0.2 * len(arms) * max(2, len(kinds) // 2)),
        squeeze=False,
        layout="constrained",
        sharey=True,
    )
    handles = {}
    for axis, task in zip(axes[0], tasks, strict=True):
        for place, arm in enumerate(arms):
            part = shown[(shown["task"] == task) & (shown["line"] == arm)]
            for number, row in enumerate(part.itertuples()):
                kind = kinds.index(row.regime)
                aside = 0.75 * ((number + 0.5) / len(part) - 0.5)
                handles[row.regime] = axis.errorbar(
                    row.mean,
                    place - aside,
                    xerr=[[row.mean - row.low], [row.high - row.mean]],
                    fmt="osD^vP*X"[kind % 8],
                    ms=5,
                    capsize=2,
                    color=f"C{kind % 10}",
                )
            axis.axhline(place + 0.5, color="0.85", lw=0.8)
        axis.axvline(0, color="0.4", lw=1)
        axis.set_yticks(range(len(arms)), arms)
        axis.grid(visible=False, axis="y")
        axis.set(
            ylim=(-0.5, len(arms) - 0.5),
            title=TASKS[task].label,
            xlabel="metric minus that of as many drawn at random",
        )
        axis.xaxis.label.set_fontsize(10)
    order = [kind for kind in kinds if kind in handles]
    figure.legend(
        [handles[kind] for kind in order],
        order,
        loc="outside lower center",
        ncols=2,
        fontsize=9,
    )
    return figure


def _named(arm: str, how: str) -> str:
    """An arm's plain name, and how its scores were made."""
    return plain(arm) + (f", {how}" if how else "")


def answers(rows: pd.DataFrame) -> list[str]:
    """In how many regimes each arm does better or worse than another, by its intervals, for equal
    steps; those of an earlier search are left out."""
    told, rows = [], most_seeds(rows[~rows["regime"].str.startswith(EARLIER)])
    for minus in ("random", "full"):
        part = rows[(rows["minus"] == minus) & (rows["equal"] == "steps")]
        for (arm, how), own in part[part["arm"] != minus].groupby(["arm", "how"], sort=False):
            counts = own["decided"].value_counts()
            ends = f"{own['mean'].min():+.3f} to {own['mean'].max():+.3f}"
            better, worse, undecided = (
                counts.get(name, 0) for name in ("better", "worse", "not decided")
            )
            told.append(
                f"*{_named(arm, how)}* minus *{plain(minus)}*: better in {better}, worse in "
                f"{worse} and not decided in {undecided} of {len(own)} comparisons ({ends})"
            )
    return told


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Write `results/regimes`."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    from ..report.book import drawn
    from ..report.names import LEGEND_OF_NAMES
    from ..report.render import listed
    from ..report.verdicts import folded
    from ..report.wording import shown

    rows = regimes(OUTPUT / "results")
    folder = OUTPUT / "results" / "regimes"
    write_file(folder / "regimes.csv", rows.to_csv(index=False))
    read = shown(rows)
    for column in ("mean", "low", "high"):
        read[column] = rows[column].map(lambda value: f"{value:+.3f}")
    for suffix, content in drawn(regime_figure(rows), "regimes").items():
        write_file(folder / f"regimes.{suffix}", content)
    text = [
        "# Where does selection by influence pay?",
        "",
        "Written by `python -m dits_lib.commands.regimes` from the tables of the other folders "
        "here; nothing is typed in. Every difference is paired by seed, with a",
        "95 % interval over seeds; a regime is a model and data set (if not the micro world), "
        "the share and kind of planted harm, and the strength of DPO. With so many intervals one "
        "in twenty lies off zero by chance.",
        "",
        "## What was found",
        "",
        "For equal steps, a comparison for each task and regime (of several profiles with the same "
        "one, that with the most seeds, or the most comparisons); what comes from an *earlier "
        "search*, whose selection of nodes was not yet the paper's, is shown below and not counted "
        "here. *Sound alone*, where "
        "harm is planted, keeps the pairs of questions that were not harmed.",
        "",
        listed(answers(rows)),
        "",
        "![Each arm minus as many pairs drawn at random, by regime](regimes.png)",
        "",
        folded("The names of what is compared", LEGEND_OF_NAMES),
        "",
    ]
    for minus, part in read.groupby("minus", sort=False):
        table = markdown_table(part[part["arm"] != minus].drop(columns="minus"))
        text += [folded(f"All comparisons with {minus}", table), ""]
    write_file(folder / "README.md", "\n".join(text))
    print(f"read {folder / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
