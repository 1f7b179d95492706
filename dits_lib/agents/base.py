"""Dialogues between agents, and what a multi-agent system defines.

A system is a small class: its agents, whose turn it is, what that agent is shown, and how the
result is scored. Search, scoring and training use nothing else, so a new system (one's own agent
graph) is one class of about fifty lines.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from ..tasks.base import Question

ENDINGS = ("answered", "no agreement", "no answer parsed")
"""How a dialogue ends: with an answer; with answers that count for nothing (the agents differ, the
wrong agent gave it, or it names none of the options); with no reply that holds an answer."""

LIMIT = "limit"
"""The agent of the turn that ends a run-away dialogue, with its reason."""

_ANSWER = re.compile(r"<A>((?:(?!<A>).)*?)</A>", re.DOTALL)
"""An answer and its marks; it holds no `<A>` itself."""


@dataclass(frozen=True)
class Turn:
    """One reply.

    Attributes:
        agent: who replied.
        text: the reply without special tokens.
        token_ids: the sampled ids, end-of-turn token included when it was sampled.
        prompt_ids: the ids that were shown to the model for this reply.
        logprob: mean log probability of a token under the sampling policy at T = 1, in nats.
        trainable: False for tool output, which nobody trains on.
    """

    agent: str
    text: str
    token_ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    trainable: bool = True

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(row: dict) -> Turn:
        ids = {name: tuple(row[name]) for name in ("token_ids", "prompt_ids")}
        return Turn(**row | ids)


@dataclass(frozen=True)
class Dialogue:
    """A finished dialogue.

    Attributes:
        question_id: of its question.
        turns: what was said.
        answer: None if the agents gave none.
        metric: of that answer, in [0, 1].
        ended: how it ended, one of the system's `endings`.
    """

    question_id: str
    turns: tuple[Turn, ...]
    answer: str | None
    metric: float
    ended: str = field(default="")

    @property
    def tokens(self) -> int:
        """Tokens generated in all turns."""
        return sum(len(turn.token_ids) for turn in self.turns)


class System:
    """A multi-agent system. All methods are pure functions of the question and the turns so far.

    A subclass gives the attributes and the first four methods; the others have defaults that suit
    a system without tools.

    Attributes:
        name: of its task.
        agents: names of those who speak.
        metric_name: of the metric, such as `F1`.
        max_new_tokens: tokens of a reply, at most.
        endings: how its dialogues can end.
        has_tools: whether some turns are said by tools, without the model (`is_tool`, `act`).
    """

    name: str
    agents: tuple[str, ...]
    metric_name: str
    max_new_tokens: int
    endings: tuple[str, ...] = ENDINGS
    has_tools: bool = False

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        """Whose turn it is; None when the dialogue has ended."""
        raise NotImplementedError

    def messages(
        self, question: Question, turns: tuple[Turn, ...], agent: str
    ) -> list[dict[str, str]]:
        """The chat messages that `agent` is shown: a system message, then the turns as it sees
        them."""
        raise NotImplementedError

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        """The system's answer, or None."""
        raise NotImplementedError

    def score(self, question: Question, answer: str | None) -> float:
        """The metric of an answer, in [0, 1]."""
        raise NotImplementedError

    def expected_turns(self) -> int:
        """Replies of the model in a dialogue, as `make plan` assumes."""
        return 2 * len(self.agents)

    def is_tool(self, name: str | None) -> bool:
        """Whether this is a tool, which says what `act` gives."""
        return False

    def act(self, question: Question, turns: tuple[Turn, ...]) -> str:
        """What the tool says whose turn it is."""
        raise NotImplementedError

    def prepare(self, answers: list[tuple[Question, str | None]]) -> None:
        """Look at these answers, all at once, before they are scored; a judge uses it."""

    def unclear(self, question: Question, answer: str | None) -> bool:
        """Whether the judge's reply on this answer was no verdict."""
        return False


def parse_answer(text: str) -> str | None:
    """The answer of a reply: what stands between its last `<A>` and `</A>`; None where nothing
    does. The last counts, since a reply that corrects itself means what it says last; so it is in
    the authors' parser (answerParser/parser.py)."""
    matches = _ANSWER.findall(text)
    return (matches[-1].strip() or None) if matches else None


def count_answers(text: str) -> int:
    """How many `<A>...</A>` a reply holds."""
    return len(_ANSWER.findall(text))


def chat_messages(
    system: System, question: Question, turns: tuple[Turn, ...], agent: str
) -> list[dict[str, str]]:
    """Chat messages of an agent of a system of two: its instructions, the opening, then the turns.

    An agent's own replies are the assistant's, all others are the user's; the opening and a
    partner's first reply are one message, so that roles alternate.
    """
    index = system.agents.index(agent)
    known = {
        "role": agent,
        "name": agent.capitalize(),
        "partner": system.agents[1 - index].capitalize(),
        "view": question.views[agent],
        "question": question.text,
    }
    messages = [{"role": "system", "content": system.instructions[index].format(**known)}]
    if system.opening:
        messages.append({"role": "user", "content": system.opening.format(**known)})
    for turn in turns:
        role = "assistant" if turn.agent == agent else "user"
        if messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{turn.agent.capitalize()}: {turn.text}"
        else:
            messages.append({"role": role, "content": turn.text})
    return messages


def finish(system: System, question: Question, turns: tuple[Turn, ...]) -> Dialogue:
    """Close a dialogue: read its answer and score it. An inverted reward is the search's; the
    metric is not inverted."""
    answer = system.answer(question, turns)
    parsed = any(parse_answer(turn.text) is not None for turn in turns if turn.trainable)
    ended = "answered" if answer is not None else "no agreement" if parsed else "no answer parsed"
    if turns and turns[-1].agent == LIMIT and "limit reached" in system.endings:
        ended = "limit reached"
    return Dialogue(question.id, turns, answer, system.score(question, answer), ended)
