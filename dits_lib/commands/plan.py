"""What a profile would cost, before the money is spent (`make plan`).

    python -m dits_lib.commands.plan --profile llama3-8b

Checks the model folder, the data and the disk, and prints tokens, hours and peak memory
(`suite/planning.py` says how they are counted). No GPU is needed, and no network: what could not be
checked without the hub is said.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..report.markdown import markdown_table
from ..settings import OUTPUT, ROOT
from ..suite.checks import InputError, check_folders
from ..suite.hub import check_what_can_be, known_shape, leave_the_hub_alone_if_it_is_silent
from ..suite.params import Params, add_profile_options, profile_of
from ..suite.planning import (
    ASSUMED,
    MACHINES,
    ModelSize,
    count_work,
    disk_needed,
    hours,
    lengths,
    model_size,
    peak_memory,
    size_of,
)
from ..suite.scaling import least_hours
from .running import command


@command("nothing was written")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 it fits, 2 it cannot run as it is (one line a reason on stderr), 130 stopped
    by Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_profile_options(parser)
    parser.add_argument(
        "--gpu",
        choices=[name for name in MACHINES if name != "cpu"],
        default="h100",
        help="what model.device cuda would be",
    )
    parser.add_argument(
        "--gpus",
        type=count_of_gpus,
        default=[],
        metavar="N,N",
        help="tell too how long it takes on so many of them, one process each, such as 8,64",
    )
    options = parser.parse_args(arguments)
    params = profile_of(options)
    reachable = leave_the_hub_alone_if_it_is_silent()
    check_folders(params)
    unchecked = check_what_can_be(params, reachable)
    size = shape_of(params.model_path(params.parts()[0].tasks[0]), reachable)
    judge = shape_of(params.judge_path(), reachable).parameters if params.judge_path() else 0
    name = options.gpu if params.model.device == "cuda" else "cpu"
    status = report(params, size, name, judge, options.gpus)
    if unchecked:
        print(f"\nnot checked, since the hub cannot be reached: {'; '.join(unchecked)}")
    return status


def shape_of(path: str, reachable: bool) -> ModelSize:
    """Sizes of a model by its configuration; of one that the hub alone has, while it cannot be
    reached, by what is known of it here.

    Raises:
        InputError: when they cannot be had.
    """
    try:
        return model_size(path)
    except InputError:
        if reachable or Path(path).exists():
            raise
    return size_of(known_shape(path))


def count_of_gpus(text: str) -> list[int]:
    """Numbers of GPUs, from text such as `8,64`."""
    if not all(part.strip().isdigit() and int(part) > 0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: numbers above 0, such as 8,64")
    return [int(part) for part in text.split(",")]


def report(
    params: Params, size: ModelSize, name: str, judge: int = 0, gpus: Sequence[int] = ()
) -> int:
    """Print the plan; tells whether it fits, as an exit status.

    Args:
        judge: parameters of the model that judges in this process.
        gpus: for so many GPUs, the hours that a run takes there at the least.
    """
    import pandas as pd

    machine, work = MACHINES[name], count_work(params)
    work["hours"] = hours(params, work, size, machine)
    if params.model.engine == "vllm":
        # One set of processes a part (`compute_ahead`); notebook 06 starts its own, up to three.
        pools = len(params.parts()) + 3 * ("06_influence_fidelity" in params.notebooks)
        starts = pools * (params.workers if params.model.device == "cuda" else 1)
        work.loc[len(work)] = {
            "notebook": "all",
            "stage": "starting vLLM",
            **dict.fromkeys(work.columns[2:], 0),
            "hours": starts * machine.start / 3600,
        }
    shown = pd.concat(
        [
            work,
            pd.DataFrame(
                [
                    {
                        "notebook": "total",
                        "stage": "",
                        **work.drop(columns=["notebook", "stage"]).sum(),
                    }
                ]
            ),
        ]
    )
    for column in ("read", "written", "written_with_adapters", "trained"):
        shown[column] = (shown[column] / 1e6).map("{:.2f}".format)
    shown["hours"] = shown["hours"].map("{:.3f}".format)
    path = params.model_path(params.parts()[0].tasks[0])
    print(
        f"profile {params.profile}: "
        f"{Path(path).relative_to(ROOT) if Path(path).is_relative_to(ROOT) else path}, "
        f"{size.parameters / 1e6:.0f} M parameters, engine {params.model.engine}, on one {name}\n"
    )
    print(
        markdown_table(
            shown.rename(
                columns={
                    c: f"{c} (M tokens)"
                    for c in ("read", "written", "written_with_adapters", "trained")
                }
            ).astype({"models": int})
        )
    )
    workers, total = params.workers, work["hours"].sum()
    if workers > 1:
        print(
            f"\nHours are those of processes, which share the machine: {total:.2f} hours of "
            f"{workers} processes are {total / workers:.2f} hours by the clock at best."
        )
    for number in gpus:
        least, keeper = least_hours(params, work, number)
        why = f", for of {keeper} no more jobs can run at once" if keeper else ", all of them busy"
        print(f"\nOn {number} x {name}, one process each: {least:.2f} hours at the least{why}.")
    print(f"\nAssumed: {ASSUMED}")
    peak, need = peak_memory(params, size, machine, judge), disk_needed(params, work, size)
    folder = Path(OUTPUT)
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    print(
        f"\npeak memory: {peak / 1e9:.1f} GB of {machine.memory / 1e9:.0f} GB; disk: "
        f"{need / 1e9:.2f} GB of {free / 1e9:.0f} GB free in {folder}"
    )
    reasons = []
    if peak > 0.95 * machine.memory:
        reasons.append(
            "memory: lower influence.gradient_rows or gradient_tokens, dpo.batch or sft.batch, set "
            "gradient_checkpointing, or use LoRA and bfloat16"
        )
    longest = max(lengths(part, task).longest for part in params.parts() for task in part.tasks)
    if params.model.engine == "vllm" and longest > params.model.max_length:
        reasons.append(
            f"model.max_length of {params.model.max_length} tokens (the longest prompts take about "
            f"{longest:.0f}): raise it, or lower data.context_words"
        )
    if need > 0.9 * free:
        reasons.append(
            "disk: free some, or point DITS_OUTPUT elsewhere; LoRA models (lora_rank above 0) "
            "take far less"
        )
    for reason in reasons:
        print(f"{params.profile}: does not fit the {reason}", file=sys.stderr)
    return 2 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
