"""A cache of searches and pages on disk: what was seen once is seen again, exactly, without the
network."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ValidationError

from .addresses import MAX_ADDRESS
from .pages import KINDS, CacheError, Page, PageError, Source, one_line


class _Kept(BaseModel):
    """An answer as its file holds it: what was asked (one line, cut), and the pages that were found
    or the kind and the message of the `PageError`."""

    request: str
    found: Page | list[Page] | None = None
    error: tuple[Literal[KINDS], str] | None = None

    def fits(self, kind: Literal["search", "open"], request: str) -> bool:
        """Whether it answers this request."""
        found = list if kind == "search" else Page
        answered = self.found is None if self.error else isinstance(self.found, found)
        return answered and _name(self.request) == _name(request)


def _name(request: str) -> str:
    """A request in one line of what a file can hold: neither too long nor half a character."""
    return one_line(request.encode(errors="replace").decode(), MAX_ADDRESS)


class Cached:
    """A source whose answers, failures too, are kept below a folder.

    Args:
        source: asked for what is not there; None replays alone.
        folder: of the cache of one source; one JSON file an answer.

    Attributes:
        failures: how often each kind of `PageError` was given.

    Raises:
        CacheError: for a folder that cannot be made.

    Raises (when asked):
        PageError: as the source did.
        CacheError: for an answer that is damaged or cannot be kept, or without a source for one
            that is not there.
    """

    def __init__(self, source: Source | None, folder: str | Path):
        self.source, self.folder, self.failures, self._lock, self._asking = (
            source,
            Path(folder),
            Counter(),
            Lock(),
            {},
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{folder}: no folder for pages ({error.strerror})") from None

    def search(self, query: str) -> list[Page]:
        return self._answer("search", query, lambda: self.source.search(query))

    def open(self, url: str) -> Page:
        return self._answer("open", url, lambda: self.source.open(url))

    def _answer(self, kind: str, request: str, ask: Callable[[], Page | list[Page]]):
        digest = hashlib.sha256(request.encode(errors="surrogatepass")).hexdigest()[:24]
        file = self.folder / f"{kind}-{digest}.json"
        with self._lock:
            asking = self._asking.setdefault(file.name, Lock())
        # dialogues side by side ask for one page together: the first answer is everybody's, now and
        # in a replay
        with asking:
            kept = self._kept(file, kind, request, ask)
        if kept.error:
            with self._lock:
                self.failures[kept.error[0]] += 1
            raise PageError(*kept.error)
        return kept.found

    def _kept(self, file: Path, kind: str, request: str, ask) -> _Kept:
        if not os.path.lexists(file):
            if self.source is None:
                raise CacheError(
                    f"{self.folder}: holds no answer to {kind} {one_line(request, 200)!r}; it "
                    "replays another run than this (web.replay)"
                )
            asked = {"request": _name(request)}
            try:
                found = ask()
                rows = found.to_json() if kind == "open" else [page.to_json() for page in found]
                asked["found"] = rows
            except PageError as error:
                asked["error"] = [error.kind, error.message]
            self._write(file, asked)
        # Another process may have been first: what lies there is everybody's answer.
        return self._read(file, kind, request)

    def _read(self, file: Path, kind: str, request: str) -> _Kept:
        try:
            kept = _Kept.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            kept = None
        if kept is None or not kept.fits(kind, request):
            raise CacheError(
                f"{file}: damaged, cut short or not of this request; delete it to ask again"
            )
        return kept

    def _write(self, file: Path, kept: dict) -> None:
        """Under a temporary name first, and never over an answer that is there."""
        name = None
        try:
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as out:
                json.dump(kept, out, ensure_ascii=False)
            try:
                os.link(name, file)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(name, file)
        except OSError as error:
            # An agent that was told so would say something else than in a replay.
            raise CacheError(f"{file}: cannot be written ({error.strerror})") from None
        finally:
            if name:
                Path(name).unlink(missing_ok=True)
