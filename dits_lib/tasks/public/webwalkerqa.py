"""WebWalkerQA: questions whose answers lie some clicks below a site's first page; accuracy by a
judge."""

from __future__ import annotations

from urllib.parse import urlsplit

from ...settings.messages import shown
from ..base import Question
from ..rows import Filled, RowError
from .base import PublicDataset, stable_hash


class WebWalkerQA(PublicDataset):
    """WebWalkerQA (Wu et al., 2025). The pages are on the live web; the question tells where to
    begin."""

    name, task = "webwalkerqa", "deep_search"
    hub_id, config, licence = "callanwu/WebWalkerQA", None, "Apache-2.0"
    hub_split = {"train": "main", "validation": "main", "development": "main", "test": "main"}
    fields = {
        "question": Filled,
        "answer": Filled,
        "root_url": Filled,
        "type": Filled,
        "difficulty_level": str | None,
        "lang": str | None,
        "domain": str | None,
    }

    def flat(self, row: dict) -> dict:
        """Names in lower case, and what stands in `info` beside the rest: the hub, its card and
        published copies differ in both. The hub calls the type `hop`."""
        known = _lower(row)
        inner = known.pop("info", None)
        known = (_lower(inner) if isinstance(inner, dict) else {}) | known
        return {"type": known.get("hop", "web")} | known

    def question(self, row: dict, words: int) -> Question:
        if not _is_address(row["root_url"]):
            raise RowError("root_url", f"{shown(row['root_url'])}; expected an http address")
        text = f"{row['question'].strip()}\nBegin at {row['root_url']}"
        meta = {"family": row["type"], "root_url": row["root_url"]} | {
            name: row[name] for name in ("difficulty_level", "lang", "domain") if name in row
        }
        return Question(
            f"{self.name}-{stable_hash(row['question'], row['root_url']):016x}",
            text,
            (row["answer"].strip(),),
            {"reasoner": "", "explorer": ""},
            meta,
        )


def _lower(row: dict) -> dict:
    """The fields with their names in lower case.

    Raises:
        RowError: when two have one name then.
    """
    found: dict[str, object] = {}
    for name, value in row.items():
        if name.lower() in found:
            raise RowError(name, "stands twice, in large and in small letters; keep one")
        found[name.lower()] = value
    return found


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
