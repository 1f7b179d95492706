"""Search trees and selections to click through in JupyterLab.

The widgets are those of ipywidgets; what they show is made in `nodes.py` and `kept.py`. Where no
front end draws them (papermill, nbconvert, GitHub) a sentence stands for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape

import ipywidgets as widgets

from ..pairs import Pair
from ..search import Tree
from .kept import kept_by, kept_pairs, kept_picture, kept_sentence, kept_table
from .nodes import (
    Place,
    node_page,
    pair_places,
    question_line,
    replay_sentence,
    replayed,
    rollouts_of,
    tree_lines,
)

STYLE = """<style>
.dits-explorer select, .dits-head { font-family: var(--jp-code-font-family, monospace);
  font-size: 12px; }
.dits-head { padding-left: 10px; white-space: pre; }
.dits-page { line-height: 1.4; padding: 0 8px; overflow-wrap: anywhere; }
.dits-page p, .dits-page details, .dits-page table { margin: 4px 0; }
.dits-page q, .dits-asked, .dits-turn, .dits-tool, .dits-page details { white-space: pre-wrap; }
.dits-turn, .dits-tool { padding: 2px 8px; margin: 2px 0;
  border-left: 3px solid var(--jp-brand-color1, #1976d2); }
.dits-tool { margin-left: 24px; border-color: var(--jp-border-color1, #bdbdbd); }
.dits-page summary { cursor: pointer; }
.dits-shown, .dits-page tr.dits-shown td { background: #2196f340; }
.dits-page table { border-collapse: collapse; }
.dits-page th, .dits-page td { text-align: left; vertical-align: top; padding: 1px 8px 1px 2px; }
.dits-page th, .dits-page td { white-space: nowrap; }
.dits-page td.dits-said { white-space: normal; }
.dits-q { border-radius: 3px; padding: 0 4px; }
</style>"""
HEAD = "    Q visits   reply (+ chosen, − rejected reply of a pair)"
"""Above the lines of a tree."""
LINE, LEAST, MOST = 16, 320, 480
"""Pixels of a line of a tree, and of all its lines together, at least and at most."""


class Explorer(widgets.VBox):
    """Widgets one below the other, and what is printed where nothing draws them."""

    def __init__(self, parts: Sequence[widgets.Widget], words: str):
        super().__init__([widgets.HTML(STYLE), *parts])
        self.add_class("dits-explorer")
        self._words = words

    def __repr__(self) -> str:
        return self._words


def tree_explorer(
    searches: Mapping[str, tuple[Sequence[Tree], Sequence[Pair]]],
    influence: Mapping[str, float] | None = None,
    begin: str | None = None,
) -> Explorer:
    """Search trees to click through: a question, its tree, and the page of the reply that is
    chosen in it; sliders replay how the tree grew.

    Args:
        searches: {task: (trees, pairs)}, the pairs of these trees.
        influence: by pair id, where scores were computed.
        begin: id of the question that is shown first; None: of the trees that gave pairs one of
            moderate size (a third of the way up by size).

    Raises:
        ValueError: without trees, or for pairs of other trees.
    """
    if not searches or not all(trees for trees, _ in searches.values()):
        raise ValueError("there are no trees to show")
    parts = _TreeParts(searches, influence or {}, begin)
    return Explorer(parts.all, "An explorer of search trees: run this cell in JupyterLab.")


class _TreeParts:
    """The widgets of a tree explorer, and what happens when one of them is moved."""

    def __init__(
        self,
        searches: Mapping[str, tuple[Sequence[Tree], Sequence[Pair]]],
        influence: Mapping[str, float],
        begin: str | None,
    ):
        self.searches, self.influence, self.begin = searches, influence, begin
        # What is shown: a tree, as it was after some dialogues, and the places of its pairs.
        self.tree: Tree | None = None
        self.places: list[Place] = []
        self.filling = False  # the widgets are being set, and nobody has chosen anything
        self.task = widgets.ToggleButtons(options=list(searches), value=_task_of(searches, begin))
        self.question = widgets.Dropdown(layout=widgets.Layout(width="99%"))
        self.repetition = _slider("repetition (k)")
        self.dialogue = _slider("dialogue in it (d)")
        self.status = widgets.HTML()
        self.replay = _row(self.repetition, self.dialogue)
        self.lines = widgets.Select(layout=widgets.Layout(width="99%"))
        self.page = widgets.HTML()
        self.beside = widgets.Box([self.page])
        self.beside.layout = widgets.Layout(flex="2 1 310px", overflow="auto")
        for widget in (self.task, self.question, self.repetition, self.dialogue, self.lines):
            widget.observe(self._moved, "value")
        self._fill_questions()

    @property
    def all(self) -> list[widgets.Widget]:
        """The widgets, from top to bottom."""
        head = widgets.HTML(f'<div class="dits-head">{HEAD}</div>')
        tree = widgets.VBox([head, self.lines], layout=widgets.Layout(flex="3 1 480px"))
        tasks = [self.task] if len(self.searches) > 1 else []
        return [*tasks, self.question, self.replay, self.status, _row(tree, self.beside)]

    def _moved(self, change) -> None:
        """A reader chose something."""
        if self.filling:
            return
        then = {
            self.task: self._fill_questions,
            self.question: self._open_question,
            self.lines: self._show_page,
        }
        then.get(change["owner"], self._show_tree)()

    def _fill_questions(self) -> None:
        trees, pairs = self.searches[self.task.value]
        counts = Counter(pair.question_id for pair in pairs)
        with self._set():
            self.question.options = [
                (question_line(tree, counts[tree.question.id]), number)
                for number, tree in enumerate(trees)
            ]
            self.question.value = _first_shown(trees, set(counts), self.begin)
        self._open_question()

    def _open_question(self) -> None:
        whole, rollouts = self._whole(), rollouts_of(self._whole())
        with self._set():
            for slider, most in (
                (self.repetition, len(whole.selected)),
                (self.dialogue, rollouts),
            ):
                slider.max = slider.value = most if rollouts else 1
            self.replay.layout.display = None if rollouts else "none"
            self.lines.options = []
            height = min(MOST, max(LEAST, LINE * (2 + len(tree_lines(whole)))))
            self.lines.layout.height = f"{height}px"
            self.beside.layout.height = f"{height + 2 * LINE}px"
        self._show_tree()

    def _whole(self) -> Tree:
        return self.searches[self.task.value][0][self.question.value]

    def _show_tree(self) -> None:
        """The tree as it stood after the dialogue that the sliders name; the chosen reply stays
        chosen if it is there."""
        whole, node = self._whole(), self.lines.value or 0
        played = (self.repetition.value - 1) * self.dialogue.max + self.dialogue.value
        self.tree = replayed(whole, played) if rollouts_of(whole) else whole
        count = len(self.tree.nodes)
        places = pair_places(whole, self.searches[self.task.value][1], self.influence)
        self.places = [place for place in places if max(place.chosen, place.rejected) < count]
        with self._set():
            self.lines.options = tree_lines(self.tree, self.places)
            self.lines.value = node if node < count else 0
            self.status.value = escape(replay_sentence(whole, self.tree))
        self._show_page()

    def _show_page(self) -> None:
        self.page.value = node_page(self.tree, self.lines.value or 0, self.places)

    @contextmanager
    def _set(self) -> Iterator[None]:
        """Widgets that are set here were not moved by a reader."""
        self.filling = True
        try:
            yield
        finally:
            self.filling = False


def _task_of(searches: Mapping[str, tuple], begin: str | None) -> str:
    """The task of the question that is shown first."""
    own = [task for task, (trees, _) in searches.items() if begin in {t.question.id for t in trees}]
    return (own or list(searches))[0]


def _first_shown(trees: Sequence[Tree], with_pairs: set[str], begin: str | None) -> int:
    """Number of the tree that is shown first."""
    ids = [tree.question.id for tree in trees]
    if begin in ids:
        return ids.index(begin)
    own = [number for number, name in enumerate(ids) if name in with_pairs] or range(len(ids))
    by_size = sorted(own, key=lambda number: len(trees[number].nodes))
    return by_size[len(by_size) // 3]


def selection_explorer(jobs: Sequence[Mapping], gamma: float = 1.0, alpha: float = 0.5) -> Explorer:
    """Sliders for gamma and alpha, and which pairs H = influence + gamma Q then keeps.

    Args:
        jobs: one for each task, with `task`; `rows`, one for each pair, with `influence`, `Q`,
            `agent`, `chosen` and `rejected`; and `scale`, in which units influence and Q are
            added (`scale` and `step_size` of `selection.combined_score`).
        gamma, alpha: where the sliders stand at first; alpha is a share, above 0 to 1.

    Raises:
        ValueError: without pairs.
    """
    found = {job["task"]: job for job in jobs if job["rows"]}
    if not found:
        raise ValueError("there are no pairs to show")
    task = widgets.ToggleButtons(options=list(found))
    gammas = widgets.FloatSlider(gamma, min=0, max=max(3.0, gamma), step=0.1, description="gamma")
    alphas = widgets.FloatSlider(alpha, min=0.05, max=1, step=0.05, description="alpha")
    sentence, table = widgets.HTML(), widgets.HTML()
    picture = widgets.Image(format="png")

    def draw(_=None) -> None:
        rows, scale = found[task.value]["rows"], found[task.value]["scale"]
        own = kept_pairs(rows, gammas.value, alphas.value, scale)
        alone = (kept_by(rows, name, alphas.value) for name in ("influence", "Q"))
        sentence.value = kept_sentence(rows, own, *alone)
        picture.value, table.value = kept_picture(rows, own), kept_table(rows, own)

    for widget in (task, gammas, alphas):
        widget.observe(draw, "value")
    draw()
    beside = widgets.Box([table])
    beside.layout = widgets.Layout(flex="1 1 420px", height="380px", overflow="auto")
    tasks = [task] if len(found) > 1 else []
    parts = [*tasks, _row(gammas, alphas), sentence, _row(picture, beside)]
    return Explorer(parts, "An explorer of the selection: run this cell in JupyterLab.")


def _slider(name: str) -> widgets.IntSlider:
    return widgets.IntSlider(1, 1, 1, description=name, style={"description_width": "initial"})


def _row(*parts: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, or one below the other where the page is narrow."""
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap"))
