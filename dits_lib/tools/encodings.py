"""The text of a page's bytes, in one of the encodings that pages are written in."""

from __future__ import annotations

import codecs

MAX_BYTES = 4_000_000
"""Of a page that are decoded: as many characters as are parsed take no more in any encoding."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Those of the WHATWG Encoding Standard, by Python's names; also ASCII and Latin-1 themselves.
# Other codecs of Python are no encodings of pages (idna, unicode_escape), some take quadratic time
# (punycode), some would run what the page says through a compressor (zlib).
_GUESSED = (
    "ascii utf-8 cp866 cp874 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 "
    "iso8859-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 "
    "iso8859-13 iso8859-14 iso8859-15 iso8859-16 koi8-r koi8-u gbk gb2312 gb18030 big5 big5hkscs "
    "euc_jp iso2022_jp shift_jis cp932 euc_kr cp949"
).split()
ENCODINGS = frozenset(_GUESSED) | {"utf-16-le", "utf-16-be", "iso8859-9", "mac-roman"}
ENCODINGS |= {"mac-cyrillic"}
"""Names of the encodings that a page may declare, as `codecs.lookup` gives them."""


def known_encoding(name: str | None) -> str | None:
    """Python's name of a declared encoding; None for one that pages are not written in."""
    try:
        found = codecs.lookup(name).name if name and len(name) <= 40 else None
    except (LookupError, ValueError):
        return None
    if found == "utf-16":  # its byte order mark, if any, was seen before
        return "utf-16-le"
    return found if found in ENCODINGS else None


def decoded(data: bytes, declared: str | None = None) -> str:
    """The text of the first `MAX_BYTES`: by its byte order mark, by the declared encoding, as
    UTF-8, or as it looks (charset_normalizer), whichever fits first.

    Args:
        declared: encoding by the HTTP header, if any; one that is not known is as none.
    """
    whole = len(data) <= MAX_BYTES
    data = data[:MAX_BYTES]
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, errors="replace")
    header = known_encoding(declared)
    if header in ("utf-16-le", "utf-16-be") and b"\x00" not in data[:1000]:
        header = None  # markup in UTF-16 has zeros: the header is wrong
    for name in (header, "utf-8"):
        try:
            if name:  # a character that the cut went through is left out, not an error
                return codecs.getincrementaldecoder(name)().decode(data, final=whole)
        except UnicodeError:
            pass
    from charset_normalizer import from_bytes

    best = from_bytes(data[:200_000], cp_isolation=_GUESSED).best()
    return data.decode(best.encoding if best else "utf-8", errors="replace")
