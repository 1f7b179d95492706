"""One HTTP request with limits that hold: on its whole time, on the bytes of its body before and
after unpacking, and on the addresses that it may reach.

A host's addresses are looked up once, checked, and the connection goes to the address that was
checked, so that a name cannot point elsewhere between the check and the call.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
from pydantic import BaseModel, ValidationError

from .addresses import is_public
from .pages import PageError, one_line

AGENT = "dits-research/1.0"
REDIRECTS = (301, 302, 303, 307, 308)
MAX_SECONDS = 86_400.0
"""A day. Clocks and sockets know no much larger times."""

Shape = TypeVar("Shape", bound=BaseModel)


def time_limit(seconds: float) -> float:
    """Seconds as clocks can take them: a day at most.

    Raises:
        ValueError: unless they are above 0.
    """
    if not seconds > 0:
        raise ValueError(f"a time limit of {seconds} seconds; expected a number above 0")
    return float(min(seconds, MAX_SECONDS))


@dataclass(frozen=True)
class Answer:
    """What a server answered: status, headers by name in lower case, and its body, unpacked; the
    body of a redirect is left out, and that of an error when it cannot be read."""

    status: int
    headers: dict[str, str]
    body: bytes


class Fetcher:
    """Requests with limits, also from several threads.

    Args:
        seconds: for all requests since `begin`, connecting and redirects included; looking up a
            host's name has the system's own limit.
        max_bytes: of a body, packed or not.
        private: whether loopback, private and reserved addresses may be reached.
        certificates: file of the certificates that are trusted; None for the system's.
        proxies: whether to go through the proxy that the environment names.
    """

    def __init__(
        self,
        seconds: float,
        max_bytes: int,
        private: bool = False,
        certificates: str | None = None,
        proxies: bool = False,
    ):
        self.seconds, self.max_bytes, self.proxies = time_limit(seconds), max_bytes, proxies
        self._backend = _Checked(private)
        self._context = ssl.create_default_context(cafile=certificates)
        self._pools: dict[str | None, httpcore.ConnectionPool] = {}

    def begin(self) -> None:
        """Start this thread's clock."""
        self._backend.clock.end = time.monotonic() + self.seconds

    def fetch(
        self, url: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> Answer:
        """The answer to a GET request, or to a POST request where there is content.

        Raises:
            PageError: of kind refused, dead, slow, too large or not text.
        """
        parts = urlsplit(url)
        fields = {
            "User-Agent": AGENT,
            "Accept-Encoding": "identity",
            "Host": parts.netloc.rpartition("@")[2],
        } | (headers or {})
        if content is not None:
            fields["Content-Length"] = str(len(content))
        try:
            left = self._backend.clock.left(None)
            limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), left)}
            with self._pool(parts).stream(
                "GET" if content is None else "POST",
                url,
                headers=list(fields.items()),
                content=content,
                extensions=limits,
            ) as response:
                return self._answer(url, response)
        except httpcore.TimeoutException:
            raise PageError("slow", f"{url}: took longer than {self.seconds:g} s") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpcore.UnsupportedProtocol,
            OSError,
            ValueError,
        ) as error:
            raise PageError("dead", f"{url}: {type(error).__name__}: {error}") from None

    def _answer(self, url: str, response: httpcore.Response) -> Answer:
        pairs = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in response.headers]
        headers = dict(pairs)
        if response.status in REDIRECTS and "location" in headers:
            return Answer(response.status, headers, b"")
        packed = ", ".join(value for name, value in pairs if name == "content-encoding")
        try:
            body = self._body(url, response, packed)
        except PageError:
            if response.status < 400:
                raise
            body = b""  # the status says enough
        return Answer(response.status, headers, body)

    def _body(self, url: str, response: httpcore.Response, packed: str) -> bytes:
        """The body, unpacked if it came packed though nobody asked for that."""
        parts, size = [], 0
        for chunk in response.iter_stream():
            parts.append(chunk)
            size += len(chunk)
            if size > self.max_bytes:
                raise PageError("too large", f"{url}: more than {self.max_bytes} bytes")
        try:
            body = unpacked(b"".join(parts), packed, self.max_bytes + 1)
        except LookupError as error:
            raise PageError("not text", f"{url}: {error}") from None
        except (EOFError, OSError, zlib.error) as error:
            what = f"{packed} body cut short or damaged"
            raise PageError("dead", f"{url}: {what} ({one_line(str(error), 100)})") from None
        if len(body) > self.max_bytes:
            raise PageError("too large", f"{url}: more than {self.max_bytes} bytes, unpacked")
        return body

    def _pool(self, parts) -> httpcore.ConnectionPool:
        proxy = _proxy_of(parts) if self.proxies else None
        if proxy not in self._pools:
            self._pools[proxy] = httpcore.ConnectionPool(
                network_backend=self._backend,
                ssl_context=self._context,
                proxy=None if proxy is None else httpcore.Proxy(proxy),
            )
        return self._pools[proxy]


def unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    """A body without its `Content-Encoding`, up to a number of bytes.

    Raises:
        LookupError: for an encoding other than gzip, deflate and identity, and for several.
        EOFError, OSError, zlib.error: for a body that is cut short or damaged.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names or not data:
        return data
    if names in (["gzip"], ["x-gzip"]):
        return gzip.GzipFile(fileobj=BytesIO(data)).read(limit)
    if names != ["deflate"]:
        raise LookupError(f"packed as {', '.join(names)}; expected gzip, deflate or not packed")
    try:
        return _inflated(data, limit, zlib.MAX_WBITS)
    except zlib.error:  # some servers leave out the header of zlib
        return _inflated(data, limit, -zlib.MAX_WBITS)


def _inflated(data: bytes, limit: int, bits: int) -> bytes:
    unpack = zlib.decompressobj(bits)
    body = unpack.decompress(data, limit)
    if not unpack.eof and len(body) < limit:
        raise EOFError("its end is missing")
    return body


def read_as(shape: type[Shape], data: bytes) -> Shape:
    """JSON of a given shape.

    Raises:
        ValueError: in one line, for what is no JSON or of another shape.
    """
    try:
        return shape.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(one_line(f"{where}: {first['msg']}".strip(": "), 200)) from None


def _proxy_of(parts) -> str | None:
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class _Checked(httpcore.SyncBackend):
    """Connects to public addresses alone, unless private ones are allowed."""

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
        if not self.private and not all(map(is_public, found)):
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
    """When what this thread fetches must be there."""

    end = float("inf")

    def left(self, timeout: float | None) -> float:
        """Seconds left, `timeout` at most.

        Raises:
            httpcore.ReadTimeout: when none is left.
        """
        left = min(self.end - time.monotonic(), MAX_SECONDS)
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
