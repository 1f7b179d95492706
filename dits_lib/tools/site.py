"""A site in a folder: HTML files, found by BM25 (bm25s), whose links lead nowhere else."""

from __future__ import annotations

import sys
from functools import cached_property
from importlib import import_module
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from .addresses import site_address
from .encodings import MAX_BYTES
from .markup import read_html
from .pages import Page, PageError
from .words import WORD, spaced

SUFFIXES = (".html", ".htm")
"""Of pages, in upper or lower case."""

_LOCK = Lock()


def _bm25s():
    """bm25s without JAX: where JAX is installed, bm25s starts it at import, and it takes three
    quarters of the GPU for itself. Tools act in several threads, and one alone may hide JAX."""
    with _LOCK:
        if "bm25s" not in sys.modules:
            hidden = sys.modules.setdefault("jax", None) is None
            try:
                import_module("bm25s")
            finally:
                if hidden:
                    del sys.modules["jax"]
        return sys.modules["bm25s"]


def site_files(folder: Path) -> list[Path]:
    """The files below a folder that are pages, in order of their names."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file())


def _words(texts: list[str], query: bool):
    """Texts as bm25s' tokens."""
    return _bm25s().tokenize(
        [spaced(text, query) for text in texts],
        token_pattern=WORD,
        stopwords="en",
        show_progress=False,
    )


class LocalSite:
    """The HTML files (`.html`, `.htm`) below a folder; a file's address is `site:///` and its path.

    Args:
        folder: of the site.
        top: pages that a search gives, at most.

    Raises:
        PageError: for a folder that is missing or holds no page, and for a file whose name can be
            no address.
    """

    def __init__(self, folder: str | Path, top: int = 5):
        self.folder, self.top, self._indexing = Path(folder).resolve(), top, Lock()
        self.urls = [self._address(path) for path in site_files(self.folder)]
        if not self.urls:
            raise PageError("no page", f"{folder}: no folder with *.html files")

    def _address(self, path: Path) -> str:
        try:
            return site_address(path.relative_to(self.folder).as_posix())
        except ValueError as error:
            raise PageError("no page", f"{str(path)!r}: no name for a page ({error})") from None

    def open(self, url: str) -> Page:
        try:
            parts = urlsplit(url)
            path = (self.folder / unquote(parts.path).lstrip("/")).resolve()
        except (ValueError, RuntimeError):  # a link that leads to itself
            raise PageError("refused", f"{url!r}: no address") from None
        if (
            parts.scheme != "site"
            or parts.netloc
            or not path.is_relative_to(self.folder)
            or path.suffix.lower() not in SUFFIXES
        ):
            raise PageError("refused", f"{url}: outside the site")
        try:
            if not path.is_file():  # a pipe would wait for ever
                raise FileNotFoundError
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            raise PageError("no page", f"{url}: there is no such page") from None
        page = read_html(data, self._address(path))
        return Page(
            page.url,
            page.title,
            page.text,
            tuple(link for link in page.links if link[1] in self._known),
        )

    def search(self, query: str) -> list[Page]:
        words = _words([query], query=True)
        if not words.ids[0] or not len(words.vocab):
            return []
        with self._indexing:
            index = self._index
        found, scores = index.retrieve(words, k=min(self.top, len(self.urls)), show_progress=False)
        return [
            self.open(self.urls[i])
            for i, score in zip(found[0].tolist(), scores[0].tolist(), strict=True)
            if score > 0
        ]

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.urls)

    @cached_property
    def _index(self):
        texts = []
        for url in self.urls:
            try:
                page = self.open(url)
                texts.append(f"{page.title} {page.text}")
            except PageError:  # a page that cannot be read is not found either
                texts.append("")
        index = _bm25s().BM25()
        index.index(_words(texts, query=False), show_progress=False)
        return index
