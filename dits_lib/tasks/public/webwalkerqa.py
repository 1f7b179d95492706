"""WebWalkerQA: questions whose answers lie some clicks below a site's first page; accuracy by a
judge."""

from __future__ import annotations

from ..base import Question
from .base import PublicDataset, RowError, stable_hash


class WebWalkerQA(PublicDataset):
    """WebWalkerQA (Wu et al., 2025). The pages are on the live web; the question tells where to
    begin."""

    name, task = "webwalkerqa", "deep_search"
    hub_id, config, licence = "callanwu/WebWalkerQA", None, "Apache-2.0"
    hub_split = {"train": "main", "validation": "main", "development": "main", "test": "main"}
    fields = {"question": str, "answer": str, "root_url": str, "type": str}

    def flat(self, row: dict) -> dict:
        """Names in lower case, and what stands in `info` beside the rest: the hub, its card and
        published copies differ in both. The hub calls the type `hop`."""
        known = {name.lower(): value for name, value in row.items()}
        inner = known.pop("info", None)
        known = (
            {name.lower(): value for name, value in inner.items()}
            if isinstance(inner, dict)
            else {}
        ) | known
        return {"type": known.get("hop", "web")} | known

    def question(self, row: dict, words: int) -> Question:
        if not row["root_url"].startswith(("http://", "https://")):
            raise RowError("root_url", f"{row['root_url']!r}; expected an http address")
        if not row["answer"].strip():
            raise RowError("answer", "empty")
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
