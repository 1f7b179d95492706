"""Multi-agent systems: who speaks, what each agent is shown, when a dialogue ends."""

from .base import Dialogue, System, Turn, chat_view, finish, parse_answer
from .debate import Debate
from .exchange import Exchange
from .rendering import prompt_ids, rendered_turns, reply_ids, shared_prefix
from .scripted import SCRIPTED, scripted_dialogue

SYSTEMS: dict[str, System] = {"exchange": Exchange(), "debate": Debate()}

__all__ = [
    "SCRIPTED",
    "SYSTEMS",
    "Debate",
    "Dialogue",
    "Exchange",
    "System",
    "Turn",
    "chat_view",
    "finish",
    "parse_answer",
    "prompt_ids",
    "rendered_turns",
    "reply_ids",
    "scripted_dialogue",
    "shared_prefix",
]
