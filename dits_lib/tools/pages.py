"""A page as agents see it: its text and its links."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol
from urllib.parse import quote, urldefrag, urljoin, urlsplit

MAX_CHARACTERS = 1_000_000
"""Of a page's markup that are parsed; parsing has no clock of its own."""

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


class PageError(RuntimeError):
    """A page that cannot be had. `kind` is one of `KINDS`; the message names the address."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message

    def __reduce__(self):
        return PageError, (self.kind, self.message)  # it comes from workers, too


class CacheError(RuntimeError):
    """A cache that cannot answer: what it holds is damaged, or it replays a run and was never asked
    this. It ends the run, since an agent that was told so would say something else than in the run
    that filled the cache."""


@dataclass(frozen=True)
class Page:
    """A page: its address, title, text without markup, and links as (words, address)."""

    url: str
    title: str
    text: str
    links: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(row: dict) -> Page:
        return Page(
            row["url"],
            row["title"],
            row["text"],
            tuple((words, url) for words, url in row["links"]),
        )


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


def read_html(data: bytes, url: str, declared: str | None = None) -> Page:
    """A page from its bytes.

    Args:
        declared: encoding by the HTTP header, if any. It is tried first; bytes that it does not fit
            are decoded as they look.

    Raises:
        PageError: of kind `not text`, for markup that defeats the parsers.
    """
    # Parsers take half a second to import, and parameters are checked without them. The import
    # statement is safe in several threads, which a lazy module is not.
    from bs4.builder import ParserRejectedMarkup

    try:
        return _read(_decoded(data, declared), url)
    except (RecursionError, ValueError, TypeError, AssertionError, ParserRejectedMarkup) as error:
        raise PageError("not text", f"{url}: {type(error).__name__}") from None


def _read(html: str, url: str) -> Page:
    import trafilatura
    from bs4 import BeautifulSoup

    html = html[:MAX_CHARACTERS]
    # html.parser takes quadratic time on tags that are never closed.
    soup = BeautifulSoup(html, "lxml")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    links: dict[str, str] = {}
    for anchor in soup.find_all("a", href=True):
        address, words = _joined(url, anchor["href"]), " ".join(anchor.get_text().split())
        if (
            address
            and words
            and address.split(":")[0] in ("http", "https", "site")
            and address != url
        ):
            links.setdefault(address, words)
    text = trafilatura.extract(html, include_comments=False, include_tables=True, favor_recall=True)
    if not text:
        for tag in soup(["script", "style", "noscript", "template"]):
            tag.decompose()
        text = "\n".join(
            line
            for line in (" ".join(part.split()) for part in soup.get_text("\n").splitlines())
            if line
        )
    return Page(url, title, text, tuple((words, address) for address, words in links.items()))


def _joined(base: str, link: str) -> str:
    """A link's address, percent-encoded, without its fragment; empty for one that is no address.
    `urljoin` does not know the scheme of a local site."""
    site, stand_in = "site:///", "http://site.invalid/"
    try:
        return encoded(
            urldefrag(urljoin(base.replace(site, stand_in, 1), link.strip()))[0]
        ).replace(stand_in, site, 1)
    except ValueError:
        return ""


def encoded(url: str) -> str:
    """An address in ASCII: its host by IDNA, all else that an address may not hold percent-encoded,
    once.

    Raises:
        ValueError: for what is no address.
    """
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    return (
        url
        if not parts.scheme
        else quote(url.replace(parts.netloc, host, 1), safe="%/:=&?~#+!$,;'@()*[]")
    )


def site_address(path: str) -> str:
    """The address of a file of a local site, from its path below the folder."""
    return encoded("site:///" + path.replace("%", "%25"))


def _decoded(data: bytes, declared: str | None) -> str:
    for name in (declared, "utf-8"):
        try:
            if name:
                return data.decode(name)
        except (LookupError, UnicodeDecodeError):
            pass
    from charset_normalizer import from_bytes

    best = from_bytes(data[:200_000]).best()
    return data.decode(best.encoding if best else "utf-8", errors="replace")


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
