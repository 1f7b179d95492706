"""Notebook 08: the ablation of notebook 03 for deep search, and what its tools and its judge
did."""

from __future__ import annotations

import re
from collections import Counter

from ...agents import LIMIT
from ...search import Tree
from ..params import Params
from ..pipeline import Pipeline, read_pairs, read_trees
from .common import influence_values, pair_stage, sft_stage, step_size_of
from .selection_ablation import ablation_job, keys  # noqa: F401 (one job for each seed, as there)


def deep_search_job(params: Params, task: str, seed: int) -> dict:
    """`ablation_job`; beside it where the pairs' search lies, their influence by pair, how the
    tools failed, and how the judge's scores of the SFT model's answers stand to exact match and
    F1."""
    found = ablation_job(params, task, seed)
    pipeline = Pipeline(params, task)
    model, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, model, seed)
    size = step_size_of(pipeline)
    count = params.influence.validation_questions
    values = influence_values(pipeline, model, searched, size, count, seed).tolist()
    calls = [text for tree in read_trees(searched) for text in _tool_turns(tree)]
    failed = Counter(kind for kind in map(failure_of, calls) if kind)
    return found | {
        "searched": str(searched.path),
        "influence": [
            {"question": pair.question_id, "node": pair.node, "influence": value}
            for pair, value in zip(read_pairs(searched), values, strict=True)
        ],
        "tool_calls": len(calls),
        "failed": dict(failed),
        "judged": pipeline.judged(model, seed),
        "cost": {"search": searched.manifest["cost"]["generated_tokens"]},
    }


def _tool_turns(tree: Tree) -> list[str]:
    turns = [node.turn for node in tree.nodes if node.turn is not None]
    return [turn.text for turn in turns if not turn.trainable and turn.agent != LIMIT]


def failure_of(text: str) -> str | None:
    """The kind of failure that a tool's text tells of; None when it did not fail."""
    failure = re.match(r"\w+ failed: (\w+): (?:([a-z ]+):)?", text)
    return None if failure is None else failure[2] or failure[1]
