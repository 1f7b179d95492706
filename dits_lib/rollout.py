"""Playing dialogues with an engine: all dialogues advance together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .agents import LIMIT, Dialogue, System, Turn, finish, prompt_and_prefix, spoken
from .engines import Completion, Engine, LoRAStack, Request, derive_seed
from .tasks import Question


@dataclass(frozen=True)
class State:
    """A dialogue to be continued.

    Attributes:
        question: what is asked.
        turns: what has been said.
        seed: noise of the coming turns; states with equal seeds share it (common random numbers).
        adapter: index into the LoRA stack, or None.
    """

    question: Question
    turns: tuple[Turn, ...]
    seed: int
    adapter: int | None = None


Continue = Callable[[int, Dialogue], list[State]]
"""Told of every dialogue that ended (its index, the dialogue); gives the states to be played next,
which get the next free indices."""


def play(
    engine: Engine,
    system: System,
    states: list[State],
    temperature: float,
    adapters: LoRAStack | None = None,
    then: Continue | None = None,
    top_p: float = 1.0,
) -> list[Dialogue]:
    """Continue every state to the end of its dialogue, in the order of the states.

    All dialogues advance together. An engine that takes requests while it speaks (`converse`) is
    handed a dialogue's next turn as soon as its last one has been said; others are asked in rounds.
    Dialogues with tools go in rounds on every engine, since an engine would wait for their pages.

    Args:
        then: what to play when a dialogue has ended, for callers that go on without waiting for the
            others.
        top_p: of the sampling, as in `Request`.
    """
    table = _Dialogues(engine, system, temperature, then, top_p)
    first = table.begin(states)
    converse = engine.in_rounds if system.has_tools else engine.converse
    converse(first, table.reply, adapters)
    return [table.dialogues[i] for i in range(len(table.states))]


class _Dialogues:
    """Dialogues that are being played, by index."""

    def __init__(
        self,
        engine: Engine,
        system: System,
        temperature: float,
        then: Continue | None,
        top_p: float,
    ):
        self.engine, self.system, self.then = engine, system, then
        self.temperature, self.top_p = temperature, top_p
        self.states: list[State] = []
        self.turns: list[tuple[Turn, ...]] = []
        self.dialogues: dict[int, Dialogue] = {}
        self._asked: dict[int, tuple[str, Request]] = {}

    def begin(self, states: list[State]) -> dict[int, Request]:
        """Take up dialogues; returns the requests to make for them."""
        self.states += states
        self.turns += [state.turns for state in states]
        return self._advance([*range(len(self.states) - len(states), len(self.states))])

    def reply(self, completions: dict[int, Completion]) -> dict[int, Request]:
        """Take in what was said; returns the requests to make next."""
        for i, said in completions.items():
            agent, request = self._asked.pop(i)
            mean = sum(said.logprobs) / max(1, len(said.logprobs))
            # What an agent only thinks is neither told to others nor read for answers and calls.
            aloud = spoken(self.engine.tokenizer, said.token_ids, said.text)
            turn = Turn(agent, aloud, said.token_ids, request.prompt_ids, mean)
            self.turns[i] = (*self.turns[i], turn)
        return self._advance([*completions])

    def _advance(self, which: list[int]) -> dict[int, Request]:
        """Let tools act, and ask the agents whose turn it is; close the dialogues that ended."""
        requests, ended = {}, []
        agents = _let_tools_act(self.system, self.states, self.turns, which)
        for i, agent in zip(which, agents, strict=True):
            request = None if agent is None else self._request(i, agent)
            if request is None:
                ended.append(i)
            else:
                requests[i], self._asked[i] = request, (agent, request)
        return requests | self._close(ended)

    def _request(self, i: int, agent: str) -> Request | None:
        """What to ask an agent; None, after a turn that says why, if the engine cannot hold it."""
        engine, system, state, turns = self.engine, self.system, self.states[i], self.turns[i]
        prompt, prefix = prompt_and_prefix(engine.tokenizer, system, state.question, turns, agent)
        noise, longest = derive_seed(state.seed, len(turns)), system.max_new_tokens
        request = Request(
            prompt, noise, longest, self.temperature, state.adapter, prefix, self.top_p
        )
        if not _too_long(engine, system, request):
            return request
        reason = f"stopped: a prompt longer than {engine.max_length} tokens"
        self.turns[i] = (*turns, Turn(LIMIT, reason, trainable=False))
        return None

    def _close(self, ended: list[int]) -> dict[int, Request]:
        """Score the dialogues that ended and take up what follows them."""
        if ended:
            asked = [(self.states[i].question, self.turns[i]) for i in ended]
            self.system.prepare([(q, self.system.answer(q, turns)) for q, turns in asked])
        following = []
        for i in ended:
            self.dialogues[i] = finish(self.system, self.states[i].question, self.turns[i])
            following += self.then(i, self.dialogues[i]) if self.then else []
        return self.begin(following) if following else {}


def _let_tools_act(
    system: System, states: list[State], turns: list[tuple[Turn, ...]], which
) -> list[str | None]:
    """Add the turns of tools to these dialogues until the model must speak or they end; returns who
    speaks next. Tools wait for pages rather than compute, so the dialogues' tools run side by
    side."""

    def settle(i: int) -> str | None:
        question, agent = states[i].question, system.next_agent(states[i].question, turns[i])
        while system.is_tool(agent):
            turns[i] = (*turns[i], Turn(agent, system.act(question, turns[i]), trainable=False))
            agent = system.next_agent(question, turns[i])
        return agent

    if not system.has_tools:
        return [settle(i) for i in which]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(settle, which))


def _too_long(engine: Engine, system: System, request: Request) -> bool:
    """Whether an engine of limited length cannot hold a prompt that grew while agents called each
    other; that ends the dialogue. In a system of a fixed order it is a mistake in the parameters,
    which the engine names."""
    if engine.max_length is None or not system.has_tools:
        return False
    return len(request.prompt_ids) + request.max_new_tokens > engine.max_length


def sample_dialogues(
    engine: Engine,
    system: System,
    questions: list[Question],
    seed: object,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[Dialogue]:
    """`samples` dialogues of every question, question by question."""
    states = [
        State(question, (), derive_seed(seed, question.id, sample))
        for question in questions
        for sample in range(samples)
    ]
    return play(engine, system, states, temperature, top_p=top_p)


def evaluate(
    engine: Engine,
    system: System,
    questions: list[Question],
    seed: object,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[float]:
    """Mean metric of each question over `samples` sampled dialogues, [questions], in [0, 1]."""
    played = sample_dialogues(engine, system, questions, seed, samples, temperature, top_p)
    parts = [played[start : start + samples] for start in range(0, len(played), samples)]
    return [sum(dialogue.metric for dialogue in part) / samples for part in parts]
