"""Tables in GitHub-flavoured Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def markdown_table(table: pd.DataFrame) -> str:
    """A Markdown table; `<`, `|` and line breaks are escaped, so that `<A>` is shown and not taken
    for HTML."""
    cells = [[str(c) for c in table.columns]]
    cells += [[_escape(value) for value in row] for row in table.to_numpy()]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]])


def _escape(value: object) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
