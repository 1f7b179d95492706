"""Multi-agent systems: who speaks, what each agent is shown, when a dialogue ends."""

from .base import ENDINGS, Dialogue, System, Turn, chat_messages, endings_of, finish, is_tool, parse_answer
from .calls import LIMIT, CallingAgents, Frame, frames_of, parse_call, plain
from .calls import Limits as CallLimits
from .debate import Debate
from .deep_search import DeepSearch, web_system
from .exchange import Exchange
from .prompts import PROMPTS
from .rendering import message_ids, prompt_and_prefix, prompt_ids, rendered_turns, reply_ids
from .scripted import SCRIPTED, scripted_dialogue

LIMITS = {
    "micro": {"exchange": {"max_turns": 6, "max_new_tokens": 10}, "debate": {"max_turns": 3, "max_new_tokens": 20}},
    "chat": {"exchange": {"max_turns": 6, "max_new_tokens": 64}, "debate": {"max_turns": 3, "max_new_tokens": 128}},
}
"""Turns of a dialogue and tokens of a reply, at most, by the style of the prompts."""


def make_system(task: str, prompts: str = "micro", **limits: int) -> System:
    """The multi-agent system of a task.

    Args:
        task: `exchange` or `debate`.
        prompts: `micro` (the micro world's few words) or `chat`.
        limits: `max_turns`, `max_new_tokens`, where other than in `LIMITS`.
    """
    kind = {"exchange": Exchange, "debate": Debate}[task]
    return kind(**PROMPTS[prompts][task], **LIMITS[prompts][task] | limits)


def readers_of(task: str) -> tuple[str, ...]:
    """The agents of a task that read a text of their own in each question; those of deep search find theirs."""
    return () if task == "deep_search" else make_system(task).agents


SYSTEMS: dict[str, System] = {task: make_system(task) for task in ("exchange", "debate")}
"""The systems of the micro world."""

__all__ = [
    "ENDINGS",
    "LIMIT",
    "LIMITS",
    "PROMPTS",
    "SCRIPTED",
    "SYSTEMS",
    "CallLimits",
    "CallingAgents",
    "Debate",
    "DeepSearch",
    "Dialogue",
    "Exchange",
    "Frame",
    "System",
    "Turn",
    "chat_messages",
    "endings_of",
    "finish",
    "frames_of",
    "is_tool",
    "make_system",
    "message_ids",
    "parse_answer",
    "parse_call",
    "plain",
    "prompt_and_prefix",
    "prompt_ids",
    "readers_of",
    "rendered_turns",
    "reply_ids",
    "scripted_dialogue",
    "web_system",
]
