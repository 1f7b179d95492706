"""Scripted agents of the micro world: a good one, and the bad habits that the base model learns
beside it.

They know each question's facts (`meta`), so they can say what a good reply is at any state of a
dialogue, also one that a model has reached. They write the base model's training text and the
oracle's pairs; no experiment trains on them.
"""

from __future__ import annotations

import numpy as np

from ..agents import Frame, System, Turn, frames_of, parse_answer, parse_call
from ..tasks.base import Question
from ..tasks.metrics import normalize_answer
from ..tasks.micro import ADJECTIVES, ATTRIBUTES, LETTERS, LINKS, NOUNS, PEOPLE
from ..tasks.micro_web import WEB_ATTRIBUTES

GOOD_RATE = {
    "own": 0.66,
    "other": 0.62,
    "bridge": 0.62,
    "pair": 0.64,
    "direct": 0.52,
    "chain": 0.44,
    "double": 0.38,
    "critic": 0.50,
    "near": 0.90,
    "linked": 0.915,
    "far": 0.925,
}
"""Chance of a good reply, by question family (the critic: whatever the family)."""


def _tell(fact) -> str:
    return " ".join(fact)


def _answer(text: str) -> str:
    return f"<A> {text} </A>"


class ScriptedExchange:
    """Replies for information exchange."""

    def good(self, question: Question, turns: tuple[Turn, ...], agent: str) -> str:
        """Answer if the needed facts are known, else repeat the partner's answer, else tell what is
        needed, else pass."""
        mine, needed = (
            [tuple(f) for f in question.meta["facts"][agent]],
            [tuple(f) for f in question.meta["needed"]],
        )
        heard = {turn.text for turn in turns}
        if all(fact in mine or _tell(fact) in heard for fact in needed):
            return _answer(_truth(question))
        partner = parse_answer(turns[-1].text) if turns else None
        if partner is not None:
            return _answer(partner)
        holds_link = (
            question.meta["family"] != "bridge" or needed[0] in mine or _tell(needed[0]) in heard
        )
        for fact in needed:
            if fact in mine and _tell(fact) not in heard and holds_link:
                return _tell(fact)
        return "pass"

    def flawed(
        self, question: Question, turns: tuple[Turn, ...], agent: str, rng: np.random.Generator
    ) -> str:
        """One bad habit that fits the state: clip the answer, yield to a wrong one, guess, go off
        topic, or stall."""
        good = self.good(question, turns, agent)
        mine = question.meta["facts"][agent]
        valued = [value for _, _, value in mine if " " in value] or [mine[0][2]]
        guess = _answer(valued[rng.integers(len(valued))])
        off_topic = _tell(mine[rng.integers(len(mine))])
        partner = parse_answer(turns[-1].text) if turns else None
        answer = parse_answer(good)
        if answer is None:
            return _pick([guess, off_topic, "pass"], rng, avoid=good)
        clipped = _answer(" ".join(answer.split()[: max(1, len(answer.split()) // 2)]))
        if partner is not None and normalize_answer(partner) != normalize_answer(answer):
            return _pick([_answer(partner), _answer(partner), guess], rng, avoid=good)
        return _pick([clipped, clipped, guess, off_topic], rng, avoid=good)


class ScriptedDebate:
    """Replies for debate."""

    def good(self, question: Question, turns: tuple[Turn, ...], agent: str) -> str:
        """Solver: derive, then choose. Critic: agree with the right letter, else name the first
        fact to check."""
        if agent == "solver":
            return f"{_derive(question)} {_answer(_truth(question))}"
        right = turns and parse_answer(turns[-1].text) == _truth(question)
        return "agree" if right else "check " + " ".join(question.meta["needed"][0][:2])

    def flawed(
        self, question: Question, turns: tuple[Turn, ...], agent: str, rng: np.random.Generator
    ) -> str:
        """Solver: skip the reasoning, reason from another fact, misread the options, or stick to a
        criticised answer. Critic: agree with a wrong letter, doubt a right one, or point at a fact
        that does not matter."""
        good, letters = self.good(question, turns, agent), list(LETTERS)
        random_letter = letters[rng.integers(len(letters))]
        facts = question.meta["facts"]
        other = facts[rng.integers(len(facts))]
        if agent == "critic":
            point = "check " + " ".join(other[:2])
            return _pick(["agree", "agree", point] if good != "agree" else [point], rng, avoid=good)
        options = question.meta["options"]
        slipped = letters[options.index(other[2])] if other[2] in options else random_letter
        choices = [
            _answer(random_letter),
            _answer(random_letter),
            f"{_tell(other)} {_answer(slipped)}",
            f"{_derive(question)} {_answer(random_letter)}",
        ]
        if len(turns) == 2:
            choices.append(turns[0].text)
        return _pick(choices, rng, avoid=good)


class ScriptedWeb:
    """Replies for deep search in the micro web."""

    def good(self, question: Question, turns: tuple[Turn, ...], agent: str) -> str:
        """Reasoner: search the person, have the page read along the question's path, answer what
        the explorer tells. Explorer: open the page, follow the links of the path, tell the
        value."""
        frame = frames_of("reasoner", _WEB_NAMES, turns)[-1]
        return self._explore(frame) if agent == "explorer" else self._reason(question, frame)

    def flawed(
        self, question: Question, turns: tuple[Turn, ...], agent: str, rng: np.random.Generator
    ) -> str:
        """Reasoner: search somebody else, forget a link or ask for another attribute, answer unread
        or half. Explorer: open another page, take the other link, stop a page too early, read
        another line."""
        frame, good = (
            frames_of("reasoner", _WEB_NAMES, turns)[-1],
            self.good(question, turns, agent),
        )
        anybody, anything = (
            PEOPLE[rng.integers(len(PEOPLE))],
            WEB_ATTRIBUTES[rng.integers(len(WEB_ATTRIBUTES))],
        )
        guess = f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]} {NOUNS[rng.integers(len(NOUNS))]}"
        called = parse_call(good)
        if agent == "explorer":
            lines = [
                f"{relation} {value} ."
                for relation, value in _page_lines(frame).items()
                if relation not in LINKS
            ] or [f"{anything} {guess} ."]
            early = lines[rng.integers(len(lines))]
            if called is None:
                return _pick([early], rng, avoid=good)
            wrong = (
                f"<call open> site:///{anybody}.html </call>"
                if called[0] == "open"
                else f"<call click> {3 - int(called[1])} </call>"
            )
            return _pick([wrong, wrong, early], rng, avoid=good)
        if called is None:
            answer = parse_answer(good) or guess
            return _pick([_answer(answer.split()[0]), _answer(guess)], rng, avoid=good)
        if called[0] == "search":
            return _pick([f"<call search> {anybody} </call>", _answer(guess)], rng, avoid=good)
        address, *path = called[1].split()
        shorter = [*path[:1], *path[3:]] if len(path) > 1 else [anything]
        return _pick(
            [
                f"<call explorer> {address} {' '.join(shorter)} </call>",
                f"<call explorer> {address} {' '.join([anything, *path[1:]])} </call>",
            ],
            rng,
            avoid=good,
        )

    def _reason(self, question: Question, frame: Frame) -> str:
        results = [text for kind, text in frame.messages if kind == "result"]
        if results and results[-1].startswith("explorer:"):
            words = [
                word for word in results[-1].split()[1:] if word != "." and word not in ATTRIBUTES
            ]
            return _answer(" ".join(words[:2]) or "pass")
        path, person = question.text.rsplit(" of ", 1)
        if not any(text.startswith("search: site:") for text in results):
            return f"<call search> {person} </call>"
        found = results[-1].startswith("search:")
        address = results[-1].split()[1] if found else f"site:///{person}.html"
        return f"<call explorer> {address} {path} </call>"

    def _explore(self, frame: Frame) -> str:
        address, *path = frame.request.split() or [""]
        links, relation = [word for word in path[1:] if word != "of"][::-1], path[0] if path else ""
        pages = [text for kind, text in frame.messages if kind == "result" and "[site:" in text]
        if not pages:
            return f"<call open> {address} </call>" if not frame.messages else "nothing found"
        if len(pages) <= len(links) and links[len(pages) - 1] in LINKS:
            return f"<call click> {1 + LINKS.index(links[len(pages) - 1])} </call>"
        return f"{relation} {_page_lines(frame).get(relation, 'nothing found')} ."


_WEB_NAMES = ("explorer", "search", "open", "click")


def _page_lines(frame: Frame) -> dict[str, str]:
    """{relation: value} of the page that was opened last."""
    pages = [text for kind, text in frame.messages if kind == "result" and "[site:" in text]
    lines = [
        line.removesuffix(" .").split(" ", 1)
        for line in (pages[-1].split("\n") if pages else [])
        if line.endswith(" .")
    ]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def _truth(question: Question) -> str:
    """The answer that the facts give, whatever a harmed question's gold answer says."""
    meta = question.meta
    if "options" in meta:
        return LETTERS[meta["options"].index(meta["needed"][-1][2])]
    values = [value for _, _, value in meta["needed"]]
    return " ".join(values) if meta["family"] == "pair" else values[-1]


def _derive(question: Question) -> str:
    return " ".join(_tell(fact) for fact in question.meta["needed"])


def _pick(options: list[str], rng: np.random.Generator, avoid: str) -> str:
    fitting = [text for text in options if text != avoid]
    return fitting[rng.integers(len(fitting))] if fitting else avoid


SCRIPTED = {
    "exchange": ScriptedExchange(),
    "debate": ScriptedDebate(),
    "deep_search": ScriptedWeb(),
}


def good_rate(question: Question, agent: str) -> float:
    return GOOD_RATE["critic" if agent == "critic" else question.meta["family"]]


def scripted_dialogue(
    system: System, question: Question, rng: np.random.Generator, always_good: bool = False
) -> tuple[Turn, ...]:
    """A dialogue between scripted agents: good replies at the family's rate, bad habits
    otherwise."""
    script, turns = SCRIPTED[system.name], ()
    while (agent := system.next_agent(question, turns)) is not None:
        if system.is_tool(agent):
            turns = (*turns, Turn(agent, system.act(question, turns), trainable=False))
            continue
        good = always_good or rng.random() < good_rate(question, agent)
        text = (
            script.good(question, turns, agent)
            if good
            else script.flawed(question, turns, agent, rng)
        )
        turns = (*turns, Turn(agent, text))
    return turns
