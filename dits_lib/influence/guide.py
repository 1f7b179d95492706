"""The guide of a search by influence: it scores the nodes of trees that are still growing."""

from __future__ import annotations

import numpy as np

from ..engines import derive_seed
from ..pairs import Pair, extract_pairs
from ..search import Tree
from ..tasks import Question
from .base import Estimator, Scores, ScoringContext, check_scores


class InfluenceGuide:
    """Scores every state of the trees by the influence of its current pair, the replies of highest
    and lowest Q. A `NodeScorer` of `tree_search`; each pair is scored once.

    Attributes:
        scored: every pair scored so far, and its influence.
    """

    def __init__(
        self,
        context: ScoringContext,
        estimator: Estimator,
        questions: list[Question],
        seed: object,
    ):
        """
        Args:
            questions: validation questions; best others than those that score the pairs afterwards.
            seed: of all randomness, the same for all pairs, so that they can be compared.

        Raises:
            ValueError: for an estimator that scores pairs in the light of each other: here they
                come a few at a time.
        """
        if not estimator.scores_alone:
            raise ValueError(
                f"{estimator.name} scores pairs together, but those of a growing tree come one "
                "after the other"
            )
        self.context, self.estimator, self.questions = context, estimator, questions
        self.noise = derive_seed("guide", seed)
        self.scored: list[tuple[Pair, float]] = []
        self._known: dict[tuple, float] = {}

    def __call__(self, trees: list[Tree]) -> list[dict[int, float]]:
        """{node: influence} of each tree; a state whose replies have one Q has no pair."""
        tokenizer, system = self.context.engine.tokenizer, self.context.system
        found = extract_pairs(tokenizer, system, trees, float("-inf"), 0.0)
        self._score([pair for pair in found if _key(pair) not in self._known])
        by_question: dict[str, dict[int, float]] = {}
        for pair in found:
            by_question.setdefault(pair.question_id, {})[pair.node] = self._known[_key(pair)]
        return [by_question.get(tree.question.id, {}) for tree in trees]

    def _score(self, pairs: list[Pair]) -> None:
        if not pairs:
            return
        scores = self.estimator.score(self.context, pairs, self.questions, self.noise)
        if not np.isfinite(scores.value).all():
            check_scores(scores, pairs)
        for pair, value in zip(pairs, scores.value.tolist(), strict=True):
            self._known[_key(pair)] = value
            self.scored.append((pair, value))

    def check(self) -> None:
        """Raises ScoreError when all pairs scored so far have one score: such a guide guides
        nothing. (A few pairs alone may well tie.)"""
        if self.scored:
            pairs, values = zip(*self.scored, strict=True)
            none = np.full(len(values), np.nan)
            check_scores(Scores(self.estimator.name, np.array(values), none), list(pairs))


def _key(pair: Pair) -> tuple:
    """What decides a pair's influence: its state and its replies."""
    return pair.id, pair.chosen_ids, pair.rejected_ids
