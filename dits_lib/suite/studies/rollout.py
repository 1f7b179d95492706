"""Notebook 01: the two searches of the first seed."""

from __future__ import annotations

from ..params import Params
from ..pipeline import Pipeline
from .common import pair_stage, sft_stage, task_keys

keys = task_keys


def rollout_job(params: Params, task: str) -> dict:
    """What the searches of a task made, and where the second lies."""
    pipeline = Pipeline(params, task)
    model, base_search = sft_stage(pipeline, params.seed)
    searched = pair_stage(pipeline, model, params.seed)
    counts = [
        {
            "task": task,
            "policy": policy,
            "questions": len(found.rows("trees.jsonl")),
            "pairs": len(found.rows("pairs.jsonl")),
            "prompt_tokens": found.manifest["cost"]["prompt_tokens"],
            "generated_tokens": found.manifest["cost"]["generated_tokens"],
        }
        for policy, found in (("base", base_search), ("SFT", searched))
    ]
    return {"task": task, "searched": str(searched.path), "counts": counts}
