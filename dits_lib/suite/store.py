"""Artifacts: the result of a stage, in a folder under a key made of all that went into it.

A folder is written under a temporary name and renamed when it is complete, so a killed run leaves
either the whole artifact or none; what a killed run leaves under a temporary name is removed by a
later one. `manifest.json` holds the specification, what it cost, a checksum of every file, and one
of itself.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from ..settings.files import FULL, is_full
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
    "logprobs": _PLAY,
}
"""Modules whose code, with all that they import, is part of each stage's key; for scores that of
the estimator too. Comments and docstrings do not count."""


LEFT_OUT = "weights.left_out"
"""Beside weights (`is_weights`) that `commands.pack` did not take along: tables and figures need
none of them, and training on from such a model says that it has no weights."""


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
        """The rows of a JSONL file of the artifact, read once in a process; not to be changed.

        Raises:
            StoreError: when it is not one of the artifact's files, or cannot be read any more.
        """
        return read_rows(self.file(name))

    def json(self, name: str) -> dict:
        """The value of a JSON file of the artifact; not to be changed.

        Raises:
            StoreError: as for `rows`.
        """
        rows, file = self.rows(name), self.path / name
        if len(rows) != 1:
            raise StoreError(f"{file}: {len(rows)} rows instead of one; {_advice(self.path)}")
        return rows[0]

    def file(self, name: str) -> Path:
        """One of the artifact's files.

        Raises:
            StoreError: when the manifest, whose checksums were compared, does not name it.
        """
        if name not in self.manifest["files"]:
            raise StoreError(f"{self.path / name}: not in manifest.json; {_advice(self.path)}")
        return self.path / name

    @staticmethod
    def at(path: str | Path) -> Artifact:
        """The artifact in a folder, as it lies there.

        Raises:
            StoreError: when it is damaged.
        """
        return _read(Path(path))


@lru_cache(maxsize=16)
def read_rows(file: Path) -> list:
    """The values of a JSONL file of an artifact. What is in an artifact never changes, so that a
    file needs to be parsed once.

    Raises:
        StoreError: when it cannot be read, or is no JSON.
    """
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); {_advice(file.parent)}") from None


class Store:
    """Artifacts below one folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._checked: dict[str, Artifact] = {}
        self._swept = False

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
        body = json.loads(json.dumps(body))  # as the manifest will give it back
        key = _key(body)
        path = self.root / f"{stage}-{key}"
        USED.add(path.name)
        if key in self._checked:
            return self._checked[key]
        if not os.path.lexists(path):  # a link that leads nowhere is a damaged artifact
            with _told(self.root):
                if not self._swept:
                    sweep(self.root)
                    self._swept = True
                with self._alone(path):
                    if not os.path.lexists(path):  # else another process made it meanwhile
                        self._make(path, body, make)
        self._checked[key] = _read(path)
        return self._checked[key]

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Hold the lock by which no two processes make one artifact; the system frees it when its
        holder dies."""
        lock = _lock_of(path)
        place = lock.parent
        try:
            place.mkdir(parents=True, exist_ok=True)
            place = lock
            held = FileLock(lock).acquire()
        except OSError as error:
            if is_full(error):
                raise
            raise StoreError(
                f"{place}: locks cannot be kept there ({error.strerror or error}); delete it and "
                "run again"
            ) from None
        with held:
            yield

    def _make(self, path: Path, body: dict, make: Callable[[Path], dict]) -> None:
        for listener in LISTENERS:
            listener(body["stage"])
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
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
            manifest = json.loads(json.dumps(body | {"cost": cost, "files": files}))
            write_json(temporary / "manifest.json", manifest | {"checksum": _digest(manifest)})
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _lock_of(path: Path) -> Path:
    return path.parent / ".locks" / path.name


_TEMPORARY = re.compile(r"\.([a-z]+-[0-9a-f]{20})\.[0-9a-f]+")


def sweep(root: Path) -> None:
    """Remove the temporary folders of stages whose maker was killed: those whose lock is free."""
    for left in root.glob(".*-*"):
        named = _TEMPORARY.fullmatch(left.name)
        # What is locked is being made; a lock that cannot be had is told when it is needed.
        with suppress(Timeout, OSError):
            if named and _lock_of(root / named[1]).parent.is_dir():
                with FileLock(_lock_of(root / named[1]), timeout=0):
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _told(root: Path) -> Iterator[None]:
    """A full disk, and what the system says of a file below the store, in one line."""
    try:
        yield
    except Exception as error:  # safetensors wraps the system's error in its own kind
        if is_full(error):
            raise StoreError(f"{root}: {FULL}") from None
        file = getattr(error, "filename", None)
        if isinstance(error, OSError) and file and Path(file).is_relative_to(root):
            raise StoreError(
                f"{file}: {error.strerror}; finished stages are kept, run again"
            ) from None
        raise


def _key(body: dict) -> str:
    """The key of a stage: a hash of its name, its specification and its code."""
    return _digest(body)[:20]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _advice(folder: Path) -> str:
    return f"delete the folder {folder} and run again to make it anew"


def _read(path: Path) -> Artifact:
    manifest, advice = read_manifest(path), _advice(path)
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            found = checksum(file)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and was_left_out(file):
                continue
            reason = "missing" if isinstance(error, FileNotFoundError) else error.strerror
            raise StoreError(f"{file}: {reason}; {advice}") from None
        if found != expected:
            raise StoreError(
                f"{file}: damaged or cut short (its checksum differs from manifest.json); {advice}"
            )
    return Artifact(path, path.name.split("-", 1)[1], manifest)


def is_weights(file: Path) -> bool:
    """Whether a file of an artifact holds a model's weights."""
    return file.suffix == ".safetensors"


def was_left_out(file: Path) -> bool:
    """Whether weights are missing because they were not taken along."""
    return is_weights(file) and file.with_name(LEFT_OUT).is_file()


def packed_models(folder: Path) -> int:
    """How many models below a profile's folder were not taken along with their weights."""
    return sum(1 for _ in folder.glob(f"*/**/{LEFT_OUT}"))


def read_manifest(path: Path) -> dict:
    """The manifest of an artifact's folder: as it was written, and that of this folder.

    Returns:
        `stage`, `spec`, `code`, `cost`, `files` ({name in the folder: checksum}) and `checksum`,
        its own.

    Raises:
        StoreError: when it is missing or damaged, or tells of another artifact.
    """
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise StoreError(f"{file}: missing or cut short; {_advice(path)}") from None
    kept = dict(manifest) if isinstance(manifest, dict) else {}
    if kept.pop("checksum", None) != _digest(kept):
        raise StoreError(f"{file}: damaged (its own checksum differs); {_advice(path)}")
    key = _key({part: kept[part] for part in ("stage", "spec", "code")})
    if path.name != f"{kept['stage']}-{key}":
        raise StoreError(f"{file}: tells of another artifact; {_advice(path)}")
    return manifest


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
    return hashlib.sha256(_dumped(tree).encode()).hexdigest()


def _dumped(value: object) -> str:
    """A syntax tree as text, without what is empty: releases of Python add fields to their trees,
    and what one machine has computed is to be found on another."""
    if isinstance(value, list):
        return f"[{','.join(map(_dumped, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = [(n, v) for n, v in ast.iter_fields(value) if v is not None and v != []]
    return f"{type(value).__name__}({','.join(f'{n}={_dumped(v)}' for n, v in fields)})"
