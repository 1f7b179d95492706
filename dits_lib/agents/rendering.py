"""One rendering of a turn's prompt, used by sampling, scoring and training alike."""

from __future__ import annotations

import re
from functools import lru_cache

from jinja2 import TemplateError

from ..tasks.base import Question
from .base import System, Turn


@lru_cache(maxsize=200_000)
def _encode(
    tokenizer, messages: tuple[tuple[str, str], ...], reply_follows: bool = True
) -> tuple[int, ...]:
    control = _control_tokens(tokenizer)
    chat = [{"role": role, "content": control.sub(" ", content)} for role, content in messages]
    if chat[0]["role"] == "system" and not _knows_system(tokenizer):
        first = chat.pop(0)
        if chat:
            chat[0] = {"role": "user", "content": f"{first['content']}\n\n{chat[0]['content']}"}
        else:
            chat = [{"role": "user", "content": first["content"]}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=reply_follows)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=200_000)
def _system_ids(tokenizer, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    """The system message alone; nothing for a template that demands a user's message beside it."""
    try:
        return _encode(tokenizer, messages, False)
    except TemplateError:
        return ()


@lru_cache(maxsize=16)
def _control_tokens(tokenizer) -> re.Pattern:
    """Matches the tokenizer's special tokens as text: what an agent reads (a page, another's words)
    must not open or close messages."""
    special = {
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special
    } | set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")


@lru_cache(maxsize=16)
def _knows_system(tokenizer) -> bool:
    """Whether the chat template takes a system message (Gemma's raises); if not, it goes into the
    first user message."""
    try:
        tokenizer.apply_chat_template(
            [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}], tokenize=False
        )
    except TemplateError:
        return False
    return True


def message_ids(tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a prompt of one user message."""
    return _encode(tokenizer, (("user", text),))


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
    """Token ids of a reply written by somebody else (a script): its text, then the end-of-turn
    token."""
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)


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
