"""Playing dialogues with an engine: all dialogues advance together, one turn a pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .agents import LIMIT, Dialogue, System, Turn, finish, is_tool, prompt_and_prefix
from .engines import Engine, LoRAStack, Request, derive_seed
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


def play(engine: Engine, system: System, states: list[State], temperature: float, adapters: LoRAStack | None = None) -> list[Dialogue]:
    """Continue every state to the end of its dialogue, in the order of the states."""
    turns = [state.turns for state in states]
    speakers = dict(enumerate(_let_tools_act(system, states, turns, range(len(states)))))
    active = [i for i, agent in speakers.items() if agent is not None]
    while active:
        asked = {i: _request(engine, system, states[i], turns[i], speakers[i], temperature) for i in active}
        for i in [i for i in active if _too_long(engine, system, asked[i])]:
            turns[i] = (*turns[i], Turn(LIMIT, f"stopped: a prompt longer than {engine.max_length} tokens", trainable=False))
            del asked[i]
        active, requests = [*asked], [*asked.values()]
        for i, request, reply in zip(active, requests, engine.generate(requests, adapters) if requests else [], strict=True):
            mean = sum(reply.logprobs) / max(1, len(reply.logprobs))
            turns[i] = (*turns[i], Turn(speakers[i], reply.text, reply.token_ids, request.prompt_ids, mean))
        speakers.update(zip(active, _let_tools_act(system, states, turns, active), strict=True))
        active = [i for i in active if speakers[i] is not None]
    if hasattr(system, "prepare"):  # a judge that looks at all answers at once
        system.prepare([(state.question, system.answer(state.question, spoken)) for state, spoken in zip(states, turns, strict=True)])
    return [finish(system, state.question, spoken) for state, spoken in zip(states, turns, strict=True)]


def _let_tools_act(system: System, states: list[State], turns: list[tuple[Turn, ...]], which) -> list[str | None]:
    """Add the turns of tools to these dialogues until the model must speak or they end; returns who speaks next. Tools wait for
    pages rather than compute, so the dialogues' tools run side by side."""

    def settle(i: int) -> str | None:
        question, agent = states[i].question, system.next_agent(states[i].question, turns[i])
        while is_tool(system, agent):
            turns[i] = (*turns[i], Turn(agent, system.act(question, turns[i]), trainable=False))
            agent = system.next_agent(question, turns[i])
        return agent

    if not hasattr(system, "acts"):
        return [settle(i) for i in which]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(settle, which))


def _too_long(engine: Engine, system: System, request: Request) -> bool:
    """Whether an engine of limited length cannot hold a prompt that grew while agents called each other; that ends the dialogue. In a
    system of a fixed order it is a mistake in the parameters, which the engine names."""
    longest = getattr(engine, "max_length", None)
    return longest is not None and hasattr(system, "acts") and len(request.prompt_ids) + request.max_new_tokens > longest


def _request(engine: Engine, system: System, state: State, turns: tuple[Turn, ...], agent: str, temperature: float) -> Request:
    prompt, prefix = prompt_and_prefix(engine.tokenizer, system, state.question, turns, agent)
    seed = derive_seed(state.seed, len(turns))
    return Request(prompt, seed, system.max_new_tokens, temperature, state.adapter, prefix)


def sample_dialogues(
    engine: Engine, system: System, questions: list[Question], seed: object, samples: int = 1, temperature: float = 1.0
) -> list[Dialogue]:
    """`samples` dialogues of every question, question by question."""
    states = [
        State(question, (), derive_seed(seed, question.id, sample)) for question in questions for sample in range(samples)
    ]
    return play(engine, system, states, temperature)
