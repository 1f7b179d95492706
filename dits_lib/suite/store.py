"""Artifacts: the result of a stage, in a folder under a key made of all that went into it.

A folder is written under a temporary name and renamed when it is complete, so a killed run leaves
either the whole artifact or none. `manifest.json` holds the specification, what it cost, and a
checksum of every file.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from filelock import FileLock

from .memory import GPUMemoryWatch, peak_memory_mb, reset_peak_memory

LIBRARY = Path(__file__).resolve().parents[1]
_PLAY = ("rollout.py", "suite/deep_search.py", "suite/pipeline.py")
_SEARCH = (*_PLAY, "search.py", "pairs.py")
_TRAIN = ("training.py", "suite/pipeline.py")
STAGE_CODE = {
    "search": _SEARCH,
    "response": (*_SEARCH, "influence/step_size.py"),
    "score": _SEARCH,
    "sft": (*_TRAIN, "agents"),
    "dpo": _TRAIN,
    "evaluate": _PLAY,
}
"""Modules whose code, with all that they import, is part of each stage's key; for scores that of
the estimator too. Comments and docstrings do not count."""


class StoreError(RuntimeError):
    """An artifact that cannot be read or written. The message names the file and what to do."""


USED: set[str] = set()
"""Folder names of the artifacts that this process has asked for; the ledger adds up what they
cost."""

LISTENERS: list[Callable[[str], None]] = []
"""Called with a stage's name when this process begins to compute it: progress bars show it."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, its key and its manifest."""

    path: Path
    key: str
    manifest: dict

    @property
    def name(self) -> str:
        """Its folder's name, `<stage>-<key>`, as tables and the ledger give it."""
        return self.path.name

    def rows(self, name: str) -> list[dict]:
        """The rows of a JSONL file of the artifact, read once in a process; not to be changed."""
        return _rows(self.path / name)

    def json(self, name: str) -> dict:
        """The value of a JSON file of the artifact; not to be changed."""
        return _rows(self.path / name)[0]

    @staticmethod
    def at(path: str | Path) -> Artifact:
        """The artifact in a folder, as it lies there.

        Raises:
            StoreError: when it is damaged.
        """
        path = Path(path)
        return _read(path, path.name.split("-", 1)[1])


@lru_cache(maxsize=16)
def _rows(file: Path) -> list:
    # What is in an artifact never changes, so that a file needs to be parsed once.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


class Store:
    """Artifacts below one folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._checked: dict[str, Artifact] = {}

    def get(
        self, stage: str, spec: dict, make: Callable[[Path], dict], code: tuple[str, ...] = ()
    ) -> Artifact:
        """The artifact of `stage` for `spec`, made by `make(folder)` if it is not there.

        Args:
            stage: a name of `STAGE_CODE`.
            spec: everything that decides the result: parameters, seeds, keys of inputs. JSON
                values.
            make: writes files into the folder it is given and returns costs (tokens and the like).
            code: modules of the library that decide the result too, beside those of the stage.

        Raises:
            StoreError: when an artifact was damaged, or the disk is full.
        """
        body = {"stage": stage, "spec": spec, "code": code_version(stage, code)}
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:20]
        path = self.root / f"{stage}-{key}"
        USED.add(path.name)
        if key in self._checked:
            return self._checked[key]
        if not path.exists():
            with _named_if_full(path), self._alone(path):
                if not path.exists():  # else another process made it meanwhile
                    self._make(path, body, make)
        self._checked[key] = _read(path, key)
        return self._checked[key]

    def _alone(self, path: Path) -> FileLock:
        """A lock by which no two processes make one artifact; the system frees it when its holder
        dies."""
        (self.root / ".locks").mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".locks" / path.name)

    def _make(self, path: Path, body: dict, make: Callable[[Path], dict]) -> None:
        for listener in LISTENERS:
            listener(body["stage"])
        temporary = self.root / f".{path.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            start = time.perf_counter()
            reset_peak_memory()
            with GPUMemoryWatch() as gpu:
                cost = make(temporary) or {}
            seconds = round(time.perf_counter() - start, 2)
            cost = {
                "seconds": seconds,
                "peak_memory_mb": peak_memory_mb(),
                "peak_gpu_memory_mb": gpu.peak_mb,
                **cost,
            }
            files = {
                str(p.relative_to(temporary)): checksum(p)
                for p in sorted(temporary.rglob("*"))
                if p.is_file()
            }
            write_json(temporary / "manifest.json", body | {"cost": cost, "files": files})
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _named_if_full(path: Path) -> Iterator[None]:
    """A full disk in one line."""
    try:
        yield
    except Exception as error:  # safetensors wraps the system's error in its own kind
        if getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left on device" in str(error):
            raise StoreError(
                f"{path}: no space left on the device; free some and run again, finished stages "
                "are kept"
            ) from None
        raise


def _read(path: Path, key: str) -> Artifact:
    advice = f"delete the folder {path} and run again to make it anew"
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise StoreError(f"{path / 'manifest.json'}: missing or cut short; {advice}") from None
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise StoreError(f"{file}: missing; {advice}")
        if checksum(file) != expected:
            raise StoreError(
                f"{file}: damaged or cut short (its checksum differs from manifest.json); {advice}"
            )
    return Artifact(path, key, manifest)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True), encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row) + "\n")


@cache
def code_version(stage: str, more: tuple[str, ...] = ()) -> str:
    """Hash of the code behind a stage, without comments and docstrings.

    Args:
        more: files or folders of the library that belong to it too.
    """
    digest = hashlib.sha256()
    for file in code_files((*STAGE_CODE[stage], *more)):
        digest.update(_file_digest(file).encode())
    return digest.hexdigest()[:16]


def code_files(roots: tuple[str, ...]) -> list[Path]:
    """Files and folders of the library with all that they import of it, in the order of their
    names. A module of the suite counts by itself: it joins parts of the method, and imports all."""
    waiting = [file for root in roots for file in _files_of(LIBRARY / root)]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            if file.relative_to(LIBRARY).parts[0] != "suite":
                waiting += _imported(file)
    return sorted(found)


def _files_of(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


@cache
def _imported(file: Path) -> tuple[Path, ...]:
    """The library's files behind the relative imports of a file; of a package, all its files."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = file.parents[node.level - 1].joinpath(
                *filter(None, (node.module or "").split("."))
            )
            names = [place / alias.name for alias in node.names] if place.is_dir() else []
            modules = [name.with_suffix(".py") for name in names]
            if place.is_dir() and all(module.is_file() for module in modules):
                found += modules
            else:
                found += _files_of(place if place.is_dir() else place.with_suffix(".py"))
    return tuple(found)


@cache
def _file_digest(file: Path) -> str:
    return source_digest(file.read_text(encoding="utf-8"))


def source_digest(source: str) -> str:
    """Hash of Python code that comments, layout and docstrings do not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
