"""What a repeatable score costs, in one run: `python -m benchmarks.estimators` (or the second half
of `make bench`).

Scores CANDIDATES pairs of each task twice, on disjoint validation sets, by the policy gradient, and
reports its test-retest rank correlation by pair and by searched question; beside it the seconds of
one-step influence at V = 100, timed on SHARE of the same pairs in the same run (each pair is played
alone, so the rest take as long). Writes benchmarks/estimators.md.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from benchmarks.run import engine, processor  # noqa: E402
from dits_lib.agents import make_system  # noqa: E402
from dits_lib.influence import (  # noqa: E402
    ESTIMATORS,
    InfluenceSettings,
    ScoringContext,
    by_group,
    rank_correlation,
)
from dits_lib.pairs import extract_pairs  # noqa: E402
from dits_lib.search import SearchSettings, tree_search  # noqa: E402
from dits_lib.suite.studies.influence_fidelity import centred  # noqa: E402
from dits_lib.tasks import make_questions  # noqa: E402

CANDIDATES, QUESTIONS, V, ONE_STEP_V, SHARE = 1000, 320, 300, 100, 0.1
STEP_SIZE = {"exchange": 1.0, "debate": 3.0}
"""Those that notebook 02 chose on development questions."""


def bench(task: str, name: str) -> dict:
    """Reliability and seconds of an estimator, and the seconds of one-step influence at V = 100."""
    system, model_engine = make_system(task), engine()
    trees = tree_search(
        model_engine, system, make_questions(task, "train", QUESTIONS, 0), SearchSettings(), 0
    )
    pairs = extract_pairs(model_engine.tokenizer, system, trees, 0.4, 0.2)[:CANDIDATES]
    setting = ScoringContext(
        model_engine, system, STEP_SIZE[task], InfluenceSettings(), lora_seed=1
    )
    questions = make_questions(task, "validation", 2 * V, 0)
    start, sides = time.perf_counter(), []
    for side in (0, 1):
        sides.append(ESTIMATORS[name](setting, pairs, questions[side * V : (side + 1) * V], side))
    seconds = (time.perf_counter() - start) / 2
    groups = [pair.question_id for pair in pairs]
    by_pair = rank_correlation(sides[0].value, sides[1].value, groups)
    by_question = rank_correlation(*(by_group(centred(scores), groups).value for scores in sides))
    some = pairs[:: round(1 / SHARE)]
    start = time.perf_counter()
    ESTIMATORS["one_step"](setting, some, questions[:ONE_STEP_V], 0)
    one_step = (time.perf_counter() - start) * len(pairs) / len(some)
    return {
        "pairs": len(pairs),
        "questions": by_question["n"],
        "seconds": seconds,
        "one-step": one_step,
        "ratio": seconds / one_step,
        "by pair": by_pair,
        "by question": by_question,
    }


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# Repeatable scores, and what they cost",
        "",
        "Written by `python -m benchmarks.estimators`; one process, one thread, one run.",
        "",
        f"Machine: {platform.machine()}, {processor()}, {os.cpu_count()} cores; torch "
        f"{torch.__version__}. Goal: a test-retest rank correlation of at least 0.7 by "
        "searched question (scores centred first), for no more seconds than one-step influence "
        f"at V = {ONE_STEP_V}.",
        "",
        "| task | estimator | V | pairs | by searched question | by pair | seconds | one-step at "
        "V = 100, seconds | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task in STEP_SIZE:
        for name in ("policy_gradient", "tree_policy_gradient"):
            found = bench(task, name)
            rho = [
                f"{r['rho']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
                for r in (found["by question"], found["by pair"])
            ]
            lines.append(
                f"| {task} | {name} | {V} | {found['pairs']} | {rho[0]} | {rho[1]} | "
                f"{found['seconds']:.0f} | {found['one-step']:.0f} | {found['ratio']:.2f} |"
            )
            print(lines[-1], flush=True)
    (Path(__file__).parent / "estimators.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
