"""One rendering of a turn's prompt, used by sampling, scoring and training alike."""

from __future__ import annotations

from functools import lru_cache

from ..tasks.base import Question
from ..tasks.thoughts import CLOSES
from .base import System, Turn
from .chat_template import (
    ChatTemplateError,
    control_text,
    end_of_turn,
    lead_in,
    opens_thought,
    render,
)


@lru_cache(maxsize=200_000)
def _encode(
    tokenizer, messages: tuple[tuple[str, str], ...], reply_follows: bool = True
) -> tuple[int, ...]:
    control = control_text(tokenizer)
    chat = [{"role": role, "content": control.sub(" ", content)} for role, content in messages]
    text = render(tokenizer, chat, reply_follows)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=200_000)
def _system_ids(tokenizer, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    """The system message alone; nothing for a template that demands a user's message beside it."""
    try:
        return _encode(tokenizer, messages, False)
    except ChatTemplateError:
        return ()


def message_ids(tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a prompt of one user message."""
    return _encode(tokenizer, (("user", text),))


def lead_in_ids(tokenizer) -> tuple[int, ...]:
    """Token ids that stand before an agent's reply when it is read alone, as the first message of a
    chat."""
    return tuple(tokenizer(lead_in(tokenizer), add_special_tokens=False)["input_ids"])


def prompt_ids(
    tokenizer, system: System, question: Question, turns: tuple[Turn, ...], agent: str
) -> tuple[int, ...]:
    """Token ids that `agent` is shown for its next reply, by the model's own chat template."""
    return prompt_and_prefix(tokenizer, system, question, turns, agent)[0]


def prompt_and_prefix(
    tokenizer, system: System, question: Question, turns: tuple[Turn, ...], agent: str
) -> tuple[tuple[int, ...], int]:
    """The prompt, and how many of its first tokens are the agent's system message, which all its
    turns share."""
    messages = tuple(
        (message["role"], message["content"]) for message in system.messages(question, turns, agent)
    )
    prompt = _encode(tokenizer, messages)
    shared = _system_ids(tokenizer, messages[:1]) if messages[0][0] == "system" else ()
    return prompt, len(shared) if prompt[: len(shared)] == shared else 0


def reply_ids(tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a reply written by somebody else (a script): its text, then the token by which
    the chat template ends a turn. Where the template begins a reply inside a thought, the thought
    is closed first, or nothing would be said aloud."""
    if opens_thought(tokenizer):
        text = f"{CLOSES}\n\n{text}"
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], end_of_turn(tokenizer))


def rendered_turns(
    tokenizer, system: System, question: Question, turns: tuple[Turn, ...]
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, reply ids) of every turn of a dialogue; both empty for a tool's."""
    rows = []
    for index, turn in enumerate(turns):
        if system.is_tool(turn.agent):
            rows.append(([], []))
            continue
        prompt = prompt_ids(tokenizer, system, question, turns[:index], turn.agent)
        rows.append((list(prompt), list(turn.token_ids or reply_ids(tokenizer, turn.text))))
    return rows
