"""One rendering of a turn's prompt, used by sampling, scoring and training alike."""

from __future__ import annotations

from functools import lru_cache

from ..tasks.base import Question
from .base import System, Turn


@lru_cache(maxsize=200_000)
def _encode(tokenizer, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    chat = [{"role": role, "content": content} for role, content in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_ids(tokenizer, system: System, question: Question, turns: tuple[Turn, ...], agent: str) -> tuple[int, ...]:
    """Token ids that `agent` is shown for its next reply, by the model's own chat template."""
    messages = system.messages(question, turns, agent)
    return _encode(tokenizer, tuple((message["role"], message["content"]) for message in messages))


@lru_cache(maxsize=200_000)
def _system_ids(tokenizer, system_message: str) -> tuple[int, ...]:
    text = tokenizer.apply_chat_template([{"role": "system", "content": system_message}], tokenize=False)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def shared_prefix(tokenizer, system: System, question: Question, agent: str, prompt: tuple[int, ...]) -> int:
    """How many of the prompt's first tokens are the agent's system message, which all its turns share."""
    first = system.messages(question, (), agent)[0]
    ids = _system_ids(tokenizer, first["content"]) if first["role"] == "system" else ()
    return len(ids) if prompt[: len(ids)] == ids else 0


def reply_ids(tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a reply written by somebody else (a script): its text, then the end-of-turn token."""
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)


def rendered_turns(tokenizer, system: System, question: Question, turns: tuple[Turn, ...]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, reply ids) of every turn of a dialogue."""
    rows = []
    for index, turn in enumerate(turns):
        prompt = prompt_ids(tokenizer, system, question, turns[:index], turn.agent)
        rows.append((list(prompt), list(turn.token_ids or reply_ids(tokenizer, turn.text))))
    return rows
