"""Score preference pairs of one's own by their influence, without a search.

    python -m dits_lib.commands.score pairs.jsonl --profile params/mine.yaml --out scored.jsonl

`pairs.jsonl` is in TRL's preference format, of messages or of text. The parameters name the model,
the task (its validation questions and how agents answer them), the estimator and V. The rows come
back with `influence` and its standard error, the change of the metric that a step on the pair, or
its weight in the training, makes on the validation questions: keep those of highest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ..settings.files import FileError, write_file
from ..suite.checks import InputError
from ..suite.params import add_profile_options, profile_of
from .running import command


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line for each mistake on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, help="JSONL in TRL's preference format")
    add_profile_options(parser)
    parser.add_argument("--task", help="whose validation questions; the first, if left out")
    parser.add_argument("--out", type=Path, required=True, help="JSONL to write")
    parser.add_argument("--step", type=float, help="step size; chosen by response, if left out")
    options = parser.parse_args(arguments)
    params = profile_of(options)
    task = params.tasks[0] if options.task is None else options.task
    if task not in params.tasks:
        listed = ", ".join(params.tasks)
        raise InputError(f"--task {task}: not in {params.profile}; allowed: {listed}")
    if options.step is not None and not 0 < options.step < float("inf"):
        raise InputError(f"--step {options.step:g}: expected a number above 0")
    if options.out.is_dir():
        raise FileError(f"{options.out}: a folder; name a file to write")
    from ..suite.own_pairs import score_own
    from ..suite.pipeline import Pipeline

    start = time.monotonic()
    rows, scores, step = score_own(Pipeline(params, task), options.pairs, params.seed, options.step)
    write_file(options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    cost = ", ".join(f"{name} {value:g}" for name, value in scores.cost.items())
    print(
        f"{options.out}: {len(rows)} pairs by {scores.estimator}, V = "
        f"{params.influence.validation_questions}, step {step:g}, "
        f"{time.monotonic() - start:.0f} s; {scores.tie_share:.0%} share their score with another "
        f"({cost})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
