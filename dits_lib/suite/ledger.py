"""What a run cost: tokens, seconds and peak memory, by stage, from the manifests of the artifacts
it used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .store import read_manifest

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "artifacts",
    "prompt_tokens",
    "generated_tokens",
    "trained_tokens",
    "seconds",
    "peak_memory_mb",
    "peak_gpu_memory_mb",
)
_PEAKS = COLUMNS[-2:]


def ledger(runs: Path, artifacts: list[str]) -> pd.DataFrame:
    """One row a stage and a total.

    Args:
        runs: the store's folder.
        artifacts: folder names below it.

    Returns:
        Columns `stage`, `artifacts`, `prompt_tokens` (read), `generated_tokens`, `trained_tokens`
        (TRL's count), `seconds` (process seconds, so that two processes count double),
        `peak_memory_mb` (largest resident set of one process, MiB), and, where one was used,
        `peak_gpu_memory_mb` (most memory in use on the GPU, by all processes, MiB).

    Raises:
        StoreError: when the manifest of an artifact is damaged.
    """
    import pandas as pd

    rows: dict[str, dict] = {}
    for name in sorted(set(artifacts)):
        # A notebook's results that came with the repository, its stages not computed here.
        if not os.path.lexists(runs / name):
            continue
        manifest = read_manifest(runs / name)
        stage, cost = manifest["stage"], manifest["cost"]
        row = rows.setdefault(stage, {"stage": stage, **dict.fromkeys(COLUMNS, 0)})
        row["artifacts"] += 1
        for column in _PEAKS:
            row[column] = max(row[column], cost.get(column, 0))
        for column in ("prompt_tokens", "generated_tokens", "trained_tokens", "seconds"):
            row[column] += cost.get(column, 0)
    table = pd.DataFrame(list(rows.values()))
    if len(table):
        total = {
            "stage": "total",
            **table[[c for c in COLUMNS if c not in _PEAKS]].sum(),
            **table[list(_PEAKS)].max(),
        }
        table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
        table = table.astype({column: int for column in COLUMNS if column != "seconds"})
        table = (
            table if table["peak_gpu_memory_mb"].any() else table.drop(columns="peak_gpu_memory_mb")
        )
    return table
