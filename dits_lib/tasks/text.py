"""Texts as they are shown and as they are compared: what looks the same is the same."""

from __future__ import annotations

import unicodedata


def shown_form(text: str) -> str:
    """The text with every letter and its accents as one character (Unicode NFC)."""
    return unicodedata.normalize("NFC", text)


def compared_form(text: str) -> str:
    """The text by which two are compared: Unicode NFKC, without characters that nobody sees."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return unicodedata.normalize("NFKC", "".join(c for c in plain if not _invisible(c)))


def _invisible(character: str) -> bool:
    """Zero-width spaces and joiners, soft hyphens, byte-order marks; variation selectors."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def folded(text: str) -> str:
    """As `compared_form`, without regard to case and white space."""
    return " ".join(compared_form(compared_form(text).casefold()).split())


def is_blank(text: str) -> bool:
    """Whether there is nothing to be seen."""
    return not compared_form(text).strip()
