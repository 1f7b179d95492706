"""A judge model behind an OpenAI-compatible server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from ..tools import PageError, one_line
from .judge import JudgeError, read_verdict

if TYPE_CHECKING:
    from ..tools.fetching import Answer, Fetcher

WORD_TOKENS, THOUGHT_TOKENS = 8, 2048
"""Tokens of a reply: of a word, and of a thought before it."""

MAX_BYTES = 1_000_000
"""Of an answer of the server."""

TRIES = 3
"""Requests, at most, to a server that is busy or starting (5xx)."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None


class _Completion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_Choice] = Field(min_length=1)


def server(
    url: str, model: str, key: str = "none", seconds: float = 60.0
) -> Callable[[list[str]], list[str]]:
    """A judge behind an OpenAI-compatible server (`<url>/chat/completions`), greedy, one prompt
    after another. A reply that is cut before its verdict is asked for once more with room for a
    thought; the room is not given at once, since other judges need none.

    Args:
        key: sent as a bearer token.
        seconds: for an answer, all of it, ten times as long for a thought; a day at most.

    Raises:
        JudgeError: when the server cannot be asked; what it answers is judged, not raised. An
            answer that is no chat completion is an empty reply.
    """
    from ..tools.fetching import Fetcher

    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise JudgeError("JUDGE_API_KEY: not a key; expected printable ASCII characters")
    fetchers = {
        tokens: Fetcher(time_limit, MAX_BYTES, private=True, proxies=True)
        for tokens, time_limit in ((WORD_TOKENS, seconds), (THOUGHT_TOKENS, 10 * seconds))
    }
    address = f"{url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def asked(prompt: str, tokens: int) -> _Choice | None:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        answer = _answered(fetchers[tokens], address, headers, json.dumps(body).encode())
        return _choice(answer)

    def reply(prompt: str) -> str:
        choice = asked(prompt, WORD_TOKENS)
        if choice and choice.finish_reason == "length" and _verdict(choice) is None:
            choice = asked(prompt, THOUGHT_TOKENS)
        return choice.message.content or "" if choice else ""

    return lambda prompts: [reply(prompt) for prompt in prompts]


def check_server(ask: Callable[[list[str]], list[str]], url: str) -> None:
    """Ask a judge's server once.

    Raises:
        JudgeError: in one line, when it cannot be asked or answers without a word.
    """
    if not ask(["Reply with one word: correct or incorrect."])[0].strip():
        raise JudgeError(f"{url}: answers, but not as a chat completion with text")


def _verdict(choice: _Choice) -> bool | None:
    return read_verdict(choice.message.content or "")


def _choice(answer: Answer) -> _Choice | None:
    from ..tools.fetching import read_as

    try:
        return read_as(_Completion, answer.body).choices[0]
    except ValueError:
        return None


def _answered(fetcher: Fetcher, url: str, headers: dict[str, str], body: bytes) -> Answer:
    """What the server answers; one that is busy or starting is asked again."""
    for attempt in range(TRIES):
        fetcher.begin()
        try:
            answer = fetcher.fetch(url, headers, body)
        except PageError as error:
            raise JudgeError(f"{url}: the judge cannot be asked ({error})") from None
        if answer.status < 500:
            break
        if attempt < TRIES - 1:
            time.sleep(2**attempt)
    if answer.status >= 300:
        told = one_line(answer.body.decode(errors="replace"), 200)
        raise JudgeError(
            one_line(f"{url}: the judge cannot be asked (status {answer.status}: {told})")
        )
    return answer
