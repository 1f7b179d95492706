"""The live web, with care: time, size and redirects are limited, robots.txt is kept, private
addresses are refused. Nothing is sent but GET requests without cookies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import certifi
from pydantic import BaseModel

from .addresses import encoded
from .fetching import AGENT, REDIRECTS, Answer, Fetcher, read_as
from .markup import read_html
from .pages import Page, PageError, one_line

MAX_BYTES = 5_000_000
"""Of a page, and of a search engine's answer."""

_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


class _Found(BaseModel):
    url: str


class _Results(BaseModel):
    """What is read of a SearXNG answer."""

    results: list[_Found]


def searxng(address: str, seconds: float = 20.0) -> Callable[[str], list[str]]:
    """A function that asks a SearXNG search engine (its `/search?format=json`), one's own or
    another's.

    Args:
        seconds: for an answer, all of it; a day at most.

    Raises:
        PageError: of kind `no search`, when the engine cannot be asked, or answers something else.
    """
    fetcher = Fetcher(seconds, MAX_BYTES, private=True, proxies=True)

    def find(query: str) -> list[str]:
        fetcher.begin()
        try:
            asked = urlencode({"q": query, "format": "json"})
            answer = fetcher.fetch(f"{address.rstrip('/')}/search?{asked}")
            if answer.status in REDIRECTS:
                to = answer.headers.get("location", "another address")
                raise ValueError(f"status {answer.status}: it redirects to {to}; name that address")
            if answer.status >= 400:
                raise ValueError(f"status {answer.status}")
            return [found.url for found in read_as(_Results, answer.body).results]
        except PageError as error:
            raise PageError("no search", f"{address}: {error}") from None
        except ValueError as error:
            told = f"{address}: not the JSON of a SearXNG server ({error})"
            raise PageError("no search", told) from None

    return find


class Web:
    """Pages of the live web.

    Args:
        seconds: for a page, redirects included, a day at most; looking up a host's name has the
            system's own limit.
        max_bytes: of a page.
        redirects: followed, at most.
        search_engine: query -> addresses, best first: a search engine of the user's; None: search
            is refused.
        robots: whether robots.txt is kept.
        private: whether loopback and private addresses may be opened (tests only).
    """

    def __init__(
        self,
        *,
        seconds: float = 20.0,
        max_bytes: int = MAX_BYTES,
        redirects: int = 5,
        search_engine: Callable[[str], list[str]] | None = None,
        robots: bool = True,
        private: bool = False,
        top: int = 5,
    ):
        self.redirects, self.search_engine, self.robots, self.top = (
            redirects,
            search_engine,
            robots,
            top,
        )
        self._rules: dict[str, RobotFileParser] = {}
        self._fetcher = Fetcher(seconds, max_bytes, private, certifi.where())

    def search(self, query: str) -> list[Page]:
        if self.search_engine is None:
            raise PageError("no search", "no search engine was given")
        pages, failed = [], []
        for url in self.search_engine(query)[: self.top]:
            try:
                pages.append(self.open(url))
            except PageError as error:  # told in place of its words
                failed.append(error)
                pages.append(Page(one_line(url), "", f"({error.kind})"))
        if failed and len(failed) == len(pages):
            raise failed[-1]
        return pages

    def open(self, url: str) -> Page:
        """The page at an http(s) address, after redirects. What comes is read in one go after that:
        `seconds` limits the network."""
        self._fetcher.begin()
        try:
            answer, url = self._get(encoded(url), self.robots)
        except (ValueError, TypeError) as error:
            # An address that the parts of the library disagree on.
            raise PageError("refused", f"{url!r}: no address ({error})") from None
        if answer.status >= 400:
            raise PageError("no page", f"{url}: status {answer.status}")
        media, _, rest = answer.headers.get("content-type", "").partition(";")
        if media.strip().lower() not in ("", "text/html", "application/xhtml+xml", "text/plain"):
            raise PageError("not text", f"{url}: {media.strip()}")
        declared = _CHARSET.search(rest)
        return read_html(answer.body, url, declared and declared[1])

    def _allowed(self, url: str) -> bool:
        root = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        if root not in self._rules:
            rules = RobotFileParser()
            try:
                answer, _ = self._get(f"{root}/robots.txt", False)
            except PageError as error:
                if error.kind != "redirects":  # rules that cannot be read are not kept either
                    raise
                answer = Answer(404, {}, b"")
            if answer.status >= 500:
                return False  # RFC 9309: a site that cannot tell its rules forbids all, for now
            text = answer.body.decode("utf-8-sig", "replace") if answer.status < 400 else ""
            rules.parse(text.splitlines())
            self._rules[root] = rules
        return self._rules[root].can_fetch(AGENT, url)

    def _get(self, url: str, robots: bool) -> tuple[Answer, str]:
        """The answer and the last address; with `robots`, the rules of every host on the way are
        kept."""
        for _ in range(self.redirects + 1):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise PageError("refused", f"{url}: not an http address")
            if robots and not self._allowed(url):
                raise PageError("robots", f"{url}: its robots.txt forbids it")
            answer = self._fetcher.fetch(url, {"Accept": "text/html,text/plain"})
            if answer.status not in REDIRECTS or "location" not in answer.headers:
                return answer, url
            url = encoded(urljoin(url, answer.headers["location"]))
        raise PageError("redirects", f"{url}: more than {self.redirects} redirects")
