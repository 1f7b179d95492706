"""The subject of the fault campaign, a small run of notebook 01, and how its end is judged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from dits_lib.settings import ROOT

NOTEBOOK = "01_rollout"
SURVIVED, REFUSED = "survived", "refused in one line"
LOST, TRACEBACK, UNEQUAL, OTHER = "lost", "traceback", "unequal", "other"
VERDICTS = (SURVIVED, REFUSED, LOST, TRACEBACK, UNEQUAL, OTHER)
"""What became of a fault: the run goes on or is made anew, equal to an undisturbed one; refused in
one line that names the place; something that was computed is gone; a traceback, or an error that
nobody foresaw; another result, or a value read as another; anything else (a run that hangs,
processes or files left behind, a message that names no place)."""
GOOD = (SURVIVED, REFUSED)

LIMIT = 300
"""Seconds after which a run counts as hanging; an undisturbed one takes a quarter of a minute."""


@dataclass(frozen=True)
class Case:
    """One fault: its kind, all that is needed to repeat it, and what became of it."""

    kind: str
    what: str
    verdict: str
    said: str = ""


@dataclass(frozen=True)
class Ended:
    """A finished run: exit status (None: it hung and was killed), and what it printed."""

    status: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What a reader sees on stderr, without a warning of the kernel's own."""
        return [x for x in self.err.splitlines() if x.strip() and "[IPKernelApp]" not in x]

    @property
    def said(self) -> str:
        """What it printed on stderr: the line, or the first and the last one of several."""
        lines = self.lines
        return lines[0] if len(lines) == 1 else " ... ".join([*lines[:1], *lines[-1:]])[:500]

    def verdict(self) -> str:
        """Judged by itself, before its results are compared."""
        if self.status is None:
            return OTHER
        if "Traceback (most recent call last)" in self.err + self.out or self.status == 1:
            return TRACEBACK
        if self.status == 0 or self.status < 0:  # done, or killed before it could say anything
            return SURVIVED
        return REFUSED if len(self.lines) == 1 else OTHER


def write_subject(folder: Path, workers: int) -> Path:
    """The parameter file of a small run, made of the smoke profile."""
    own = yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8"))
    own |= {"profile": "faults", "tasks": ["exchange", "debate"], "workers": workers}
    own["sizes"] |= {"sft_questions": 6, "train_questions": 8}
    path = folder / "faults.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(own, sort_keys=False), encoding="utf-8")
    return path


def start(params: Path, output: Path) -> subprocess.Popen:
    """A run whose results go below `output`; what it prints goes into two files beside it, since a
    pipe would be held open by whatever it leaves behind."""
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dits_lib.commands.reproduce", "--profile", str(params)]
    printed, told = _printed(output)
    with printed.open("wb") as out, told.open("wb") as err:
        return subprocess.Popen(
            [*command, "--notebook", NOTEBOOK],
            cwd=ROOT,
            env=os.environ | {"DITS_OUTPUT": str(output), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def _printed(output: Path) -> list[Path]:
    return [output.with_name(f"{output.name}-{name}.txt") for name in ("stdout", "stderr")]


def ended(process: subprocess.Popen, output: Path) -> Ended:
    """Wait for a run, at most `LIMIT` seconds."""
    try:
        status = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = None
    return Ended(status, *(path.read_text(errors="replace") for path in _printed(output)))


def run(params: Path, output: Path) -> Ended:
    return ended(start(params, output), output)


def whole_run(folder: Path, workers: int) -> tuple[Path, float]:
    """An undisturbed run: its output folder, and the seconds that it took.

    Raises:
        RuntimeError: when it fails; there is nothing to hold faults against then.
    """
    begin = time.monotonic()
    done = run(write_subject(folder, workers), folder / "output")
    if done.status != 0:
        raise RuntimeError(f"the undisturbed run failed ({done.status}):\n{done.out}{done.err}")
    return folder / "output", time.monotonic() - begin


def results(output: Path) -> dict[str, bytes]:
    """All that a run reports, but for seconds and memory: the ledger, and the README below its
    heading of costs."""
    found = {}
    for path in sorted((output / "results").rglob("*")):
        if path.is_file() and not path.name.startswith("ledger."):
            data = path.read_bytes()
            name = str(path.relative_to(output / "results"))
            found[name] = data.split(b"## Cost")[0] if path.name == "README.md" else data
    return found


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of the results that are missing, added or unlike."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]


_STAGE = re.compile(r"[a-z]+-[0-9a-f]{20}")


def kept(output: Path) -> dict[str, bytes]:
    """The manifest of every finished stage, by the name of its folder."""
    return {
        path.parent.name: path.read_bytes()
        for path in output.glob("runs/*/*/manifest.json")
        if _STAGE.fullmatch(path.parent.name)
    }


def left_behind(output: Path) -> list[str]:
    """Temporary files and folders that nobody removed."""
    hidden = [path for part in ("runs", "results") for path in (output / part).rglob(".*")]
    return [str(path.relative_to(output)) for path in hidden if path.name != ".locks"]


def emptied(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
