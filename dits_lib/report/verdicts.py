"""Verdicts as pages show them: one table over all claims, and one for each claim, made from what
the notebooks' indexes hold. All intervals of one claim on one page hold together at 95 %, whichever
notebook or profile they come from, so they are made here and not there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..agents import TASKS
from .claims import CLAIMS, Comparison, by_task, together
from .index import Claim, Index
from .markdown import markdown_table
from .names import plain
from .stats import joint_level

POWER = 0.8
"""At which detectable effects and needed seeds are told."""
LEGEND = (
    "A comparison is *supported* where its interval lies within what is claimed of it, "
    "*contradicted* where the interval lies wholly beyond a bound, else *not decided at this "
    "size*; a task, and all tasks together, are contradicted where one comparison is, and "
    "supported where all are. The intervals of one claim in these tables hold together at 95 % "
    "(Bonferroni). *Detectable*: how far from its bound a true effect must lie to be decided in "
    "80 % of such runs (beyond the upper one, where it is claimed to lie between two). "
    "*n*: seeds; of rank correlations over pairs the questions, over halves the trained models. "
    "*n needed*: with how many the effect, were it truly as estimated, would be decided in 80 % of "
    "the runs, all else as it is (of a mean over folders: so many in all, in today's shares). "
    "Noise shrinks a correlation: a small one counts as small only "
    "where a larger one would have shown."
)


@dataclass(frozen=True)
class Evidence:
    """One comparison and where it comes from."""

    results: str
    """Folder of the results; as on the page, such as `micro`."""
    notebook: str
    comparison: Comparison
    pooled: bool = False
    """Whether it is a mean over several (`pooling`)."""


def evidence_of(indexes: dict[str, Sequence[Index]]) -> dict[str, list[Evidence]]:
    """{claim: evidence} in the order of the claims, from {results folder: indexes}; claims without
    any are left out."""
    found: dict[str, list[Evidence]] = {number: [] for number in CLAIMS}
    for results, own in indexes.items():
        for index in own:
            for claim in index.claims:
                if isinstance(claim, Claim):
                    found[claim.number] += [
                        Evidence(results, index.notebook, stored.comparison())
                        for stored in claim.comparisons
                    ]
    return {number: rows for number, rows in found.items() if rows}


def notes_of(indexes: dict[str, Sequence[Index]]) -> dict[str, list[str]]:
    """{claim: notes}, each once, after the notebooks that have it. A note without comparisons says
    why there are none: it is left out where other notebooks have some."""
    known, notes = evidence_of(indexes), {}
    for index in (index for own in indexes.values() for index in own):
        for claim in index.claims:
            if not isinstance(claim, Claim) or not claim.note:
                continue
            if claim.comparisons or claim.number not in known:
                sources = notes.setdefault(claim.number, {}).setdefault(claim.note, {})
                sources[index.notebook] = None
    return {
        number: [f"{', '.join(sources)}: {note.rstrip('.')}." for note, sources in own.items()]
        for number, own in notes.items()
    }


def level_of(evidence: Sequence[Evidence]) -> float:
    """Level of each interval, so that all of a claim's hold together at 95 %."""
    return joint_level(max(1, len(evidence)))


def summary_table(
    found: dict[str, list[Evidence]], by_folder: dict[str, list[Evidence]] | None = None
) -> str:
    """One row a claim: the verdict over all, that of each task, and the range of what its
    comparisons could have shown.

    Args:
        by_folder: the evidence of single results folders, where `found` is a mean over them: one
            row more for each folder, judged by its own intervals alone.
    """
    rows = []
    for number, evidence in found.items():
        title = f"{number}. {CLAIMS[number]}"
        folders = dict.fromkeys(e.results for e in (by_folder or {}).get(number, ()))
        only = next(iter(folders)) if len(folders) == 1 else ""
        rows.append(_summary(title, only or "all together", evidence))
        for folder in folders if not only else ():
            own = [e for e in by_folder[number] if e.results == folder]
            rows.append(_summary(number, folder, own))
    table = pd.DataFrame(rows)
    return markdown_table(table if by_folder else table.drop(columns="results"))


def _summary(claim: str, results: str, evidence: Sequence[Evidence]) -> dict:
    own, level = [e.comparison for e in evidence], level_of(evidence)
    tasks = by_task(own, level)
    return {
        "claim": claim,
        "results": results,
        "over all": f"**{together(tasks.values())}**",
        **{task.replace("_", " "): tasks.get(task, "") for task in TASKS},
        "smallest detectable effect": detectable_range(own, level),
    }


def claim_tables(
    found: dict[str, list[Evidence]],
    notes: dict[str, list[str]],
    by_folder: dict[str, list[Evidence]] | None = None,
) -> list[str]:
    """For each claim what opens when it is clicked: its comparisons with their joint intervals,
    and its notes.

    Args:
        by_folder: as for `summary_table`; a second table with intervals that hold together within
            each folder.
    """
    parts = []
    for number in (number for number in CLAIMS if number in found or number in notes):
        own, evidence = [], found.get(number, [])
        if evidence:
            level = level_of(evidence)
            rows = [_row(e, level, by_folder is not None) for e in evidence]
            own.append(markdown_table(pd.DataFrame(rows)))
            if len(evidence) > 1:
                each = f"Each interval is one of {_percent(level)}"
                own.append(f"{each}; the {len(evidence)} hold together at 95 %.")
        if by_folder and len(by_folder.get(number, ())) > len(evidence):
            own += ["By folder, where the intervals of each folder hold together:"]
            own += [_of_folders(by_folder[number])]
        own += notes.get(number, [])
        parts.append(folded(f"Claim {number}: {CLAIMS[number]}", "\n\n".join(own)))
    return parts


def _of_folders(evidence: Sequence[Evidence]) -> str:
    """The comparisons of single folders, each at the level of its folder."""
    levels = {
        folder: level_of([e for e in evidence if e.results == folder])
        for folder in dict.fromkeys(e.results for e in evidence)
    }
    return markdown_table(pd.DataFrame([_row(e, levels[e.results], True) for e in evidence]))


def folded(summary: str, text: str) -> str:
    """A text that a page shows once its summary is clicked."""
    return f"<details><summary><b>{summary}</b></summary>\n\n{text}\n\n</details>"


def _row(evidence: Evidence, level: float, by_results: bool) -> dict[str, str]:
    found = evidence.comparison
    bounds = found.interval(level)
    barred = found.barred(level)
    page = f"{evidence.results}/README.md" if by_results else ""
    return {
        **({"results": evidence.results} if by_results else {}),
        "notebook": evidence.notebook
        if evidence.pooled
        else f"[{evidence.notebook}]({page}#{evidence.notebook})",
        "task": found.task.replace("_", " "),
        "comparison": plain(found.name),
        "claimed": found.claimed(),
        "estimate": _signed(found.estimate),
        "joint interval": f"[{_signed(bounds['low'])}, {_signed(bounds['high'])}]"
        if found.has_value
        else "",
        "detectable at 80 %": _plain(found.detectable(POWER, level)),
        "n": str(found.count or ""),
        "n needed": _count(found.count_needed(POWER, level)),
        "verdict": found.verdict(level) + (f" ({barred})" if barred else ""),
    }


def detectable_range(comparisons: Sequence[Comparison], level: float) -> str:
    """From the best to the worst comparison, apart for each scale."""
    texts = []
    for scale, name in (("linear", ""), ("correlation", "rank correlation: ")):
        own = [c.detectable(POWER, level) for c in comparisons if c.scale == scale]
        own = sorted(x for x in own if not math.isnan(x))
        if own:
            ends = dict.fromkeys(_plain(x) for x in (own[0], own[-1]))
            texts.append(name + " to ".join(ends))
    return "; ".join(texts)


def _percent(level: float) -> str:
    return f"{100 * level:.2f} %".replace(".00 ", " ")


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.3f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _count(value: float) -> str:
    if math.isnan(value):
        return ""
    return "no number" if math.isinf(value) else f"{value:.0f}"
