"""Damage to what lies on the disk, and a disk that is full.

A damaged output, stamp or lock must be made anew, or be refused in one line; then the file or
folder that the line names is deleted, as it says, and the next run must equal an undisturbed one.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .fault_runs import (
    OTHER,
    REFUSED,
    SURVIVED,
    TRACEBACK,
    UNEQUAL,
    Case,
    Ended,
    differing,
    emptied,
    kept,
    left_behind,
    results,
    run,
)


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 0x08
    path.write_bytes(bytes(data))


def _says(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _empty_folder(path: Path) -> None:
    _removed(path)
    path.mkdir()


def _full_folder(path: Path) -> None:
    _empty_folder(path)
    (path / "mine.txt").write_text("somebody's own")


def _dangling(path: Path) -> None:
    _removed(path)
    path.symlink_to(path.with_name("nowhere"))


def _loop(path: Path) -> None:
    _removed(path)
    path.symlink_to(path)


def _a_file(path: Path) -> None:
    _removed(path)
    path.write_text("somebody's own")


CONTENT: dict[str, Callable[[Path], None]] = {
    "cut in half": _cut,
    "one bit flipped": _flipped,
    "emptied": _says(b""),
    "not UTF-8": _says(b"\xff\xfe\xff"),
    "[]": _says(b"[]"),
    "null": _says(b"null"),
    "{}": _says(b"{}"),
    "files: {}": _says(b'{"files": {}, "artifacts": [], "entries": [], "key": ""}'),
    "nested 100,000 deep": _says(b"[" * 100_000),
    "a number of 5,000 digits": _says(b"9" * 5000),
}
PLACE: dict[str, Callable[[Path], None]] = {
    "deleted": _removed,
    "an empty folder": _empty_folder,
    "a folder with a file in it": _full_folder,
    "a link that leads nowhere": _dangling,
    "a link to itself": _loop,
}
FOLDER = {
    "deleted": _removed,
    "a file": _a_file,
    "an empty folder": _empty_folder,
    "a link that leads nowhere": _dangling,
}


@dataclass(frozen=True)
class Damage:
    """What is done to one path below the output of a finished run.

    Attributes:
        kind: of the path: artifact, manifest, lock ...
        path: below the output.
        way: a name in `CONTENT`, `PLACE` or `FOLDER`.
        removed: other paths that are deleted first, so that the next run comes to this one.
    """

    kind: str
    path: str
    way: str
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.way}"

    def do(self, output: Path) -> None:
        ways = FOLDER if self.kind.endswith("folder") else CONTENT | PLACE
        for name in self.removed:
            _removed(output / name)
        ways[self.way](output / self.path)


def damages(output: Path, count: int, seed: int) -> list[Damage]:
    """`count` of all that can be done to a finished run, each kind of path as often as another."""
    rng, by_kind = random.Random(seed), {}
    for kind, places in _places(output).items():
        ways = FOLDER if kind.endswith("folder") else CONTENT | PLACE
        found = [Damage(kind, path, way, gone) for path, gone in places for way in ways]
        rng.shuffle(found)
        by_kind[kind] = found
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    return [damage for damage in dealt if damage is not None][:count]


Places = list[tuple[str, tuple[str, ...]]]
"""(path, what is deleted with it)."""


def _places(output: Path) -> dict[str, Places]:
    def below(folder: Path, pattern: str) -> list[str]:
        return sorted(str(p.relative_to(output)) for p in folder.glob(pattern) if p.is_file())

    runs = next(path for path in (output / "runs").iterdir() if path.is_dir())
    made = next(path for path in (output / "results").iterdir() if path.is_dir())
    stamps = tuple(below(runs, "*.stamp.json"))
    stages = [str(path.relative_to(output)) for path in sorted(runs.glob("[a-z]*-*"))]
    files = [file for file in below(runs, "[a-z]*-*/**/*") if not file.endswith("manifest.json")]
    store = str(runs.relative_to(output))
    locks = [(f"{store}/.locks/{Path(stage).name}", (*stamps, stage)) for stage in stages]
    folder = str(made.relative_to(output))
    pages = [file for file in below(made, "*") + below(made, "tables/ledger*")]
    outputs = below(made, "tables/0*") + below(made, "figures/*") + below(made, "notebooks/*")
    return {
        "artifact": [(file, stamps) for file in files],
        "manifest": [(f"{stage}/manifest.json", ()) for stage in stages],
        "artifact's folder": [(stage, stamps) for stage in stages],
        "lock": locks,
        "stamp": [(stamp, ()) for stamp in stamps],
        "index": [(file, ()) for file in below(made, "index/*")],
        "output": [(file, ()) for file in outputs],
        "page": [(file, ()) for file in pages],
        "folder": [(f"{folder}/{part}", ()) for part in ("tables", "figures", "index", "notebooks")]
        + [(f"{store}/.locks", (*stamps, stages[0]))],
    }


def damage_campaign(
    count: int, seed: int, params: Path, whole: Path, folder: Path, jobs: int
) -> list[Case]:
    """`count` damaged copies of a finished run, each run again, `jobs` at a time."""
    expected, chosen = results(whole), damages(whole, count, seed)

    def one(number: int) -> Case:
        output = emptied(folder / f"damaged-{number}") / "output"
        shutil.copytree(whole, output, symlinks=True)
        case = _damaged(chosen[number], params, output, expected)
        shutil.rmtree(output.parent)
        return case

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, range(len(chosen))))


def _damaged(damage: Damage, params: Path, output: Path, expected: dict[str, bytes]) -> Case:
    kind = f"damaged: {damage.kind}"
    damage.do(output)
    first = done = run(params, output)
    for _ in range(3):
        if done.verdict() != REFUSED:
            break
        named = _named(done, output)
        if named is None:
            return Case(kind, str(damage), OTHER, f"names no path: {done.said}")
        _removed(named)
        done = run(params, output)
    if done.status != 0:
        verdict = done.verdict() if done.verdict() != REFUSED else OTHER
        return Case(kind, str(damage), verdict, done.said)
    if unlike := differing(results(output), expected):
        return Case(kind, str(damage), UNEQUAL, ", ".join(unlike[:5]))
    return Case(kind, str(damage), first.verdict(), first.said)


def _named(done: Ended, output: Path) -> Path | None:
    """The path that a message says to delete or move away: the last one below the output."""
    found = re.findall(rf"{re.escape(str(output))}/[^\s:;,]+", done.said)
    return Path(found[-1]) if found else None


def disk_campaign(seed: int, params: Path, whole: Path, folder: Path, sizes: int) -> list[Case]:
    """Runs on disks of a few megabytes that fill up on the way, then grow.

    Returns one case that says so where no such disk can be mounted.
    """
    disk, rng = emptied(folder / "disk"), random.Random(seed)
    if not _mounted(disk, 1 << 20):
        return [Case("full disk", "left out: a small disk cannot be mounted here", SURVIVED)]
    used = sum(path.stat().st_blocks * 512 for path in whole.rglob("*"))
    cases = []
    try:
        for _ in range(sizes):
            subprocess.run(["umount", str(disk)], check=True)
            _mounted(disk, size := rng.randrange(1 << 14, used))
            cases.append(_filled(size, disk, used, params, results(whole)))
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    return cases


def _mounted(disk: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    try:
        return os.name == "posix" and not subprocess.run(command, capture_output=True).returncode
    except OSError:
        return False


def _filled(size: int, disk: Path, used: int, params: Path, expected) -> Case:
    kind, what = "full disk", f"{size} bytes"
    first = run(params, disk)
    before = kept(disk)
    if left := left_behind(disk):
        return Case(kind, what, OTHER, f"left behind: {', '.join(left[:5])}")
    if first.verdict() == TRACEBACK or (first.said and "no space left" not in first.said.lower()):
        return Case(kind, what, first.verdict(), first.said)
    subprocess.run(["mount", "-o", f"remount,size={4 * used}", str(disk)], check=True)
    done = run(params, disk)
    if done.status != 0:
        return Case(kind, what, done.verdict(), done.said)
    if any(kept(disk).get(name) != manifest for name, manifest in before.items()):
        return Case(kind, what, "lost", "a finished stage was made again")
    if unlike := differing(results(disk), expected):
        return Case(kind, what, UNEQUAL, ", ".join(unlike[:5]))
    return Case(kind, what, first.verdict(), first.said)
