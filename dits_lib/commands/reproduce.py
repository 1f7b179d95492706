"""Run the notebooks of a profile, in order, and write `results/<profile>`.

With parameters that are not those of the profile's file it writes
`results/<profile>-changed-<digits>` instead, so that nothing is written over the profile's results.

    python -m dits_lib.commands.reproduce --profile micro

A notebook whose source, parameters, library and outputs are as they were is not run again. What a
notebook computes is kept in `runs/<profile>` stage by stage, so a killed run goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from ..settings import OUTPUT, write_yaml
from ..settings.files import write_changed
from ..settings.places import REPORT_TO
from ..suite.checks import InputError, check_inputs, choose_notebooks, sees_gpu
from ..suite.execution import is_current, notebook_key, run_notebook, stamp_of
from ..suite.notebooks import NOTEBOOKS
from ..suite.params import Params, add_profile_options, profile_of
from ..suite.results import results_folder, told_changes
from ..suite.store import packed_models
from .running import command

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "papermill",
    "rapidfuzz",
    "numpy",
    "scipy",
    "matplotlib",
    "seaborn",
)
"""Whose versions stand in the results."""

FEW_WORKERS = 4
"""With no more, the notebooks run their own jobs."""


@command("finished stages are kept, run again")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line for each mistake on stderr), 1 a notebook
    failed, 130 stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_profile_options(parser)
    parser.add_argument("--notebook", action="append", help="run just this one (may be repeated)")
    options = parser.parse_args(arguments)
    params = profile_of(options)
    names = choose_notebooks(options.notebook, params)
    check_inputs(params, names)
    folder = prepare(params)
    start = time.monotonic()
    compute_ahead(names, params, folder)
    with _reports_in(folder):
        ran = [
            name
            for number, name in enumerate(names, 1)
            if run_notebook(name, params, folder, f"{number} of {len(names)}")
        ]
    finish(folder, params)
    seconds = time.monotonic() - start
    print(
        f"{len(ran)} of {len(names)} notebooks run in {seconds:.0f} s; read {folder / 'README.md'}"
    )
    return 0


@contextmanager
def _reports_in(folder: Path) -> Iterator[None]:
    """Notebooks that are started meanwhile report into a folder of results."""
    os.environ[REPORT_TO] = str(folder)
    try:
        yield
    finally:
        del os.environ[REPORT_TO]


def compute_ahead(names: list[str], params: Params, folder: Path) -> None:
    """With vLLM, which takes a minute to start, or on many processes, which would wait for each
    other at every cell, compute what the notebooks ask for on one set of processes, so that they
    find it in the store. Notebooks that are up to date ask for nothing. What fails here fails again
    in its notebook, which tells it."""
    if params.model.engine != "vllm" and params.workers <= FEW_WORKERS:
        return
    if params.model.device == "cuda" and not params.cluster and not sees_gpu():
        return  # `check_gpu`: all is computed already
    from ..suite.studies.ahead import STUDIES, run_ahead

    stale = [
        name
        for name in names
        if not is_current(stamp_of(name, params), notebook_key(name, params), folder)
    ]
    for part in params.parts():
        own = [name for name in stale if name in part.notebooks and name in STUDIES]
        if own:
            try:
                failed = run_ahead(part, own)
            except BrokenProcessPool:
                print(
                    "a process died (out of memory?); the notebooks go on with what it had "
                    "finished",
                    file=sys.stderr,
                )
            else:
                found = f"{failed} jobs failed; their notebooks say why"
                print(found if failed else "all stages are computed", flush=True)


def prepare(params: Params) -> Path:
    """Make the results folder.

    Raises:
        InputError: when it cannot be written.
    """
    folder = results_folder(params)
    try:
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        (OUTPUT / "runs" / params.profile).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set DITS_OUTPUT to a folder that can"
        ) from None
    return folder


def finish(folder: Path, params: Params) -> None:
    """Write parameters, versions and the README, where they differ from what is there."""
    from ..report.render import PACKED, artifacts_of, render_readme
    from ..suite.ledger import ledger

    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    if packed := packed_models(OUTPUT / "runs" / params.profile):
        versions[PACKED] = str(packed)
    write_changed(folder / "versions.json", json.dumps(versions, indent=1) + "\n")
    write_changed(folder / "params.yaml", write_yaml(params.model_dump()))
    costs = ledger(OUTPUT / "runs" / params.profile, artifacts_of(folder))
    tasks = [task for part in params.parts() for task in part.tasks]
    titles = {name: notebook.title for name, notebook in NOTEBOOKS.items()}
    readme, tables = render_readme(folder, costs, titles, tasks)
    for name, text in tables.items():
        write_changed(folder / "tables" / name, text)
    title, rest = readme.split("\n", 1)
    told = told_changes(params)
    write_changed(folder / "README.md", f"{title}\n\n{told}{rest}" if told else readme)


if __name__ == "__main__":
    sys.exit(main())
