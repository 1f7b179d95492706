"""Take a trained model and its preference pairs away.

    python -m dits_lib.commands.export --profile micro --task debate --arm gamma_0 --to exported
        --push me/debater

`exported/model` is one PEFT adapter (SFT and DPO added up; with `--merged`, or where all weights
were trained, a folder of transformers); `exported/pairs` a data set in TRL's preference format,
which `datasets.load_dataset("exported/pairs")` reads. Each has a card with its numbers. With
`--push` they are sent to the Hugging Face hub too, as the model `me/debater` and the data set
`me/debater-pairs`, private where they are new; an export that is there already is sent as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..settings.files import FileError
from ..suite.checks import InputError, check_inputs
from ..suite.params import Params, add_profile_options, profile_of
from .running import command

NOTEBOOK = "03_selection_ablation"
"""Whose models are taken away."""


def check_choice(params: Params, task: str | None, arm: str, seed: int | None) -> tuple[str, int]:
    """The task and the seed, the parameters' first where none is given.

    Raises:
        InputError: for a task, an arm or a seed that notebook 03 of these parameters does not have.
    """
    from ..suite.export import exported_arms

    part = params.serving(NOTEBOOK)
    task = part.tasks[0] if task is None else task
    seed = params.seed if seed is None else seed
    seeds = range(params.seed, params.seed + params.ablation.seeds)
    for option, given, allowed in (
        ("task", task, part.tasks),
        ("arm", arm, exported_arms(params)),
        ("seed", seed, seeds),
    ):
        if given not in allowed:
            listed = ", ".join(map(str, allowed))
            raise InputError(f"--{option} {given}: not in {params.profile}; allowed: {listed}")
    return task, seed


@command("finished stages are kept, run again")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line for each mistake on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_profile_options(parser)
    parser.add_argument("--task", help="the first of the parameters, if left out")
    parser.add_argument("--arm", required=True, help="such as gamma_1, full, sft")
    parser.add_argument("--seed", type=int, help="the first of the parameters, if left out")
    parser.add_argument("--to", type=Path, required=True, help="an empty folder, or a new one")
    parser.add_argument("--merged", action="store_true", help="whole weights, not an adapter")
    parser.add_argument("--push", metavar="OWNER/NAME", help="send it to the Hugging Face hub too")
    options = parser.parse_args(arguments)
    # What is missing is computed in this process, whatever runs the jobs of a study.
    params = profile_of(options).changed(executor="local")
    task, seed = check_choice(params, options.task, options.arm, options.seed)
    from ..suite.export import export, exported
    from ..suite.push import check_push, send

    choice = (params.serving(NOTEBOOK), task, options.arm, seed, options.to, options.merged)
    told = None
    if options.to.exists() and (not options.to.is_dir() or any(options.to.iterdir())):
        told = None if options.push is None else exported(*choice)
        if told is None:
            other = "" if options.push is None else ", nor the export to be sent"
            raise FileError(f"{options.to}: not an empty folder{other}; name a new one")
    destination = None if options.push is None else check_push(options.push)
    if told is None:
        check_inputs(params, [NOTEBOOK])
        told = export(*choice)
    print(
        f"{options.to}: {'an adapter' if told['adapter'] else 'a model'}; {told['pairs']} pairs, "
        f"{told['selected']} of them selected, {told['exact']} rendered token for token as sampled",
        flush=True,
    )
    if destination is not None:
        links = send(options.to, destination, trained=told["selected"] > 0)
        print(f"sent to {' and '.join(links)} (what is new there is private)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
