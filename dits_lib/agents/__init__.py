"""Multi-agent systems: who speaks, what each agent is shown, when a dialogue ends."""

from importlib import import_module

from .base import ENDINGS, LIMIT, Dialogue, System, Turn, chat_messages, finish, parse_answer
from .calls import CallingAgents, CallLimits, Frame, frames_of, parse_call, plain
from .chat_template import ChatTemplateError, check_chat_template, end_of_turn, spoken, stop_ids
from .debate import Debate
from .deep_search import DeepSearch, web_system
from .exchange import Exchange
from .parsing import parsing_counts
from .rendering import (
    lead_in_ids,
    message_ids,
    prompt_and_prefix,
    prompt_ids,
    rendered_turns,
    reply_ids,
)
from .task import Task, World

TASK_MODULES = (
    "exchange",
    "debate",
    "deep_search",
)
"""Files of this folder that build a `TASK`. A new agent graph is such a file, and its line here."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (import_module(f"{__name__}.{module}").TASK for module in TASK_MODULES)
}
"""Every task by name."""


def make_system(task: str, style: str = "micro", **limits: int) -> System:
    """The multi-agent system of a task whose agents read no pages.

    Args:
        task: a name in `TASKS`.
        style: of the prompts, one of the task's `styles`.
        limits: such as `max_turns`, `max_new_tokens`, where other than the style's.
    """
    return TASKS[task].system(style, limits)


__all__ = [
    "ENDINGS",
    "LIMIT",
    "TASKS",
    "CallLimits",
    "CallingAgents",
    "ChatTemplateError",
    "Debate",
    "DeepSearch",
    "Dialogue",
    "Exchange",
    "Frame",
    "System",
    "Task",
    "Turn",
    "World",
    "chat_messages",
    "check_chat_template",
    "end_of_turn",
    "finish",
    "frames_of",
    "lead_in_ids",
    "make_system",
    "message_ids",
    "parse_answer",
    "parse_call",
    "parsing_counts",
    "plain",
    "prompt_and_prefix",
    "prompt_ids",
    "rendered_turns",
    "reply_ids",
    "spoken",
    "stop_ids",
    "web_system",
]
