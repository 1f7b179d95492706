"""The figures of the notebooks. Each takes plain numbers and returns a matplotlib figure; axes
carry names and units."""

from __future__ import annotations

import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..agents import TASKS
from ..search import Tree

sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
_LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
COLUMN = 29
"""Characters of a line in a tree whose replies call tools."""


def _panels(count: int, width: float = 5.4, height: float = 3.9):
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), squeeze=False, layout="constrained"
    )
    return figure, axes[0]


def tree_figure(
    tree: Tree, max_chars: int = 34, influence: dict[int, float] | None = None
) -> plt.Figure:
    """A search tree, root on the left: colour is Q, size is visits; a text is the reply, below it
    what a tool answered.

    Args:
        influence: of the pair of the replies to a state, by the state's node; drawn as I on that
            node.
    """
    tool_answers = {
        node.parent: node.turn
        for node in tree.nodes
        if node.turn is not None and not node.turn.trainable
    }
    replies = [i for i, node in enumerate(tree.nodes) if node.turn is None or node.turn.trainable]
    origin = {i: _parent_reply(tree, i) for i in replies}
    places = _places(origin)
    level = {i: tree.level(i) for i in replies}
    depth = max(level.values())
    height = max(3.0, (1.05 if tool_answers else 0.34) * (1 + max(places.values())))
    figure, axis = plt.subplots(
        figsize=((2.0 if tool_answers else 3.4) * (depth + 1), height), layout="constrained"
    )
    for index in replies[1:]:
        axis.plot(
            [level[origin[index]], level[index]],
            [places[origin[index]], places[index]],
            color="0.75",
            lw=1,
            zorder=1,
        )
    drawn = [tree.nodes[i] for i in replies]
    dots = axis.scatter(
        [level[i] for i in replies],
        [places[i] for i in replies],
        c=[n.q for n in drawn],
        s=[_dot(n.visits) for n in drawn],
        cmap="viridis",
        vmin=0,
        vmax=1,
        edgecolors="black",
        linewidths=0.5,
        zorder=2,
    )
    for index, node in zip(replies, drawn, strict=True):
        text = (
            "start"
            if node.turn is None
            else f"{node.turn.agent}: {_short(node.turn.text, max_chars)}"
        )
        if tool_answers:  # many short columns: the label stands below its node, wrapped
            answer = (
                _short(" ".join(tool_answers[index].text.split()), 3 * COLUMN - 20)
                if index in tool_answers
                else ""
            )
            text = "\n".join(
                [
                    *textwrap.wrap(text, COLUMN),
                    *textwrap.wrap(answer, COLUMN, initial_indent="   ", subsequent_indent="   "),
                ]
            )
        state = _state(tree, index)
        if influence and state in influence:
            text += f"\n   I = {influence[state]:+.3f}"
        radius = _dot(node.visits) ** 0.5 / 2
        place = (
            {"xytext": (-4, -radius - 3), "va": "top"}
            if tool_answers
            else {"xytext": (radius + 3, 3)}
        )
        axis.annotate(
            text,
            (level[index], places[index]),
            textcoords="offset points",
            fontsize=7.5,
            zorder=3,
            bbox=_LABEL,
            **place,
        )
    axis.set(
        xlabel="reply",
        yticks=[],
        xticks=range(depth + 1),
        xlim=(-0.25, depth + (1.05 if tool_answers else 0.95)),
    )
    axis.set_ylim(
        max(places.values()) + (0.85 if tool_answers else 0.5), -0.4 if tool_answers else -0.8
    )
    axis.grid(False)
    figure.colorbar(dots, ax=axis, label="Q (mean backed-up reward)", shrink=min(1.0, 3.0 / height))
    return figure


def _dot(visits: int) -> float:
    """Area of a node's dot, in square points."""
    return 30 + 12 * min(visits, 40)


def _parent_reply(tree: Tree, node: int) -> int | None:
    """The nearest node above that is a reply or the root."""
    above = tree.nodes[node].parent
    while (
        above is not None
        and tree.nodes[above].turn is not None
        and not tree.nodes[above].turn.trainable
    ):
        above = tree.nodes[above].parent
    return above


def _state(tree: Tree, node: int) -> int:
    """The node of the state that is replied to after this one: itself, or what the last tool
    said."""
    while any(not tree.nodes[child].turn.trainable for child in tree.nodes[node].children):
        node = next(
            child for child in tree.nodes[node].children if not tree.nodes[child].turn.trainable
        )
    return node


def _places(origin: dict[int, int | None]) -> dict[int, float]:
    """Vertical places: leaves one below the other, the others at the mean of their children's."""
    children: dict[int, list[int]] = {}
    for node, above in origin.items():
        children.setdefault(above, []).append(node)
    places: dict[int, float] = {}
    leaves = iter(range(len(origin)))

    def place(node: int) -> float:
        below = [place(child) for child in children.get(node, [])]
        places[node] = float(np.mean(below)) if below else float(next(leaves))
        return places[node]

    place(0)
    return places


def _short(text: str, length: int) -> str:
    """A text of one call without its tags, cut to a length."""
    text = re.sub(r"<call (\w+)>\s*(.*?)\s*</call>", r"\1: \2", text)
    return text if len(text) <= length else text[: length - 1] + "…"


def scatter_figure(jobs: list[dict]) -> plt.Figure:
    """Influence against Q-value, one panel a task; a cross is the standard error of the
    influence."""
    figure, axes = _panels(len(jobs))
    for axis, job in zip(axes, jobs, strict=True):
        table = np.array(job["influence"])
        value, error = table.mean(axis=1), table.std(axis=1, ddof=1) / np.sqrt(table.shape[1])
        families = np.array(job["family"])
        for family in dict.fromkeys(job["family"]):
            rows = families == family
            axis.errorbar(
                np.array(job["q"])[rows],
                value[rows],
                yerr=error[rows],
                fmt="o",
                ms=4,
                lw=0.5,
                alpha=0.7,
                label=family,
            )
        axis.axhline(0, color="0.4", lw=1)
        axis.set(
            title=TASKS[job["task"]].label,
            xlabel="Q-value of the chosen reply",
            ylabel=f"influence, V = {table.shape[1]}",
        )
        axis.legend(
            fontsize=8, title="family", title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
        )
    return figure


def distribution_figure(jobs: list[dict], count: int) -> plt.Figure:
    """Histogram of the influence at the paper's V, and at all validation questions."""
    figure, axes = _panels(len(jobs))
    for axis, job in zip(axes, jobs, strict=True):
        table = np.array(job["influence"])
        for v, color in ((count, "C1"), (table.shape[1], "C0")):
            sns.histplot(
                table[:, :v].mean(axis=1),
                bins=31,
                ax=axis,
                color=color,
                alpha=0.5,
                label=f"V = {v}",
                element="step",
            )
        axis.axvline(0, color="0.3", lw=1)
        axis.set(
            title=TASKS[job["task"]].label,
            xlabel="influence (change of the metric)",
            ylabel="pairs",
        )
        axis.legend()
    return figure


def response_figure(jobs: list[dict]) -> plt.Figure:
    """Share of dialogues that a step changes, and the mean change of the metric, by step size; the
    line marks the choice."""
    figure, axes = _panels(len(jobs))
    for axis, job in zip(axes, jobs, strict=True):
        rows = pd.DataFrame(job["response"])
        axis.plot(rows["step_size"], rows["changed"], "o-", label="share of dialogues changed")
        axis.plot(rows["step_size"], rows["mean_change"], "s--", label="mean change of the metric")
        axis.axvline(job["step_size"], color="0.4", lw=1, ls=":")
        axis.axhline(0, color="0.4", lw=0.8)
        axis.set(
            xscale="log",
            title=TASKS[job["task"]].label,
            xlabel="step size",
            ylabel="share, or change",
            ylim=(-1, 1.05),
        )
        axis.legend(fontsize=8, loc="lower left")
    return figure


def reliability_figure(rows: pd.DataFrame) -> plt.Figure:
    """Test-retest rank correlation of one-step scores against V, with 95 % bootstrap intervals."""
    figure, axes = _panels(1, width=6.2)
    for task, part in rows.groupby("task", sort=False):
        error = [part["rho"] - part["low"], part["high"] - part["rho"]]
        axes[0].errorbar(
            part["V"], part["rho"], yerr=error, marker="o", capsize=3, label=TASKS[task].label
        )
    axes[0].axhline(0, color="0.4", lw=1)
    axes[0].set(
        xscale="log",
        xlabel="validation questions V, in each of two disjoint sets",
        ylabel="rank correlation",
        ylim=(-0.5, 1),
    )
    axes[0].set_xticks(sorted(rows["V"].unique()), sorted(rows["V"].unique()))
    axes[0].minorticks_off()
    axes[0].legend()
    return figure


def forest_figure(rows: pd.DataFrame, reference: str) -> plt.Figure:
    """Paired differences from a reference arm with 95 % intervals, one panel a task; columns task,
    arm, mean, low, high."""
    tasks = list(dict.fromkeys(rows["task"]))
    figure, axes = _panels(len(tasks), height=4.2)
    for axis, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task].iloc[::-1]
        error = [part["mean"] - part["low"], part["high"] - part["mean"]]
        axis.errorbar(part["mean"], part["arm"], xerr=error, fmt="o", capsize=3)
        axis.axvline(0, color="0.4", lw=1)
        axis.xaxis.set_major_locator(MaxNLocator(5))  # else long numbers run into each other
        axis.set(title=TASKS[task].label, xlabel=f"metric minus '{reference}' (95 % interval)")
    return figure


def lines_figure(
    rows: pd.DataFrame, x: str, y: str, hue: str, xlabel: str, ylabel: str
) -> plt.Figure:
    """Lines with 95 % intervals, one panel a task; columns task, `x`, `hue`, mean, low, high."""
    tasks = list(dict.fromkeys(rows["task"]))
    figure, axes = _panels(len(tasks))
    counted = (rows[x] == rows[x].round()).all()
    for axis, task in zip(axes, tasks, strict=True):
        groups = list(rows[rows["task"] == task].groupby(hue, sort=False))
        for index, (name, part) in enumerate(groups):
            error = [part["mean"] - part["low"], part["high"] - part["mean"]]
            # So that the bars of two lines can be told apart.
            aside = 0.06 * index if counted else 0.0
            axis.errorbar(
                part[x] + aside, part["mean"], yerr=error, marker="o", capsize=3, label=name
            )
        axis.set(title=TASKS[task].label, xlabel=xlabel, ylabel=ylabel or y)
        if counted:
            axis.set_xticks(sorted(rows[x].unique()))
        if 1 < len(groups) <= 3:
            axis.legend(fontsize=8)
    if len(groups) > 3:  # too many to stand among the lines
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
    axes = grid.ravel()
    for axis, (task, unit) in zip(axes, panels, strict=True):
        shown = rows[(rows["task"] == task) & (rows["unit"] == unit)]
        for name, part in shown.groupby("estimator", sort=False):
            error = np.clip([part["mean"] - part["low"], part["high"] - part["mean"]], 0, None)
            axis.errorbar(
                part["seconds"],
                part["mean"],
                yerr=error,
                marker="o",
                capsize=2,
                lw=1.2,
                ms=4,
                label=name,
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
            ylim=(-0.3, 1),
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
            axis.set(xlabel=setting, xlim=(-0.5, len(part) - 0.5))
        line[0].set_ylabel(f"{TASKS[task].label}\nminus a random half")
    return figure
