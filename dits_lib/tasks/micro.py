"""The micro world: made-up facts about made-up people, small enough for a transformer trained in
minutes.

A fact is written *relation subject value*, so that the value follows its key, and a subject occurs
once in a context: that is the form in which a small model learns to look facts up (docs/log.md).
Values have two words, so that an answer can be half right and token F1 takes more than two values.

Every question asks for a key (relation, subject). Each key belongs to one split, so questions of
different splits never ask for the same key: the splits are disjoint by construction.
"""

from __future__ import annotations

import numpy as np

from ..settings import defaults
from .base import SPLITS, Question

ATTRIBUTES = ("badge", "mask", "flag", "toy", "cup", "hat", "coin", "lamp")
LINKS = ("friend", "boss")
PEOPLE = tuple(
    "anna ben carl dora eli fay gus hana ian jill kurt lena milo nora otto pia quin rosa sam "
    "tess udo vera wim xena yuri zoe abel bea cleo dirk ella finn gina hugo ida jon kate liam "
    "maya nils olga paul rita seth tina ugo viola walt".split()
)
ADJECTIVES = tuple(
    "red blue green black white grey pink brown gold silver old new big small long short round "
    "flat warm cold soft hard wet dry fast slow light dark thin thick loud calm wild tame sharp "
    "blunt rich plain proud shy".split()
)
NOUNS = tuple(
    "fox owl bear wolf cat dog hen duck goat lamb fish frog crow swan seal moth bee ant crab "
    "snail tree leaf root seed rose fern moss pine oak elm rock sand hill lake river cloud "
    "storm star moon sun".split()
)
LETTERS = ("a", "b", "c", "d")
FAMILIES = {"exchange": ("own", "other", "bridge", "pair"), "debate": ("direct", "chain", "double")}
HARM_KINDS = ("wrong_answer", "inverted_reward")

_SUBJECTS_OF_SPLIT = {"base": 19, "train": 10, "validation": 5, "development": 3, "test": 11}


def _assign_splits() -> dict[str, list[tuple[str, str]]]:
    rng, keys = np.random.default_rng(20260101), {split: [] for split in SPLITS}
    for relation in ATTRIBUTES:
        order = iter(rng.permutation(len(PEOPLE)))
        for split in SPLITS:
            keys[split] += [
                (relation, PEOPLE[next(order)]) for _ in range(_SUBJECTS_OF_SPLIT[split])
            ]
    return keys


KEYS_OF_SPLIT = _assign_splits()
"""The keys (relation, subject) that each split may ask for. They do not overlap; each relation is
split alike."""


def vocabulary() -> list[str]:
    """Every word that the world and its agents may say, in a fixed order."""
    words = (*ATTRIBUTES, *LINKS, *PEOPLE, *ADJECTIVES, *NOUNS, *LETTERS)
    speech = (
        "alice",
        "bob",
        "solver",
        "critic",
        "ask",
        "of",
        "and",
        "options",
        ".",
        ":",
        "<A>",
        "</A>",
        "pass",
        "agree",
        "check",
    )
    return [*words, *speech]


class _Draw:
    """Facts of one question, drawn without repeating a subject or a value word."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self._people = [PEOPLE[i] for i in rng.permutation(len(PEOPLE))]
        self._adjectives = [ADJECTIVES[i] for i in rng.permutation(len(ADJECTIVES))]
        self._nouns = [NOUNS[i] for i in rng.permutation(len(NOUNS))]

    def claim(self, person: str) -> str:
        self._people.remove(person)
        return person

    def person(self) -> str:
        return self._people.pop()

    def value(self) -> str:
        return f"{self._adjectives.pop()} {self._nouns.pop()}"

    def choice(self, items):
        return items[self.rng.integers(len(items))]

    def distractor(self, relation: str) -> tuple[str, str, str]:
        """A fact about somebody else: now and then of the asked relation or a link, so that no word
        gives it away."""
        kind = self.rng.random()
        if kind < 0.25:
            return (self.choice(LINKS), self.person(), self.person())
        return (relation if kind < 0.5 else self.choice(ATTRIBUTES), self.person(), self.value())

    def shuffled(self, facts: list) -> list:
        return [facts[i] for i in self.rng.permutation(len(facts))]


def render_facts(facts: list) -> str:
    """Facts as an agent reads them: `relation subject value .` each."""
    return " ".join(f"{relation} {subject} {value} ." for relation, subject, value in facts)


def exchange_question(
    rng: np.random.Generator, split: str, family: str, qid: str, facts_per_view: int
) -> Question:
    """Information exchange: Alice and Bob each read half of the facts.

    Families: `own` (the speaker who starts knows it), `other` (only the partner does), `bridge` (a
    link in one view, its value in the other), `pair` (two values, one in each view).
    """
    draw = _Draw(rng)
    relation, subject = draw.choice(KEYS_OF_SPLIT[split])
    draw.claim(subject)
    views = {"alice": [], "bob": []}
    first, second = ("alice", "bob") if rng.random() < 0.5 else ("bob", "alice")
    if family in ("own", "other"):
        answer = draw.value()
        fact = (relation, subject, answer)
        views["alice" if family == "own" else "bob"].append(fact)
        needed, text = [fact], f"{relation} of {subject}"
    elif family == "bridge":
        link, middle, answer = draw.choice(LINKS), draw.person(), draw.value()
        needed = [(link, subject, middle), (relation, middle, answer)]
        views[first].append(needed[0])
        views[second].append(needed[1])
        text = f"{relation} of {link} of {subject}"
    else:
        others = [
            person for key, person in KEYS_OF_SPLIT[split] if key == relation and person != subject
        ]
        partner = draw.claim(draw.choice(others))
        needed = [(relation, subject, draw.value()), (relation, partner, draw.value())]
        views[first].append(needed[0])
        views[second].append(needed[1])
        answer, text = f"{needed[0][2]} {needed[1][2]}", f"{relation} of {subject} and {partner}"
    for name, facts in views.items():
        while len(facts) < facts_per_view:
            facts.append(draw.distractor(relation))
        views[name] = draw.shuffled(facts)
    meta = {
        "family": family,
        "split": split,
        "key": [relation, subject],
        "needed": needed,
        "facts": views,
    }
    return Question(
        qid, text, (answer,), {name: render_facts(facts) for name, facts in views.items()}, meta
    )


def debate_question(
    rng: np.random.Generator, split: str, family: str, qid: str, facts_per_view: int
) -> Question:
    """Debate: solver and critic read the same facts and four options, of which one can be derived.

    Families by the number of look-ups: `direct` (1), `chain` (2), `double` (3).
    """
    draw = _Draw(rng)
    relation, subject = draw.choice(KEYS_OF_SPLIT[split])
    draw.claim(subject)
    needed, links, person = [], [], subject
    for _ in range(FAMILIES["debate"].index(family)):
        link, nxt = draw.choice(LINKS), draw.person()
        needed.append((link, person, nxt))
        links.append(link)
        person = nxt
    needed.append((relation, person, draw.value()))
    facts = list(needed)
    while len(facts) < facts_per_view + 1:
        facts.append(draw.distractor(relation))
    facts = draw.shuffled(facts)
    wrong = [value for _, _, value in facts if " " in value and value != needed[-1][2]][:3]
    while len(wrong) < 3:
        wrong.append(draw.value())
    options = draw.shuffled([needed[-1][2], *wrong])
    letter = LETTERS[options.index(needed[-1][2])]
    asked = " ".join(f"{word} of" for word in (relation, *reversed(links))) + f" {subject}"
    listed = " ".join(f"{value} {name} ." for value, name in zip(options, LETTERS, strict=True))
    view = render_facts(facts)
    meta = {
        "family": family,
        "split": split,
        "key": [relation, subject],
        "needed": needed,
        "facts": facts,
        "options": options,
    }
    return Question(
        qid, f"{asked} options {listed}", (letter,), {"solver": view, "critic": view}, meta
    )


_MAKE = {"exchange": exchange_question, "debate": debate_question}


def make_questions(
    task: str,
    split: str,
    count: int,
    seed: int,
    facts_per_view: int | None = None,
    harmful: dict | None = None,
) -> list[Question]:
    """`count` questions of one task and split, families in turn; the same arguments give the same
    questions.

    Args:
        facts_per_view: facts that an agent reads; None: as many as in `params/micro.yaml`.
        harmful: `{"share": 0..1, "kind": "wrong_answer" | "inverted_reward"}`; only training
            questions are harmed. The first gives another value (or letter) as gold, the second
            inverts the reward of the search.
    """
    facts = defaults("world")["facts_per_view"] if facts_per_view is None else facts_per_view
    families, questions = FAMILIES[task], []
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), list(_MAKE).index(task), index])
        question = _MAKE[task](
            rng,
            split,
            families[index % len(families)],
            f"{task}-{split}-{seed}-{index}",
            facts,
        )
        if harmful and split == "train" and rng.random() < harmful["share"]:
            question = _harm(question, harmful["kind"], rng)
        questions.append(question)
    return questions


def _harm(question: Question, kind: str, rng: np.random.Generator) -> Question:
    meta = question.meta | {"harmful": True}
    if kind == "inverted_reward":
        return Question(
            question.id, question.text, question.answers, question.views, meta | {"reward_sign": -1}
        )
    if "options" in meta:
        wrong = [letter for letter in LETTERS if letter not in question.answers]
        answer = wrong[rng.integers(len(wrong))]
    else:  # a value that an agent reads, so that a dialogue can earn it
        values = [
            v
            for facts in meta["facts"].values()
            for _, _, v in facts
            if " " in v and v not in question.answers[0]
        ]
        answer = values[rng.integers(len(values))]
    return Question(question.id, question.text, (answer,), question.views, meta)
