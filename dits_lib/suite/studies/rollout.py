"""Notebook 01: the two searches of the first seed."""

from __future__ import annotations

import numpy as np

from ...search import Tree
from ..params import Params
from ..pipeline import Pipeline, read_pairs, read_trees
from .common import pair_stage, sft_stage, task_keys

keys = task_keys


def rollout_job(params: Params, task: str) -> dict:
    """What the searches of a task made, and where the second lies."""
    pipeline = Pipeline(params, task)
    model, base_search = sft_stage(pipeline, params.seed)
    searched = pair_stage(pipeline, model, params.seed)
    searches = (("base", base_search), ("SFT", searched))
    counts = [
        {
            "task": task,
            "policy": policy,
            "questions": len(found.rows("trees.jsonl")),
            "pairs": len(found.rows("pairs.jsonl")),
            "prompt_tokens": found.manifest["cost"]["prompt_tokens"],
            "generated_tokens": found.manifest["cost"]["generated_tokens"],
        }
        for policy, found in searches
    ]
    selection = [
        {"task": task, "policy": policy} | selection_row(read_trees(found), len(read_pairs(found)))
        for policy, found in searches
    ]
    job = {"task": task, "searched": str(searched.path)}
    return job | {"counts": counts, "selection": selection}


def selection_row(trees: list[Tree], pairs: int) -> dict[str, float]:
    """What the repetitions of a search selected, a tree: selections, and the different nodes among
    them; the share of those after the first that took the root; pairs a question."""
    again = [node == 0 for tree in trees for node in tree.selected[1:]]
    return {
        "selections": float(np.mean([len(tree.selected) for tree in trees])),
        "distinct": float(np.mean([len(set(tree.selected)) for tree in trees])),
        "root_again": float(np.mean(again)) if again else float("nan"),
        "pairs": pairs / len(trees),
    }
