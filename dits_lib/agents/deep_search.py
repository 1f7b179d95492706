"""Deep search: a reasoner searches and answers, an explorer opens pages and follows links; how
often and how deep is decided while they run.

The topology of WebThinker (Li et al., 2025), which DITS uses for WebWalkerQA: the reasoner thinks
and issues searches, and hands a page and what it wants to know to the explorer, whose summary goes
back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ..tasks.base import Question
from ..tasks.judge import ExactMatch, Judge
from ..tasks.micro_web import make_web, web_questions
from ..tools import Page, PageError, Source, shown
from .base import Turn
from .calls import CallingAgents, CallLimits
from .task import Task

REASONER = """You answer a question from the pages of a site. Think step by step. You may write one of
<call search>a few words</call> to find pages,
<call explorer>the address of a page, and what you want to know from it</call> to have it read.
Write one call a reply. When you know the answer, reply with <A>answer</A>, as short as it can be."""  # noqa: E501

EXPLORER = """You read pages for somebody else. You may write one of
<call open>address</call> to open a page,
<call click>number</call> to follow a link of the page that you opened last.
Write one call a reply. When you have found what is asked for, or cannot, reply without a call: say in one or two sentences what you found."""  # noqa: E501

_ADDRESS = re.compile(r"^\[(\S+)\]$", re.MULTILINE)


@dataclass(frozen=True)
class DeepSearch(CallingAgents):
    """Reasoner and explorer.

    Attributes:
        source: of pages; wrap it in `tools.Cached` so that a run can be replayed.
        judge: tells whether an answer is right.
        page_characters: of a page that the explorer is shown.
        snippet_words: of each page that a search finds, as the reasoner is shown them.
        instructions: of the reasoner and of the explorer.
    """

    source: Source
    max_new_tokens: int = 512
    limits: CallLimits = CallLimits()
    judge: Judge = field(default_factory=ExactMatch)
    page_characters: int = 4000
    snippet_words: int = 30
    instructions: tuple[str, str] = (REASONER, EXPLORER)
    name: str = "deep_search"
    first: str = "reasoner"
    agents: tuple[str, ...] = ("reasoner", "explorer")
    metric_name: str = "accuracy"

    @property
    def tools(self):
        return {"search": self._search, "open": self._open, "click": self._open}

    def instruct(self, question: Question, agent: str) -> str:
        return self.instructions[self.agents.index(agent)]

    def use(self, tool: str, request: str, turns: tuple[Turn, ...]) -> str:
        """A click is a number, and means a link of the page that was opened last."""
        return self._click(request, turns) if tool == "click" else super().use(tool, request, turns)

    def prepare(self, answers: list[tuple[Question, str | None]]) -> None:
        """Let the judge see all answers at once."""
        self.judge.prepare(answers)

    def unclear(self, question: Question, answer: str | None) -> bool:
        return self.judge.unclear(question, answer)

    def score(self, question: Question, answer: str | None) -> float:
        return self.judge.score(question, answer)

    def _search(self, request: str) -> str:
        pages = self.source.search(request)
        return "\n".join(map(self._result, pages)) or "nothing found"

    def _result(self, page: Page) -> str:
        """A page as a line among the results of a search."""
        snippet = " ".join(page.text.split()[: self.snippet_words])
        return f"{page.url} | {page.title[:200]} | {snippet}".strip(" |")

    def _open(self, request: str) -> str:
        return self._page(self.source.open(request.strip()))

    def _click(self, request: str, turns: tuple[Turn, ...]) -> str:
        opened = [
            match
            for turn in turns
            if turn.agent in ("open", "click")
            for match in _ADDRESS.findall(turn.text.split("\n")[0])
        ]
        if not opened or not request.strip().isdigit():
            raise PageError(
                "no page", f"{request}: expected the number of a link of a page that was opened"
            )
        links = self.source.open(opened[-1]).links
        number = int(request)
        if not 1 <= number <= len(links):
            raise PageError("no page", f"{request}: that page has {len(links)} links")
        return self._page(self.source.open(links[number - 1][1]))

    def _page(self, page: Page) -> str:
        """Its address on a line of its own, by which the next click finds it, then what it says."""
        return f"[{page.url}]\n{shown(page, self.page_characters)}"


STYLES = {
    "micro": {
        "max_new_tokens": 12,
        "limits": CallLimits(calls=8, nesting=2, tokens=160),
        "snippet_words": 0,
        "instructions": ("reasoner :", "explorer :"),
    },
    "chat": {},
}
"""What differs between the micro web and the web, by the style of the prompts."""


def web_system(
    style: str, limits: dict[str, int] | None = None, source: Source | None = None, **changes
) -> DeepSearch:
    """Deep search in a style of prompts, over a source of pages.

    Args:
        style: `micro` or `chat`.
        limits: those of `CallLimits` that are other than the style's.
        source: of pages; None for a system that is asked for its limits alone.
        changes: attributes of `DeepSearch` that are other than the style's.
    """
    given = {"limits": CallLimits()} | STYLES[style] | changes
    given["limits"] = replace(given["limits"], **(limits or {}))
    return DeepSearch(source, **given)


TASK = Task(
    name="deep_search",
    title="deep search",
    metric="accuracy",
    system=web_system,
    questions=lambda split, count, seed, world: web_questions(
        make_web(world.seed), split, count, seed
    ),
    world="the micro web",
    on_pages=True,
)
