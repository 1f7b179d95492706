"""Agents that call each other: whose turn it is follows at run time from what was said.

A reply that holds exactly one `<call name>request</call>` passes control to the agent or tool of
that name; its reply without a call is its result and goes back to the caller. Calls nest to any
depth within the limits. The first agent's reply without a call ends the dialogue. All this is read
off the turns themselves, so a dialogue can be continued, searched and rendered from any point of
it, as one of a fixed order can.

Tools are names with a function; what they say is data: a turn that nobody trains on, and never an
instruction. It reaches its caller as a user message, with the tags of calls and answers taken out,
so that a page cannot call or answer in an agent's place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..tasks.base import Question
from ..tools import CacheError, one_line
from .base import ENDINGS, LIMIT, System, Turn, parse_answer

MAX_RESULT = 20_000
"""Characters of a tool's result, at most: no page may fill an agent's prompt."""

CALLS_USED = 0.5
"""Share of the calls allowed that a dialogue makes, as `make plan` assumes."""

_CALL = re.compile(r"<call (\w+)>\s*(.*?)\s*</call>", re.DOTALL)
_TAG = re.compile(r"</?\s*(?:call|A)\b[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class CallLimits:
    """What one dialogue may spend.

    Attributes:
        calls: in all.
        nesting: calls inside calls.
        tokens: generated in all turns.
    """

    calls: int = 16
    nesting: int = 4
    tokens: int = 4096


@dataclass
class Frame:
    """An agent at work.

    Attributes:
        agent: its name.
        request: what it was asked.
        messages: what it and those it called have said since: (`reply` or `result`, text).
    """

    agent: str
    request: str
    messages: list[tuple[str, str]] = field(default_factory=list)


def parse_call(text: str) -> tuple[str, str] | None:
    """(name, request) of the one call in a reply; None unless there is exactly one."""
    matches = _CALL.findall(text)
    return matches[0] if len(matches) == 1 else None


def plain(text: str) -> str:
    """A text without the tags that agents call and answer with; a space stands for each, so that
    none can be spliced together."""
    return _TAG.sub(" ", text)


def frames_of(first: str, names: tuple[str, ...], turns: tuple[Turn, ...]) -> list[Frame]:
    """The agents at work after these turns, the caller before the called; empty when the first
    agent has ended."""
    stack = [Frame(first, "")]
    for turn in turns:
        call = parse_call(turn.text) if turn.trainable else None
        stack[-1].messages.append(("reply", turn.text))
        if call is None:
            ended = stack.pop()
            if not stack:
                return []
            stack[-1].messages.append(
                ("result", f"{ended.agent}: {turn.text if turn.trainable else plain(turn.text)}")
            )
        elif call[0] in names:
            stack.append(Frame(*call))
        else:
            stack[-1].messages.append(
                ("result", f"there is no {call[0]}; there are: {', '.join(names)}")
            )
    return stack


class CallingAgents(System):
    """What a system of agents that call each other shares; a subclass gives `first`, `agents`,
    `tools`, `limits` and the rest of `System`.

    Attributes:
        first: the agent that is asked the question and gives the answer.
        agents: those that speak (the model), the first among them.
        tools: name to function: request -> text. What it raises becomes its text.
    """

    first: str
    agents: tuple[str, ...]
    tools: Mapping[str, Callable[[str], str]]
    limits: CallLimits
    endings = (*ENDINGS, "limit reached")
    has_tools = True

    def expected_turns(self) -> int:
        """`CALLS_USED` of the calls that are allowed, and the answer."""
        return round(CALLS_USED * self.limits.calls) + 1

    def next_agent(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        """The agent or tool on top of the stack; `LIMIT` when a limit is passed; None at the
        end."""
        if turns and turns[-1].agent == LIMIT:
            return None
        stack = frames_of(self.first, self.names, turns)
        if not stack:
            return None
        return LIMIT if self.exceeded(stack, turns) else stack[-1].agent

    @property
    def names(self) -> tuple[str, ...]:
        """Whom an agent may call."""
        return (*(agent for agent in self.agents if agent != self.first), *self.tools)

    def exceeded(self, stack: list[Frame], turns: tuple[Turn, ...]) -> str | None:
        """The limit that is passed, in words; None if there is none."""
        calls = sum(turn.trainable and parse_call(turn.text) is not None for turn in turns)
        tokens = sum(len(turn.token_ids) for turn in turns)
        if calls > self.limits.calls:
            return f"more than {self.limits.calls} calls"
        if len(stack) - 1 > self.limits.nesting:
            return f"calls nested deeper than {self.limits.nesting}"
        return f"more than {self.limits.tokens} tokens" if tokens >= self.limits.tokens else None

    def is_tool(self, name: str | None) -> bool:
        """Whether this is a tool (or the end by a limit): it says what `act` gives."""
        return name is not None and (name == LIMIT or name in self.tools)

    def act(self, question: Question, turns: tuple[Turn, ...]) -> str:
        """What the tool on top of the stack says, or why the dialogue ends."""
        stack = frames_of(self.first, self.names, turns)
        if (reason := self.exceeded(stack, turns)) is not None:
            return f"stopped: {reason}"
        try:
            return self.use(stack[-1].agent, stack[-1].request, turns)[:MAX_RESULT]
        except CacheError:
            raise
        except Exception as error:  # a tool that fails must not end the run: its caller reads why
            told = f"{stack[-1].agent} failed: {type(error).__name__}: {error}"
            return one_line(told, MAX_RESULT)

    def use(self, tool: str, request: str, turns: tuple[Turn, ...]) -> str:
        """What a tool gives; a subclass whose tools depend on what was said before overrides
        this."""
        return self.tools[tool](request)

    def answer(self, question: Question, turns: tuple[Turn, ...]) -> str | None:
        """What stands between `<A>` and `</A>` in the reply that ended the first agent's work."""
        ended = (
            bool(turns)
            and turns[-1].agent == self.first
            and not frames_of(self.first, self.names, turns)
        )
        return parse_answer(turns[-1].text) if ended else None

    def messages(
        self, question: Question, turns: tuple[Turn, ...], agent: str
    ) -> list[dict[str, str]]:
        """What the agent on top of the stack is shown: its instructions, its request, and what came
        of its own calls."""
        frame = frames_of(self.first, self.names, turns)[-1]
        messages = [
            {"role": "system", "content": self.instruct(question, agent)},
            {"role": "user", "content": frame.request or question.text},
        ]
        for kind, text in frame.messages:
            role = "assistant" if kind == "reply" else "user"
            if messages[-1]["role"] == role:
                messages[-1]["content"] += f"\n\n{text}"
            else:
                messages.append({"role": role, "content": text})
        return messages

    def instruct(self, question: Question, agent: str) -> str:
        """The system message of an agent."""
        raise NotImplementedError
