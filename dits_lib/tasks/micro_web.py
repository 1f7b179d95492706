"""The micro web: the micro world as a small site of linked pages, one a person, for deep search.

A page holds four attributes of a person, each as *relation value*, and links to two other people: a
friend and a boss. A question names a person and a path: the value lies on that person's page, or
one or two links away. The site is one for all splits, as the web is; a question belongs to the
split of the fact that answers it (relation, the path's last person), so that no two splits share an
answer's fact, nor a question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path

import numpy as np

from .base import SPLITS, Question
from .micro import ADJECTIVES, ATTRIBUTES, KEYS_OF_SPLIT, LINKS, NOUNS, PEOPLE

WEB_ATTRIBUTES = ATTRIBUTES[:4]
WEB_FAMILIES = ("near", "linked", "far")
"""By the links to follow: none, one, two."""


@dataclass(frozen=True)
class MicroWeb:
    """A site: `facts[person][relation]` is a value of two words, `facts[person][link]` another
    person."""

    facts: dict[str, dict[str, str]]

    def follow(self, person: str, links: list[str]) -> str:
        for link in links:
            person = self.facts[person][link]
        return person


def make_web(seed: int) -> MicroWeb:
    """A site drawn from a seed."""
    rng, facts = np.random.default_rng([seed, 4713]), {}
    for person in PEOPLE:
        others = [other for other in rng.permutation(PEOPLE).tolist() if other != person]
        words = zip(
            rng.permutation(ADJECTIVES).tolist(), rng.permutation(NOUNS).tolist(), strict=False
        )
        lines = {
            relation: " ".join(pair) for relation, pair in zip(WEB_ATTRIBUTES, words, strict=False)
        } | dict(zip(LINKS, others, strict=False))
        facts[person] = {
            relation: lines[relation] for relation in rng.permutation([*lines]).tolist()
        }
    return MicroWeb(facts)


def page_name(person: str) -> str:
    return f"{person}.html"


def write_site(web: MicroWeb, folder: Path) -> None:
    """One HTML page a person, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for person, facts in web.facts.items():
        lines = "".join(
            f"<p>{escape(f'{relation} {value} .')}</p>\n" for relation, value in facts.items()
        )
        links = "".join(
            f'<a href="{page_name(facts[link])}">{escape(facts[link])}</a>\n' for link in LINKS
        )
        (folder / page_name(person)).write_text(
            "<!DOCTYPE "
            f"html>\n<html><head><title>{escape(person)}</title></head>\n<body>\n<p>about "
            f"{escape(person)} .</p>\n{lines}<nav>{links}</nav>\n</body></html>\n",
            encoding="utf-8",
        )


def web_questions(web: MicroWeb, split: str, count: int, seed: int) -> list[Question]:
    """`count` questions of a split, families in turn; the same arguments give the same
    questions."""
    made = _questions(web, split, seed)
    return [next(made) for _ in range(count)]


def _paths(web: MicroWeb, hops: int) -> dict[str, list[tuple[str, list[str]]]]:
    """{last person: (first person, links)} of every path of so many links."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for person in PEOPLE:
        for links in product(LINKS, repeat=hops):
            found.setdefault(web.follow(person, [*links]), []).append((person, [*links]))
    return found


def _questions(web: MicroWeb, split: str, seed: int) -> Iterator[Question]:
    keys, index = [key for key in KEYS_OF_SPLIT[split] if key[0] in WEB_ATTRIBUTES], 0
    paths = [_paths(web, hops) for hops in range(len(WEB_FAMILIES))]
    while True:
        rng = np.random.default_rng([seed, SPLITS.index(split), 2, index])
        hops = index % len(WEB_FAMILIES)
        ways: list[tuple[str, list[str]]] = []
        while not ways:  # a person whom nobody links to ends no path
            relation, last = keys[rng.integers(len(keys))]
            ways = paths[hops].get(last, [])
        person, links = ways[rng.integers(len(ways))]
        text = " ".join(f"{word} of" for word in (relation, *reversed(links))) + f" {person}"
        meta = {
            "family": WEB_FAMILIES[hops],
            "split": split,
            "key": [relation, last],
            "person": person,
            "relation": relation,
            "links": links,
        }
        views = {"reasoner": "", "explorer": ""}
        yield Question(
            f"deep_search-{split}-{seed}-{index}", text, (web.facts[last][relation],), views, meta
        )
        index += 1


def web_vocabulary() -> list[str]:
    """Words that deep search in the micro web needs beyond those of the micro world."""
    addresses = [f"site:///{page_name(person)}" for person in PEOPLE]
    calls = (
        "<call",
        "</call>",
        "search>",
        "explorer>",
        "open>",
        "click>",
        "search:",
        "explorer:",
        "open:",
        "click:",
    )
    other = (
        "reasoner",
        "explorer",
        "about",
        "|",
        "links:",
        "nothing",
        "found",
        *(f"[{number}]" for number in (1, 2)),
        "1",
        "2",
    )
    return [*addresses, *(f"[{address}]" for address in addresses), *calls, *other]
