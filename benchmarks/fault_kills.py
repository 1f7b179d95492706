"""Random kills: several in one chain, each of a run that resumes the one before; then a run that is
left alone, whose results must equal those of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from .fault_runs import (
    LOST,
    OTHER,
    SURVIVED,
    UNEQUAL,
    Case,
    differing,
    emptied,
    ended,
    kept,
    left_behind,
    results,
    run,
    start,
)

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("tree", "group", "parent", "worker", "kernel")
_MARKS = {"kernel": "ipykernel_launcher", "worker": "spawn_main"}
GRACE = 30
"""Seconds that processes have to notice that their parent has gone."""


@dataclass(frozen=True)
class Kill:
    """A signal to a part of a run, `moment` seconds after it began, or after that part did."""

    target: str
    number: signal.Signals
    moment: float

    def __str__(self) -> str:
        return f"{self.number.name} to the {self.target} after {self.moment:.1f} s"


def kill_campaign(
    count: int, seed: int, params: Path, expected: dict[str, bytes], seconds: float, folder: Path
) -> list[Case]:
    """`count` kills in chains of one to six.

    Args:
        params: of the run.
        expected: the results of an undisturbed run.
        seconds: that it took.
        folder: for the outputs, one after another.
    """
    rng, cases = random.Random(seed), []
    while (struck := len([case for case in cases if case.kind.startswith("kill")])) < count:
        output = emptied(folder / "chain")
        length = min(rng.randint(1, 6), count - struck)
        cases += _chain(rng, length, params, expected, seconds, output)
    return cases


def _chain(rng, length, params, expected, seconds, output) -> list[Case]:
    cases: list[Case] = []
    before: dict[str, bytes] = {}
    while len(cases) < length:
        kill = Kill(rng.choice(TARGETS), rng.choice(SIGNALS), rng.uniform(0, seconds))
        case = _killed_run(kill, params, output)
        if case is None:  # it had ended before the moment came
            break
        cases.append(_with_losses(case, before, output))
        before = kept(output)
    if not cases:
        return []
    chain = " | ".join(case.what for case in cases)
    return [*cases, _last_run(chain, before, params, expected, output)]


def _last_run(chain, before, params, expected, output) -> Case:
    done = run(params, output)
    verdict, said = done.verdict(), done.said
    if done.status != 0:
        return Case("run after kills", chain, verdict if verdict != SURVIVED else OTHER, said)
    case = _with_losses(Case("run after kills", chain, SURVIVED), before, output)
    if unlike := differing(results(output), expected):
        return Case(case.kind, chain, UNEQUAL, ", ".join(unlike[:5]))
    if left := left_behind(output):
        return Case(case.kind, chain, OTHER, f"left behind: {', '.join(left[:5])}")
    return case


def _with_losses(case: Case, before: dict[str, bytes], output: Path) -> Case:
    """The case as lost, if a stage that was finished is gone or was made again."""
    now = kept(output)
    gone = [name for name, manifest in before.items() if now.get(name) != manifest]
    return Case(case.kind, case.what, LOST, f"no longer there: {gone[0]}") if gone else case


def _killed_run(kill: Kill, params: Path, output: Path) -> Case | None:
    """Start a run and kill; None when it ended before."""
    process = start(params, output)
    if not _strike(kill, process):
        process.wait()
        return None
    done = ended(process, output)
    kind = f"kill: {kill.target}"
    if left := _still_alive(output):
        return Case(kind, str(kill), OTHER, f"left running: {', '.join(left)}")
    said = done.said if done.status is not None else "it hung"
    return Case(kind, str(kill), done.verdict(), said)


def _strike(kill: Kill, process) -> bool:
    begin = None
    while process.poll() is None:
        found = _members(process, kill.target)
        begin = begin or (time.monotonic() if found else None)
        if found and time.monotonic() - begin >= kill.moment / (2 if kill.target in _MARKS else 1):
            for member in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(kill.number)
            return True
        time.sleep(0.02)
    return False


def _members(process, target: str) -> list[psutil.Process]:
    """The processes that a kill is aimed at. Of the workers one; a kernel has a process group of
    its own, so that the group is what a terminal's Ctrl-C reaches."""
    try:
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    if target == "tree":
        return family
    if target == "parent":
        return [parent]
    if target == "group":
        return [member for member in family if _group(member) == process.pid]
    return [member for member in family if _MARKS[target] in " ".join(_command(member))][:1]


def _group(member: psutil.Process) -> int | None:
    try:
        return os.getpgid(member.pid)
    except ProcessLookupError:
        return None


def _command(member: psutil.Process) -> list[str]:
    try:
        return member.cmdline()
    except psutil.Error:
        return []


def _still_alive(output: Path) -> list[str]:
    """Processes of a run that go on after the time of grace; they are ended here."""
    deadline = time.monotonic() + GRACE
    while (alive := _of_run(output)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    return [f"{member.pid} {' '.join(_command(member))[:80]}" for member in alive]


def _of_run(output: Path) -> list[psutil.Process]:
    found = []
    for member in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            own = member.environ().get("DITS_OUTPUT") == str(output)
            if own and member.status() != psutil.STATUS_ZOMBIE:
                found.append(member)
    return found
