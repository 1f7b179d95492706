"""A page as agents see it: its text and its links."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

MAX_MESSAGE = 500
"""Characters of an error's message. Agents are shown it, tables and caches keep it."""

KINDS = (
    "refused",
    "robots",
    "dead",
    "slow",
    "too large",
    "redirects",
    "no page",
    "not text",
    "no search",
)
"""Why a page could not be had."""


def one_line(text: str, characters: int = MAX_MESSAGE) -> str:
    """Text in one line of a number of characters at most; of a longer one the first two thirds and
    the end are kept, since a reason stands behind its address."""
    line = " ".join(text.split())
    if len(line) <= characters:
        return line
    mark = " [cut] "
    first = (characters - len(mark)) * 2 // 3
    return line[:first] + mark + line[first + len(mark) - characters :]


class PageError(RuntimeError):
    """A page that cannot be had. `kind` is one of `KINDS`; the message names the address, in one
    line of `MAX_MESSAGE` characters at most."""

    def __init__(self, kind: str, message: str):
        message = one_line(message)
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message

    def __reduce__(self):
        return PageError, (self.kind, self.message)  # it comes from workers, too


class CacheError(RuntimeError):
    """A cache that cannot answer: what it holds is damaged, or it replays a run and was never asked
    this. It ends the run, since an agent that was told so would say something else than in the run
    that filled the cache."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Page:
    """A page: its address, title, text without markup, and links as (words, address)."""

    url: str
    title: str
    text: str
    links: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict:
        return asdict(self)


class Source(Protocol):
    """Where pages come from."""

    def search(self, query: str) -> list[Page]:
        """Pages that fit the query, the best first.

        Raises:
            PageError: of kind `no search` where there is none.
        """

    def open(self, url: str) -> Page:
        """The page at an address.

        Raises:
            PageError: for whatever reason it cannot be had.
        """


def shown(page: Page, characters: int = 2000, links: int = 20) -> str:
    """A page in words for an agent: title, the first characters of its text, numbered links, one a
    line."""
    text = page.text if len(page.text) <= characters else page.text[:characters] + " [cut]"
    listed = [
        f"[{number}] {words[:80]}" for number, (words, _) in enumerate(page.links[:links], start=1)
    ]
    return "\n".join(
        part for part in (page.title[:200], text, *(["links:", *listed] if listed else [])) if part
    )
