"""Seeds derived from names."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A signed 64-bit seed from anything with a stable `str`, by BLAKE2b."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
