"""The figures of the notebooks. Each takes plain numbers and returns a matplotlib figure; axes
carry names and units."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..agents import TASKS
from ..influence.registry import ESTIMATORS
from .names import plain

sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")


def _panels(count: int, width: float = 5.4, height: float = 3.9):
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), squeeze=False, layout="constrained"
    )
    return figure, axes[0]


FAMILY = sns.color_palette("colorblind")


def family_colours(families: dict[str, list[str]]) -> dict[tuple[str, str], tuple]:
    """{(task, family): colour}: the same in every figure with these tasks.

    Args:
        families: {task: its question families, in any order and number}.
    """
    pairs = [(task, family) for task, own in families.items() for family in sorted(set(own))]
    return {pair: FAMILY[number % len(FAMILY)] for number, pair in enumerate(pairs)}


def families_figure(rows: pd.DataFrame) -> plt.Figure:
    """Q of the root by question family, a point a question; columns task, family, Q."""
    tasks = list(dict.fromkeys(rows["task"]))
    colours = family_colours({t: list(rows["family"][rows["task"] == t]) for t in tasks})
    figure, axes = _panels(len(tasks), height=3.4)
    for axis, task in zip(axes, tasks, strict=True):
        part, rng = rows[rows["task"] == task], np.random.default_rng(0)
        names = list(dict.fromkeys(part["family"]))[::-1]
        for place, name in enumerate(names):
            q = part["Q"][part["family"] == name]
            beside = place + rng.uniform(-0.15, 0.15, len(q))
            axis.plot(q, beside, "o", ms=5, alpha=0.6, color=colours[task, name])
            axis.plot([q.mean()] * 2, [place - 0.3, place + 0.3], color="0.2", lw=2)
        axis.set_yticks(range(len(names)), names)
        axis.set(
            title=TASKS[task].label,
            xlabel="Q of the root (mean reward of the question)",
            xlim=(-0.03, 1.03),
        )
    return figure


def scatter_figure(jobs: list[dict]) -> plt.Figure:
    """Influence against Q-value, one panel a task, a colour a family. Equal Q-values are spread
    sideways; black: mean and 95 % interval of the pairs of one range of Q."""
    figure, axes = _panels(len(jobs))
    colours = family_colours({job["task"]: job["family"] for job in jobs})
    for axis, job in zip(axes, jobs, strict=True):
        table, q = np.array(job["influence"]), np.array(job["q"])
        value, error = table.mean(axis=1), table.std(axis=1, ddof=1) / np.sqrt(table.shape[1])
        families, rng = np.array(job["family"]), np.random.default_rng(0)
        beside = q + rng.uniform(-0.012, 0.012, len(q))
        for family in sorted(set(job["family"])):
            rows, colour = families == family, colours[job["task"], family]
            axis.plot(beside[rows], value[rows], "o", ms=4, alpha=0.55, color=colour, label=family)
        _means_by_q(axis, q, value)
        axis.axhline(0, color="0.4", lw=1)
        axis.set(
            title=f"{TASKS[job['task']].label}; standard error of a pair: {np.median(error):.2g}",
            xlabel="Q-value of the chosen reply",
            ylabel=f"influence, V = {table.shape[1]}",
        )
        axis.title.set_fontsize(11)
        axis.legend(
            fontsize=8, title="family", title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
        )
    return figure


def _means_by_q(axis: plt.Axes, q: np.ndarray, value: np.ndarray) -> None:
    """Means with 95 % intervals over the pairs whose Q is 1, and over those of four ranges below,
    where there are five at least."""
    edges = [0.0, 0.4, 0.6, 0.8, 1.0, np.inf]
    for low, high in itertools.pairwise(edges):
        own = value[(q >= low) & (q < high)]
        if len(own) < 5:
            continue
        half = 1.96 * own.std(ddof=1) / np.sqrt(len(own))
        place = q[(q >= low) & (q < high)].mean()
        place += 0.03 if low == 1.0 else 0.0
        axis.errorbar(place, own.mean(), yerr=half, fmt="s", ms=5, color="black", capsize=4)


def distribution_figure(jobs: list[dict], count: int) -> plt.Figure:
    """Share of the pairs up to each influence (the empirical distribution function), at the paper's
    V and at all validation questions."""
    figure, axes = _panels(len(jobs))
    for axis, job in zip(axes, jobs, strict=True):
        table = np.array(job["influence"])
        for v, color in ((count, "C1"), (table.shape[1], "C0")):
            sns.ecdfplot(table[:, :v].mean(axis=1), ax=axis, color=color, label=f"V = {v}")
        axis.axvline(0, color="0.3", lw=1)
        axis.set(
            title=TASKS[job["task"]].label,
            xlabel="influence (change of the metric)",
            ylabel="share of the pairs",
        )
        axis.legend(loc="upper left")
    return figure


def response_figure(jobs: list[dict], target: float) -> plt.Figure:
    """Share of dialogues that a step changes, and the mean change of the metric, by step size; the
    line across is the share that is aimed at, the one upright the choice."""
    figure, axes = _panels(len(jobs))
    for axis, job in zip(axes, jobs, strict=True):
        rows = pd.DataFrame(job["response"])
        axis.plot(rows["step_size"], rows["changed"], "o-", label="share of dialogues changed")
        axis.plot(rows["step_size"], rows["mean_change"], "s--", label="mean change of the metric")
        axis.axhline(target, color="C0", lw=1, ls=":", label=f"aimed at: {target:g} changed")
        axis.axvline(job["step_size"], color="0.4", lw=1, ls="-.", label="chosen")
        axis.axhline(0, color="0.4", lw=0.8)
        axis.set(
            xscale="log",
            title=TASKS[job["task"]].label,
            xlabel="step size",
            ylabel="share, or change of the metric",
        )
        axis.margins(y=0.08)
        axis.legend(fontsize=8, loc="best")
    return figure


def reliability_figure(rows: pd.DataFrame) -> plt.Figure:
    """Test-retest rank correlation of one-step scores against V, with 95 % bootstrap intervals."""
    figure, axes = _panels(1, width=6.2)
    tasks = list(dict.fromkeys(rows["task"]))
    for number, task in enumerate(tasks):
        part = rows[rows["task"] == task]
        error = [part["rho"] - part["low"], part["high"] - part["rho"]]
        # So that the bars of two tasks can be told apart.
        aside = 1.05 ** (number - (len(tasks) - 1) / 2)
        axes[0].errorbar(
            part["V"] * aside,
            part["rho"],
            yerr=error,
            marker="os^D"[number % 4],
            capsize=3,
            label=TASKS[task].label,
        )
    axes[0].axhline(0, color="0.4", lw=1)
    axes[0].set(
        xscale="log",
        xlabel="validation questions V, in each of two disjoint sets",
        ylabel="rank correlation of two scorings",
        ylim=(min(-0.5, rows["low"].min() - 0.05), 1),
    )
    axes[0].set_xticks(sorted(rows["V"].unique()), sorted(rows["V"].unique()))
    axes[0].minorticks_off()
    axes[0].legend()
    return figure


def forest_figure(
    rows: pd.DataFrame, reference: str, seeds: pd.DataFrame | None = None
) -> plt.Figure:
    """Paired differences from a reference arm with 95 % intervals, one panel a task.

    Args:
        rows: columns task, arm, mean, low, high.
        seeds: columns task, arm, difference (`seed_differences`): a faint dot each.
    """
    tasks, arms = list(dict.fromkeys(rows["task"])), list(dict.fromkeys(rows["arm"]))[::-1]
    figure, axes = plt.subplots(
        1,
        len(tasks),
        figsize=(2.6 + 4.0 * len(tasks), 1.4 + 0.4 * len(arms)),
        squeeze=False,
        layout="constrained",
        sharey=True,
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        part = rows[rows["task"] == task]
        for _, row in part.iterrows():
            place = arms.index(row["arm"])
            if seeds is not None:
                own = seeds[(seeds["task"] == task) & (seeds["arm"] == row["arm"])]["difference"]
                spread = place + 0.22 * np.linspace(-1, 1, len(own)) if len(own) > 1 else place
                axis.plot(own, spread, "o", ms=3.5, alpha=0.35, color="C0", mew=0)
            error = np.array([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
            axis.errorbar(
                row["mean"],
                place,
                xerr=error,
                fmt="o",
                ms=6,
                capsize=3,
                lw=2,
                color="C0",
                mec="white",
            )
        axis.axvline(0, color="0.4", lw=1)
        axis.xaxis.set_major_locator(MaxNLocator(5))  # else long numbers run into each other
        axis.set_yticks(range(len(arms)), [plain(arm) for arm in arms])
        axis.set_ylim(-0.6, len(arms) - 0.4)
        axis.set(title=TASKS[task].label, xlabel=f"metric minus that of '{plain(reference)}'")
    return figure


MOST_NOTED = 4
"""Lines whose points have a text beside them, at most."""


def lines_figure(
    rows: pd.DataFrame,
    x: str,
    y: str,
    hue: str,
    xlabel: str,
    ylabel: str,
    seeds: pd.DataFrame | None = None,
    note: str | None = None,
) -> plt.Figure:
    """Lines with 95 % intervals, one panel a task.

    Args:
        rows: columns task, `x`, `hue`, mean, low, high.
        seeds: columns task, `x`, `hue`, `y`: a faint dot each.
        note: a column of `rows` whose text stands at the points, or with many lines, whose texts
            would lie over each other, in the legend.
    """
    tasks = list(dict.fromkeys(rows["task"]))
    figure, axes = _panels(len(tasks))
    counted = (rows[x] == rows[x].round()).all()
    names = list(dict.fromkeys(rows[hue]))
    labels = {name: plain(name) for name in names}
    if note and len(names) > MOST_NOTED:
        for name in names:
            texts = dict.fromkeys(rows[rows[hue] == name][note])
            labels[name] += f" ({'; '.join(texts)})"
    for axis, task in zip(axes, tasks, strict=True):
        own = rows[rows["task"] == task]
        for index, name in enumerate(names):
            part = own[own[hue] == name]
            if not len(part):
                continue
            # So that the bars of two lines can be told apart.
            aside = 0.08 * (index - (len(names) - 1) / 2) if counted else 0.0
            look = {"color": f"C{index}", "marker": "os^DvP*X"[index % 8]}
            if seeds is not None:
                dots = seeds[(seeds["task"] == task) & (seeds[hue] == name)]
                axis.plot(
                    dots[x] + aside + (0.03 if counted else 0),
                    dots[y],
                    ls="",
                    ms=4,
                    alpha=0.25,
                    mew=0,
                    **look,
                )
            error = np.array([part["mean"] - part["low"], part["high"] - part["mean"]])
            axis.errorbar(
                part[x] + aside, part["mean"], yerr=error, capsize=3, label=labels[name], **look
            )
            for _, row in part.iterrows() if note and len(names) <= MOST_NOTED else ():
                axis.annotate(
                    row[note],
                    (row[x], row["mean"]),
                    xytext=(4, 5),
                    textcoords="offset points",
                    fontsize=8,
                    color=look["color"],
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.3},
                )
        axis.set(title=TASKS[task].label, xlabel=xlabel, ylabel=ylabel or y)
        if counted:
            axis.set_xticks(sorted(rows[x].unique()))
        if 1 < len(names) <= 3:
            axis.legend(fontsize=8)
    if len(names) > 3:  # too many to stand among the lines
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside center right", fontsize=9)
    return figure


def loss_figure(rows: pd.DataFrame) -> plt.Figure:
    """A point for each trained model, a colour for each seed, one panel a task; columns task, seed,
    validation_loss, metric. Above eight seeds, which no legend can tell apart, each has a line
    through its points instead (least squares)."""
    tasks = list(dict.fromkeys(rows["task"]))
    figure, axes = _panels(max(1, len(tasks)))
    many = rows["seed"].nunique() > 8
    colours = sns.color_palette("husl", max(1, rows["seed"].nunique())) if many else None
    for axis, task in zip(axes, tasks, strict=False):
        for index, (seed, part) in enumerate(rows[rows["task"] == task].groupby("seed")):
            x, y = part["validation_loss"], part["metric"]
            own = {} if colours is None else {"color": colours[index]}
            axis.scatter(x, y, s=22, label=f"seed {seed}", **own)
            if many and np.ptp(x) > 0:
                ends = np.array([x.min(), x.max()])
                axis.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), lw=0.8, **own)
        axis.set(
            title=TASKS[task].label, xlabel="DPO loss on validation pairs", ylabel="test metric"
        )
        if not many:
            axis.legend(fontsize=7)
    return figure


def estimator_looks() -> dict[str, dict[str, str]]:
    """{estimator: colour and marker}, the same in every figure; no two alike."""
    return {
        name: {"color": f"C{number % 10}", "marker": "osD^vP*X"[(number + number // 10) % 8]}
        for number, name in enumerate(ESTIMATORS)
    }


def reliability_cost_figure(rows: pd.DataFrame) -> plt.Figure:
    """Test-retest rank correlation against cost, a line an estimator, one panel a task and unit;
    columns as `fidelity_rows` of `suite/studies/influence_fidelity.py`."""
    panels = list(dict.fromkeys(zip(rows["task"], rows["unit"], strict=False)))
    lines = max(1, rows["task"].nunique())
    columns = -(-len(panels) // lines)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(4.6 * columns + 1.3, 4.0 * lines),
        squeeze=False,
        layout="constrained",
    )
    axes, looks = grid.ravel(), estimator_looks()
    for axis, (task, unit) in zip(axes, panels, strict=True):
        shown = rows[(rows["task"] == task) & (rows["unit"] == unit)]
        for name, part in shown.groupby("estimator", sort=False):
            error = np.clip([part["mean"] - part["low"], part["high"] - part["mean"]], 0, None)
            axis.errorbar(
                part["seconds"],
                part["mean"],
                yerr=error,
                capsize=0,
                lw=1.4,
                elinewidth=0.6,
                ms=6,
                label=plain(name),
                **looks[name],
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.axhline(0, color="0.6", lw=0.8)
        whole = {
            "pair": "pairs alone",
            "question": "a question's pairs together",
            "question, centred": "a question's pairs together, centred",
        }[unit]
        axis.set(
            title=f"{TASKS[task].label}\n{whole}",
            xlabel="seconds of one scoring",
            ylabel="test-retest rank correlation",
            ylim=(-0.35, 1),
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside center right", fontsize=9)
    return figure


def sensitivity_figure(rows: pd.DataFrame) -> plt.Figure:
    """Paired difference from a random half, with 95 % intervals, one panel a task and setting;
    columns task, setting, value, mean, low, high."""
    tasks, settings = list(dict.fromkeys(rows["task"])), list(dict.fromkeys(rows["setting"]))
    figure, grid = plt.subplots(
        len(tasks),
        len(settings),
        figsize=(2.9 * len(settings), 3.2 * len(tasks)),
        squeeze=False,
        layout="constrained",
        sharey="row",
    )
    for line, task in zip(grid, tasks, strict=True):
        for axis, setting in zip(line, settings, strict=True):
            part = rows[(rows["task"] == task) & (rows["setting"] == setting)]
            places = range(len(part))
            axis.errorbar(
                places,
                part["mean"],
                yerr=[part["mean"] - part["low"], part["high"] - part["mean"]],
                fmt="o-",
                capsize=3,
            )
            axis.set_xticks(places, [f"{value:g}" for value in part["value"]])
            axis.axhline(0, color="0.4", lw=1)
            axis.set(xlabel=plain(setting), xlim=(-0.5, len(part) - 0.5))
        line[0].set_ylabel(f"{TASKS[task].label}\nminus a random half")
    return figure
