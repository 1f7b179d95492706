"""Put the evidence of all profiles together: one table for each claim of the paper.

    python -m dits_lib.commands.claims

Reads the index of every profile's folder of `results/` (those of changed parameters and of `smoke`,
whose sizes say nothing, are left out), and writes `results/README.md`. Nothing is trained or
sampled here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..report.index import Claim, Index, OldClaim
from ..settings import OUTPUT
from ..settings.files import write_changed
from ..suite.results import is_of_changes, world_of
from .running import command

if TYPE_CHECKING:
    from ..report.verdicts import Evidence

REHEARSAL = "smoke"
METHOD = (
    "model",
    "agents",
    "data",
    "world",
    "search",
    "pairs",
    "influence",
    "selection",
    "sft",
    "dpo",
)
"""Sections of the parameters that say by what, on what and how is trained and scored."""
SEEDS = {
    "03_selection_ablation": ("ablation", "seed", "seeds"),
    "04_budget_scaling": ("budget", "seed", "seeds"),
    "05_iterations": ("iterations", "seed", "seeds"),
    "06_influence_fidelity": ("fidelity", "first_use_seed", "use_seeds"),
    "07_sensitivity": ("sensitivity", "seed", "seeds"),
    "08_deep_search": ("web", "seed", "seeds"),
}
"""Where the parameters say which seeds a notebook runs: section, first seed (that of the profile
where the section has none), how many; other notebooks run the profile's."""
OF_ONE_SEED = "(LDS)"
"""How comparisons of notebook 06 end whose runs are the profile's first seed's."""
HOW_MANY = ("seeds", "dpo_seeds", "use_seeds", "first_use_seed", "questions", "sizes")
"""Keys of those sections that say how often, and on how many questions, a study is run."""


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Write `results/README.md`."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    folder = OUTPUT / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write_changed(folder / "README.md", claims_page(folder))
    print(f"read {folder / 'README.md'}")
    return 0


def claims_page(results: Path) -> str:
    """The page's text, from a folder with one folder for each profile.

    Raises:
        FileError: when an index is damaged.
    """
    from ..report.findings import findings
    from ..report.names import LEGEND_OF_NAMES
    from ..report.pooling import pooled
    from ..report.render import indexes_of, listed
    from ..report.verdicts import (
        LEGEND,
        claim_tables,
        evidence_of,
        folded,
        notes_of,
        summary_table,
    )

    indexes = {
        folder.name: own
        for folder in sorted(path.parent for path in results.glob("*/params.yaml"))
        if folder.name != REHEARSAL and not is_of_changes(folder) and (own := indexes_of(folder))
    }
    made = Made({name: _raw(results / name / "params.yaml") for name in indexes})
    everything = evidence_of(indexes)
    single, notes = strongest(everything, made.method), notes_of(indexes)
    found = pooled(single, made.world, made.share_seeds)
    parts = [
        "# The paper's claims, over all results",
        "Written by `python -m dits_lib.commands.claims` from the folders here; do not edit. "
        "Each folder's own README judges its claims by its own comparisons. Here the same "
        "comparison of several folders with one base model and the same questions' source is "
        "judged once, by its mean over their seeds, each seed counting alike; the folders' own "
        "verdicts stand beside it. Folders differ in planted harm, in training and in settings: "
        "the mean is that over the conditions that were run, and a claim may hold in one and fail "
        "in another. Of folders that share seeds the one with the most speaks in the mean. Where "
        "folders differ in no setting and hold the same comparison, the one with the most seeds "
        "stands for all, whatever it found.",
    ]
    told = findings(found, by_results=True)
    if told:
        parts += ["## What was found", listed(told), "## The claims"]
    if found or notes:
        parts += [summary_table(found, single)] if found else []
        parts += claim_tables(found, notes, single)
        parts += [folded("How to read these tables", LEGEND)] if found else []
        parts += [folded("The names of what is compared", LEGEND_OF_NAMES)]
    speaking = _folders(single)
    left = [name for name in _folders(everything) if name not in speaking]
    if left:
        parts.append(
            f"All of whose comparisons another folder holds with more seeds: {_links(left)}."
        )
    old = [name for name, own in indexes.items() if _has(own, OldClaim)]
    if old:
        parts.append(
            f"Made by an earlier version, whose claims keep no errors and so have no verdict here: "
            f"{_links(old)}."
        )
    silent = [n for n, own in indexes.items() if not _has(own, Claim) and not _has(own, OldClaim)]
    if silent:
        parts.append(f"Without evidence on a claim: {_links(silent)}.")
    return "\n\n".join(parts) + "\n"


def _raw(file: Path) -> dict:
    """The parameters in a file as they stand there; an older version's may lack keys."""
    from ..settings.reading import read_yaml

    raw = read_yaml(file)
    return raw if isinstance(raw, dict) else {}


class Made:
    """By what, on what and with which seeds evidence was made.

    Args:
        params: {results folder: its parameters, as they stand in its file}.
    """

    def __init__(self, params: dict[str, dict]):
        self.params = params

    def method(self, evidence: Evidence) -> str:
        """The sections of the parameters that decide what is compared, as text: not how often, or
        on how many questions."""
        given = self.params[evidence.results]
        studied = given.get(SEEDS.get(evidence.notebook, ("",))[0]) or {}
        own = {name: value for name, value in studied.items() if name not in HOW_MANY}
        sections = [_without_none(given.get(section)) for section in METHOD]
        return json.dumps([*sections, _without_none(own)], sort_keys=True)

    def world(self, evidence: Evidence) -> str:
        """Base model and source of the questions, in words; empty for the micro world."""
        given, task = self.params[evidence.results], evidence.comparison.task
        site = (given.get("web") or {}).get("site") if task == "deep_search" else None
        return ", ".join([*world_of(given, task), *([site] if site not in (None, "micro") else [])])

    def share_seeds(self, a: Evidence, b: Evidence) -> bool:
        """Whether two pieces of evidence of one world rest on the same seeds, so that neither
        questions nor dialogues of their runs are independent."""
        return self.world(a) == self.world(b) and bool(self._seeds(a) & self._seeds(b))

    def _seeds(self, evidence: Evidence) -> set[int]:
        given = self.params[evidence.results]
        start = given.get("seed", 0)
        if evidence.comparison.name.endswith(OF_ONE_SEED):
            return {start}
        section, first, count = SEEDS.get(evidence.notebook, ("", "", ""))
        own = given.get(section) or {}
        start = own.get(first, start)
        return set(range(start, start + max(1, own.get(count, 1))))


def _without_none(given: object) -> object:
    """A section without the keys that are off: an older version may not have had them."""
    if not isinstance(given, dict):
        return given
    return {key: _without_none(value) for key, value in given.items() if value is not None}


def strongest(
    found: dict[str, list[Evidence]], method: Callable[[Evidence], str]
) -> dict[str, list[Evidence]]:
    """{claim: evidence} where, of the same comparison by the same method, the folder with the most
    seeds speaks: what fewer seeds found adds little, and would widen every interval.

    Args:
        method: by which evidence was made, as text.
    """

    def same(claim: str, e: Evidence) -> tuple:
        return claim, method(e), e.notebook, e.comparison.task, e.comparison.name

    most: dict[tuple, int] = {}
    for claim, evidence in found.items():
        for e in evidence:
            key = same(claim, e)
            most[key] = max(most.get(key, 0), e.comparison.count)
    return {
        claim: [e for e in evidence if e.comparison.count == most[same(claim, e)]]
        for claim, evidence in found.items()
    }


def _folders(found: dict[str, list[Evidence]]) -> dict[str, None]:
    """The results folders of evidence, each once."""
    return dict.fromkeys(e.results for own in found.values() for e in own)


def _links(names: Sequence[str]) -> str:
    return ", ".join(f"[{name}]({name}/README.md)" for name in names)


def _has(indexes: Sequence[Index], kind: type) -> bool:
    return any(isinstance(claim, kind) for index in indexes for claim in index.claims)


if __name__ == "__main__":
    sys.exit(main())
