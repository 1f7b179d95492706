"""What a notebook reports: tables (csv, md), figures (png, svg) and claims, each with one sentence,
in the results of `reproduce`, or, of a notebook run by hand, below runs/<profile>/by_hand."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ..settings import OUTPUT
from ..settings.files import write_file
from ..settings.places import report_folder
from .claims import CLAIMS, Comparison, claim_text
from .index import stored_comparison
from .markdown import markdown_table
from .wording import shown


class Report:
    """The report of one notebook.

    Args:
        profile: of the parameters.
        notebook: its name, such as `03_selection_ablation`.
    """

    def __init__(self, profile: str, notebook: str):
        self.notebook = notebook
        by_hand = OUTPUT / "runs" / profile / "by_hand"
        self.folder = report_folder() or by_hand
        if self.folder == by_hand:  # reading a notebook changes no results
            print(f"tables and figures go to {by_hand}")
        pd.set_option("display.max_colwidth", None)  # a cell shows replies whole
        self.entries: list[dict] = []
        self.claims: list[dict] = []
        self.artifacts: list[str] = []

    def table(
        self, name: str, table: pd.DataFrame, caption: str, digits: int = 3, fold: bool = False
    ) -> pd.DataFrame:
        """Save a table, in csv at full precision and in md as it is read (`wording.shown`), and
        return the latter, so that a cell shows it.

        Args:
            caption: what it shows, in one sentence.
            digits: after the point, at most, as shown.
            fold: the README shows the caption alone, until a reader opens it.
        """
        read = shown(table, digits)
        # Whoever computes from a table reads this file: pandas writes floats so that they come
        # back.
        write_file(self._path("tables", name, "csv"), table.to_csv(index=False))
        write_file(self._path("tables", name, "md"), markdown_table(read) + "\n")
        entry = {"kind": "table", "name": name, "caption": caption}
        self._add(entry | ({"fold": True} if fold else {}))
        return read

    def figure(self, name: str, figure: plt.Figure, caption: str) -> None:
        """Save a figure, without dates, so that equal runs give equal files."""
        for suffix, content in drawn(figure, name).items():
            write_file(self._path("figures", name, suffix), content)
        self._add({"kind": "figure", "name": name, "caption": caption})

    def claim(self, number: str, comparisons: Sequence[Comparison], note: str = "") -> str:
        """Record what a claim of the paper rests on, and return the verdicts on it as text.

        Args:
            comparisons: everything in this notebook that the claim rests on.
            note: what a reader of the verdict must know, in one sentence.

        Raises:
            ValueError: for a claim that the paper does not make.
        """
        if number not in CLAIMS:
            raise ValueError(f"no claim {number!r}; allowed: {', '.join(CLAIMS)}")
        self.claims = [c for c in self.claims if c["number"] != number]
        stored = [stored_comparison(comparison) for comparison in comparisons]
        self.claims.append({"number": number, "comparisons": stored, "note": note})
        self._save()
        return claim_text(number, comparisons, note)

    def used(self, artifacts: list[str]) -> None:
        """Name the artifacts behind the report; the ledger adds up what they cost."""
        self.artifacts = sorted(set(self.artifacts) | set(artifacts))
        self._save()

    def _path(self, part: str, name: str, suffix: str) -> Path:
        return self.folder / part / f"{name}.{suffix}"

    def _add(self, entry: dict) -> None:
        self.entries = [
            e for e in self.entries if (e["kind"], e["name"]) != (entry["kind"], entry["name"])
        ] + [entry]
        self._save()

    def _save(self) -> None:
        body = {
            "notebook": self.notebook,
            "entries": self.entries,
            "claims": self.claims,
            "artifacts": self.artifacts,
        }
        write_file(
            self.folder / "index" / f"{self.notebook}.json", json.dumps(body, indent=1) + "\n"
        )


def drawn(figure: plt.Figure, name: str) -> dict[str, bytes]:
    """A figure as {"png": bytes, "svg": bytes}, without dates, so that equal runs give equal
    files."""
    png, svg = io.BytesIO(), io.BytesIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(png, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(svg, format="svg", bbox_inches="tight", metadata={"Date": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}
