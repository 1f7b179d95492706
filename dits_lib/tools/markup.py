"""Pages from HTML, in time that grows with their size alone: what is parsed is bounded by size and
by tags, never by a clock, so that a page reads the same on every machine."""

from __future__ import annotations

import logging
import warnings
from functools import cache

from .addresses import joined
from .encodings import decoded
from .pages import Page, PageError

MAX_CHARACTERS = 1_000_000
"""Of a page's markup that are parsed."""

MAX_TAGS = 60_000
"""Of these, the first that are parsed: parsers take time by the tag."""

MAX_COMPARED = 3_000
"""Tags of a page up to which trafilatura compares its own extraction with that of others: one of
them, jusText, takes time by the square of the paragraphs."""

MAX_LINKS, MAX_NODES = 5_000, 200
"""Links of a page that are read, and nodes of each whose words are: links within links would take
time by their square."""

_SIGNATURES = (
    (b"%PDF-", "a PDF file"),
    (b"%!PS", "a PostScript file"),
    (b"PK\x03\x04", "a zip file (or an office document)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf", "a 7-Zip file"),
    (b"Rar!\x1a", "a RAR file"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"\x89PNG", "a picture"),
    (b"GIF87a", "a picture"),
    (b"GIF89a", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"OggS\x00", "sound or film"),
    (b"ID3\x03", "sound"),
    (b"ID3\x04", "sound"),
    (b"\x1a\x45\xdf\xa3", "a film"),
    (b"\x7fELF", "a program"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
)
"""First bytes of what is no text, whatever its header says."""

_CONTROL = frozenset(map(chr, range(32))) - set("\t\n\r\f\x1b")


def read_html(data: bytes, url: str, declared: str | None = None) -> Page:
    """A page from its bytes.

    Args:
        declared: encoding by the HTTP header, if any. It is tried first; bytes that it does not fit
            are decoded as they look.

    Raises:
        PageError: of kind `not text`, for what is no text, and markup that defeats the parsers.
    """
    # Parsers take half a second to import, and parameters are checked without them. The import
    # statement is safe in several threads, which a lazy module is not.
    from bs4.builder import ParserRejectedMarkup
    from lxml.etree import LxmlError

    _check_signature(data, url)
    text = decoded(data, declared)
    _check_characters(text, url)
    try:
        return _read(_bounded(text), url)
    except (
        RecursionError,
        ValueError,
        TypeError,
        AssertionError,
        ParserRejectedMarkup,
        LxmlError,
    ) as error:
        raise PageError("not text", f"{url}: {type(error).__name__}") from None


def _check_signature(data: bytes, url: str) -> None:
    start = data[:64].lstrip()
    for signature, what in _SIGNATURES:
        if start.startswith(signature):
            raise PageError("not text", f"{url}: {what}")


def _check_characters(text: str, url: str) -> None:
    """One control character in twenty is more than text has; random bytes have two."""
    start = text[:4000]
    if sum(character in _CONTROL for character in start) > max(4, len(start) / 20):
        raise PageError("not text", f"{url}: bytes that are no text")


def _bounded(html: str) -> str:
    return "<".join(html[:MAX_CHARACTERS].split("<", MAX_TAGS)[:MAX_TAGS])


def _read(html: str, url: str) -> Page:
    import trafilatura
    from bs4 import BeautifulSoup

    _quiet()
    # html.parser takes quadratic time on tags that are never closed.
    soup = BeautifulSoup(html, "lxml")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    links = _links(soup, url)
    text = trafilatura.extract(
        html,
        include_comments=False,
        include_tables=True,
        favor_recall=True,
        fast=html.count("<") > MAX_COMPARED,
    )
    return Page(url, title, text or _all_text(soup), links)


@cache
def _quiet() -> None:
    """The parsers' remarks on a page (XHTML, no article in it) are none on the run."""
    from bs4 import MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning

    for remark in (MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning):
        warnings.filterwarnings("ignore", category=remark)
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)


def _links(soup, url: str) -> tuple[tuple[str, str], ...]:
    """Links to other pages as (words, address), each address once, relative to `<base href>` where
    there is one."""
    base = soup.find("base", href=True)
    base = (joined(url, base["href"]) if base else "") or url
    found: dict[str, str] = {}
    for anchor in soup.find_all("a", href=True, limit=MAX_LINKS):
        address, words = joined(base, anchor["href"]), _words(anchor)
        if address and words and address != url:
            found.setdefault(address, words)
    return tuple((words, address) for address, words in found.items())


def _words(anchor) -> str:
    """The words of a link, as `get_text` gives them (no comments, scripts or styles); `descendants`
    would look for a link's end first, which takes as long as links are deep."""
    from bs4 import CData, NavigableString, Tag

    parts: list[str] = []
    stack = [anchor]
    for _ in range(MAX_NODES):
        if not stack:
            break
        node = stack.pop()
        if isinstance(node, Tag):
            stack.extend(reversed(node.contents[:MAX_NODES]))
        elif type(node) in (NavigableString, CData):
            parts.append(node)
    return " ".join("".join(parts).split())


def _all_text(soup) -> str:
    """All text of a page in which no article was found."""
    for tag in soup(["script", "style", "noscript", "template"]):
        tag.decompose()
    lines = (" ".join(line.split()) for line in soup.get_text("\n").splitlines())
    return "\n".join(line for line in lines if line)
