"""The fault campaign: random kills, damage to what lies on the disk, full disks, mutated parameters
and data rows. Nothing computed may be lost, nothing may end in a traceback, and every table must
equal that of an undisturbed run.

    python -m benchmarks.faults --kills 50 --damaged 100 --mutated 300 --seed 0

Writes benchmarks/faults.md; exit status 1 when a fault was not met as it should be. With the same
seed the same faults are made. On two cores a kill takes a quarter of a minute, a damage ten
seconds, an input less than one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / f"dits-faults-{os.getpid()}"
# The runs below write there, and so does what this process checks.
os.environ |= {"DITS_OUTPUT": str(FOLDER / "checks"), "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd  # noqa: E402

from dits_lib.report import markdown_table  # noqa: E402
from dits_lib.settings import ROOT  # noqa: E402
from dits_lib.settings.files import write_file  # noqa: E402

from .fault_damage import damage_campaign, disk_campaign  # noqa: E402
from .fault_inputs import input_campaign  # noqa: E402
from .fault_kills import kill_campaign  # noqa: E402
from .fault_runs import GOOD, VERDICTS, Case, results, whole_run  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    FOLDER.mkdir()
    try:
        cases = campaign(options)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    write_file(Path(options.out), page(cases, options))
    bad = [case for case in cases if case.verdict not in GOOD]
    print(f"{len(cases)} faults, {len(bad)} not met as they should be; read {options.out}")
    return 1 if bad else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damaged", type=int, default=100)
    parser.add_argument("--mutated", type=int, default=300)
    parser.add_argument("--disks", type=int, default=5, help="sizes of a small disk that fills up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="damaged runs side by side")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "faults.md"))
    return parser.parse_args(arguments)


def campaign(options: argparse.Namespace) -> list[Case]:
    """All faults, the quickest kind first."""
    seed, cases = options.seed, []
    if options.mutated:
        cases += _told("mutated inputs", input_campaign(options.mutated, seed, FOLDER))
    if options.damaged or options.disks:
        folder = FOLDER / "one-worker"
        whole, _ = whole_run(folder, workers=1)
        params = folder / "faults.yaml"
        damaged = damage_campaign(options.damaged, seed, params, whole, FOLDER, options.jobs)
        cases += _told("damages", damaged)
        full = disk_campaign(seed, params, whole, FOLDER, options.disks)
        cases += _told("full disks", full)
    if options.kills:
        folder = FOLDER / "two-workers"
        whole, seconds = whole_run(folder, workers=2)
        expected, params = results(whole), folder / "faults.yaml"
        cases += _told(
            "kills", kill_campaign(options.kills, seed, params, expected, seconds, FOLDER)
        )
    return cases


def _told(name: str, cases: list[Case]) -> list[Case]:
    bad = sum(case.verdict not in GOOD for case in cases)
    print(f"{name}: {len(cases)}, of which {bad} not met as they should be", flush=True)
    return cases


def page(cases: list[Case], options: argparse.Namespace) -> str:
    """The text of benchmarks/faults.md."""
    counted = pd.DataFrame(
        [
            {"fault": kind, "n": len(own)}
            | {verdict: sum(case.verdict == verdict for case in own) for verdict in VERDICTS}
            for kind in dict.fromkeys(case.kind for case in cases)
            for own in [[case for case in cases if case.kind == kind]]
        ]
    )
    total = {"fault": "all", **counted.drop(columns="fault").sum()} if len(counted) else {}
    counted = pd.concat([counted, pd.DataFrame([total])], ignore_index=True)
    bad = [case for case in cases if case.verdict not in GOOD]
    command = (
        f"python -m benchmarks.faults --kills {options.kills} --damaged {options.damaged} "
        f"--mutated {options.mutated} --disks {options.disks} --seed {options.seed}"
    )
    parts = [
        "# Kills, damage, full disks and mutated inputs",
        _INTRODUCTION,
        markdown_table(counted),
    ]
    parts += [f"Made by `{command}`; the same seed makes the same faults."]
    left_out = [case.what for case in cases if case.what.startswith("left out")]
    parts += [f"Full disks are {left_out[0]}."] if left_out else []
    parts += ["## Not met as they should be", _list_of(bad)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """\
The subject of the kills, damages and full disks is notebook 01 of the smoke profile, smaller still
(exchange and debate). Several kills follow each other in a chain of resumed runs, then a run is
left alone: it must end with the tables, figures and notebooks of an undisturbed run, and no stage
that was finished before may have been made again. A damaged file is made anew, or refused in one
line; then what the line names is deleted and the next run must be equal. A mutated input is
refused by a line that names the key, or the file and the field, or is read as it was written.

*Survived*: went on, or was made anew, equal. *Refused in one line*: as above. *Lost*: something
computed was gone. *Traceback*: or an error that nobody foresaw. *Unequal*: other results, or a
value that was read as another. *Other*: a run that hung, processes or files left behind, a message
of several lines or without the place."""


def _list_of(bad: list[Case]) -> str:
    if not bad:
        return "None."
    rows = [
        [case.kind, case.what, case.verdict, case.said.replace(f"{FOLDER}/", "")] for case in bad
    ]
    return markdown_table(pd.DataFrame(rows, columns=["fault", "what was done", "verdict", "said"]))


if __name__ == "__main__":
    sys.exit(main())
