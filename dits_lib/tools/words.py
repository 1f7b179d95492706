"""The words that a local search compares, in languages with and without spaces between words."""

from __future__ import annotations

import re
import unicodedata

# Han, kana, bopomofo and Hangul; no punctuation.
_UNSPACED = (
    "\u1100-\u11ff\u3005-\u3007\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u3105-\u312f\u3131-\u318e\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7fb\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+")

WORD = rf"(?u)\b\w\w+\b|[{_UNSPACED}]"
"""A word of `spaced` text: two letters or more, or one character that is a word by itself."""


def spaced(text: str, query: bool) -> str:
    """Text whose Japanese, Chinese and Korean runs are broken into pairs of characters, with spaces
    around them: 東京都 is 東京 and 京都. Compatibility forms (half-width kana, composed or not) are
    made one by NFKC. ASCII text stays as it is.

    Args:
        query: a page is given the single characters, too, so that a query of one finds it; a
            longer query is not.
    """

    def broken(run: re.Match) -> str:
        characters = run[0]
        pairs = [a + b for a, b in zip(characters, characters[1:], strict=False)]
        return f" {' '.join(pairs if query and pairs else [*pairs, *characters])} "

    return text if text.isascii() else _RUN.sub(broken, unicodedata.normalize("NFKC", text))
