"""The live web, with care: time, size and redirects are limited, robots.txt is kept, private
addresses are refused.

A host's addresses are looked up once, checked, and the connection goes to the address that was
checked, so that a name cannot point elsewhere between the check and the call. Nothing is sent but
GET requests without cookies.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from http.client import HTTPException
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import urlopen
from urllib.robotparser import RobotFileParser

import certifi
import httpcore

from .pages import Page, PageError, encoded, read_html

AGENT = "dits-research/1.0"
_REDIRECTS = (301, 302, 303, 307, 308)


class _Checked(httpcore.SyncBackend):
    """Connects to public addresses alone."""

    def __init__(self, private: bool):
        super().__init__()
        self.private, self.clock = private, _Clock()

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        try:
            found = list(
                dict.fromkeys(
                    item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                )
            )
        except (OSError, UnicodeError) as error:
            raise PageError("dead", f"{host}: no such host ({error})") from None
        if not self.private and not all(_public(address) for address in found):
            raise PageError("refused", f"{host}: a loopback, private or reserved address")
        for address in found:
            try:
                return _Timed(
                    super().connect_tcp(
                        address, port, self.clock.left(timeout), local_address, socket_options
                    ),
                    self.clock,
                )
            except httpcore.ConnectError:
                if address == found[-1]:
                    raise


class _Clock(threading.local):
    """When the page that this thread fetches must be there."""

    end = float("inf")

    def left(self, timeout: float | None) -> float:
        """Seconds left, `timeout` at most.

        Raises:
            httpcore.ReadTimeout: when none is left.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("no time left")
        return left if timeout is None else min(timeout, left)


class _Timed(httpcore.NetworkStream):
    """A stream whose every step ends with the page's time: a limit for each read alone would let
    headers drip for ever."""

    def __init__(self, stream: httpcore.NetworkStream, clock: _Clock):
        self.stream, self.clock = stream, clock

    def read(self, max_bytes, timeout=None):
        return self.stream.read(max_bytes, self.clock.left(timeout))

    def write(self, buffer, timeout=None):
        self.stream.write(buffer, self.clock.left(timeout))

    def close(self):
        self.stream.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _Timed(
            self.stream.start_tls(ssl_context, server_hostname, self.clock.left(timeout)),
            self.clock,
        )

    def get_extra_info(self, info):
        return self.stream.get_extra_info(info)


def searxng(address: str, seconds: float = 20.0) -> Callable[[str], list[str]]:
    """A function that asks a SearXNG search engine (its `/search?format=json`), one's own or
    another's.

    Raises:
        PageError: when the engine cannot be asked, or answers something else.
    """

    def find(query: str) -> list[str]:
        try:
            with urlopen(
                f"{address.rstrip('/')}/search?{urlencode({'q': query, 'format': 'json'})}",
                timeout=seconds,
            ) as answer:
                return [str(found["url"]) for found in json.load(answer)["results"]]
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise PageError("no search", f"{address}: {type(error).__name__}: {error}") from None

    return find


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.split("%")[0])
    return found.is_global and not found.is_multicast


class Web:
    """Pages of the live web.

    Args:
        seconds: for a page, redirects included; looking up a host's name has the system's own
            limit.
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
        max_bytes: int = 5_000_000,
        redirects: int = 5,
        search_engine: Callable[[str], list[str]] | None = None,
        robots: bool = True,
        private: bool = False,
        top: int = 5,
    ):
        self.seconds, self.max_bytes, self.redirects, self.search_engine, self.robots, self.top = (
            seconds,
            max_bytes,
            redirects,
            search_engine,
            robots,
            top,
        )
        self._rules: dict[str, RobotFileParser] = {}
        self._backend = _Checked(private)
        self._pool = httpcore.ConnectionPool(
            network_backend=self._backend,
            ssl_context=ssl.create_default_context(cafile=certifi.where()),
        )

    def search(self, query: str) -> list[Page]:
        if self.search_engine is None:
            raise PageError("no search", "no search engine was given")
        pages, failed = [], []
        for url in self.search_engine(query)[: self.top]:
            try:
                pages.append(self.open(url))
            except PageError as error:  # told in place of its words
                failed.append(error)
                pages.append(Page(url, "", f"({error.kind})"))
        if failed and len(failed) == len(pages):
            raise failed[-1]
        return pages

    def open(self, url: str) -> Page:
        """The page at an http(s) address, after redirects. What comes is read in one go after that:
        `seconds` limits the network."""
        end = self._backend.clock.end = time.monotonic() + self.seconds
        try:
            status, kind, data, url = self._get(encoded(url), end, self.robots)
        except (
            ValueError,
            TypeError,
        ) as error:
            # An address that the parts of the library disagree on.
            raise PageError("refused", f"{url!r}: no address ({error})") from None
        if status >= 400:
            raise PageError("no page", f"{url}: status {status}")
        media, _, rest = kind.partition(";")
        if media.strip().lower() not in ("", "text/html", "application/xhtml+xml", "text/plain"):
            raise PageError("not text", f"{url}: {media.strip()}")
        declared = rest.partition("charset=")[2].strip(" \"'") or None
        return read_html(data, url, declared)

    def _allowed(self, url: str, end: float) -> bool:
        root = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        if root not in self._rules:
            rules = RobotFileParser()
            try:
                status, _, data, _ = self._get(f"{root}/robots.txt", end, False)
            except PageError as error:
                if error.kind in ("refused", "dead", "slow"):
                    raise
                status, data = 404, b""
            if status >= 500:  # RFC 9309: a site that cannot tell its rules forbids all, for now
                return False
            rules.parse(data.decode("utf-8", "replace").splitlines() if status < 400 else [])
            self._rules[root] = rules
        return self._rules[root].can_fetch(AGENT, url)

    def _get(self, url: str, end: float, robots: bool) -> tuple[int, str, bytes, str]:
        """Status, content type, body and last address; with `robots`, the rules of every host on
        the way are kept."""
        for _ in range(self.redirects + 1):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise PageError("refused", f"{url}: not an http address")
            if robots and not self._allowed(url, end):
                raise PageError("robots", f"{url}: its robots.txt forbids it")
            status, headers, data = self._fetch(url, end)
            if status not in _REDIRECTS or "location" not in headers:
                return status, headers.get("content-type", ""), data, url
            url = encoded(urljoin(url, headers["location"]))
        raise PageError("redirects", f"{url}: more than {self.redirects} redirects")

    def _fetch(self, url: str, end: float) -> tuple[int, dict[str, str], bytes]:
        left = end - time.monotonic()
        if left <= 0:
            raise PageError("slow", f"{url}: took longer than {self.seconds:g} s")
        limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), left)}
        headers = [
            ("User-Agent", AGENT),
            ("Accept", "text/html,text/plain"),
            ("Accept-Encoding", "identity"),
            ("Host", urlsplit(url).netloc.rpartition("@")[2]),
        ]
        try:
            with self._pool.stream("GET", url, headers=headers, extensions=limits) as response:
                found = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in response.headers
                }
                return (
                    response.status,
                    found,
                    self._body(
                        url, response, found.get("content-encoding", "identity").lower(), end
                    ),
                )
        except PageError:
            raise
        except httpcore.TimeoutException:
            raise PageError("slow", f"{url}: took longer than {self.seconds:g} s") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            ssl.SSLError,
            OSError,
            UnicodeError,
            ValueError,
            zlib.error,
        ) as error:
            raise PageError("dead", f"{url}: {type(error).__name__}: {error}") from None

    def _body(self, url: str, response, encoding: str, end: float) -> bytes:
        """The body, unpacked if it came packed though nobody asked for that; its size is counted
        unpacked."""
        unpack = (
            zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "deflate") else None
        )
        parts, size = [], 0
        for chunk in response.iter_stream():
            chunk = unpack.decompress(chunk, self.max_bytes + 1) if unpack else chunk
            parts.append(chunk)
            size += len(chunk)
            if size > self.max_bytes:
                raise PageError("too large", f"{url}: more than {self.max_bytes} bytes")
            if time.monotonic() > end:
                raise PageError("slow", f"{url}: took longer than {self.seconds:g} s")
        return b"".join(parts)
