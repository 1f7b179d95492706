"""A cache of searches and pages on disk: what was seen once is seen again, exactly, without the
network."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from threading import Lock

from .pages import CacheError, Page, PageError, Source


class Cached:
    """A source whose answers, failures too, are kept below a folder.

    Args:
        source: asked for what is not there; None replays alone.
        folder: of the cache of one source; one JSON file an answer.

    Attributes:
        failures: how often each kind of `PageError` was given.

    Raises (when asked):
        PageError: as the source did.
        CacheError: for an answer that is damaged, or without a source for one that is not there.
    """

    def __init__(self, source: Source | None, folder: str | Path):
        self.source, self.folder, self.failures, self._lock, self._asking = (
            source,
            Path(folder),
            Counter(),
            Lock(),
            {},
        )
        self.folder.mkdir(parents=True, exist_ok=True)

    def search(self, query: str) -> list[Page]:
        return [
            Page.from_json(row)
            for row in self._answer(
                "search", query, lambda: [page.to_json() for page in self.source.search(query)]
            )
        ]

    def open(self, url: str) -> Page:
        return Page.from_json(self._answer("open", url, lambda: self.source.open(url).to_json()))

    def _answer(self, kind: str, request: str, ask):
        file = self.folder / f"{kind}-{hashlib.sha256(request.encode()).hexdigest()[:24]}.json"
        with self._lock:
            asking = self._asking.setdefault(file.name, Lock())
        # dialogues side by side ask for one page together: the first answer is everybody's, now and
        # in a replay
        with asking:
            kept = self._kept(file, kind, request, ask)
        if "error" in kept:
            with self._lock:
                self.failures[kept["error"][0]] += 1
            raise PageError(*kept["error"])
        return kept["found"]

    def _kept(self, file: Path, kind: str, request: str, ask) -> dict:
        kept = self._read(file)
        if kept is None:
            if self.source is None:
                raise CacheError(
                    f"{self.folder}: holds no answer to {kind} {request!r}; it replays another run "
                    "than this (web.replay)"
                )
            try:
                asked = {"request": request, "found": ask()}
            except PageError as error:
                asked = {"request": request, "error": [error.kind, error.message]}
            self._write(file, asked)
            # Another process may have been first: what lies there is everybody's answer.
            kept = self._read(file)
        return kept

    def _read(self, file: Path) -> dict | None:
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, json.JSONDecodeError):
            raise CacheError(f"{file}: damaged or cut short; delete it to ask again") from None

    def _write(self, file: Path, kept: dict) -> None:
        """Under a temporary name first, and never over an answer that is there."""
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(kept, out, ensure_ascii=False)
        try:
            os.link(name, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(name, file)
        Path(name).unlink(missing_ok=True)
