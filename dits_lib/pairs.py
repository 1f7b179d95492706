"""Preference pairs and SFT rows from search trees."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

from .agents import System, prompt_ids
from .search import Tree
from .settings import Settings
from .settings.kinds import Bounded, NotNegative


@dataclass(frozen=True)
class Pair:
    """Two replies to one state of a dialogue.

    Attributes:
        id: question id and node, joined by `/`.
        question_id: of the tree.
        node: index in the tree of the state that both reply to.
        prompt_ids, chosen_ids, rejected_ids: token ids as they are sampled, scored and trained.
        q_chosen, q_rejected: Q-values of the two replies.
        meta: family, agent, `turn` (replies and tool output before and with this one), whether the
            question was harmed on purpose.
    """

    id: str
    question_id: str
    node: int
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen: str
    rejected: str
    q_chosen: float
    q_rejected: float
    meta: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(row: dict) -> Pair:
        ids = {name: tuple(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
        return Pair(**row | ids)


class PairSettings(Settings):
    """Which states give a pair (units of the reward).

    Attributes:
        min_value: kept where the best Q exceeds it. With the token term alone (lambda_1 = -0.6) a
            right answer of T tokens earns 1 - 0.6, exactly 0.40, and fails `min_value: 0.4`.
        min_gap: kept where best minus worst exceeds it.
        upper_half: of each tree, only the half of its pairs whose chosen replies have the highest Q
            (`upper_half_of`).
    """

    section: ClassVar = "pairs"

    min_value: Bounded
    min_gap: NotNegative
    upper_half: bool


def extract_pairs(
    tokenizer,
    system: System,
    trees: list[Tree],
    min_value: float,
    min_gap: float,
    upper_half: bool = False,
) -> list[Pair]:
    """Of every state with two replies or more: the replies of highest and lowest Q (DITS, section
    3.1).

    Args:
        min_value: kept where the best Q exceeds it.
        min_gap: kept where best minus worst exceeds it.
        upper_half: then of each tree the upper half alone (`upper_half_of`).
    """
    pairs = []
    for tree in trees:
        for index, node in enumerate(tree.nodes):
            replies = [child for child in node.children if tree.nodes[child].turn.trainable]
            if len(replies) < 2:
                continue
            ranked = sorted(replies, key=lambda child: (tree.nodes[child].q, -child))
            worst, best = tree.nodes[ranked[0]], tree.nodes[ranked[-1]]
            if best.q > min_value and best.q - worst.q > min_gap:
                pairs.append(_pair(tokenizer, system, tree, index, best, worst))
    return [pairs[index] for index in upper_half_of(pairs)] if upper_half else pairs


def upper_half_of(pairs: list[Pair]) -> list[int]:
    """Indices, in their order, of the pairs that are in the upper half of their tree by Q of the
    chosen reply: floor(n / 2) of n pairs, and one of one (DITS, train/monte_carlo_deploy.py,
    generate). Of equal ones the first stay."""
    by_tree: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_tree.setdefault(pair.question_id, []).append(index)
    kept = []
    for own in by_tree.values():
        ranked = sorted(own, key=lambda index: -pairs[index].q_chosen)
        kept += ranked[: max(1, len(own) // 2)]
    return sorted(kept)


def _pair(tokenizer, system: System, tree: Tree, index: int, best, worst) -> Pair:
    agent, question = best.turn.agent, tree.question
    meta = {
        "family": question.meta["family"],
        "agent": agent,
        "turn": best.depth,
        "harmful": bool(question.meta.get("harmful")),
    }
    # The prompt is rendered from the node's path: a merged reply may have continued a slightly
    # different text.
    prompt = prompt_ids(tokenizer, system, question, tree.turns(index), agent)
    return Pair(
        f"{question.id}/{index}",
        question.id,
        index,
        prompt,
        best.turn.token_ids,
        worst.turn.token_ids,
        best.turn.text,
        worst.turn.text,
        best.q,
        worst.q,
        meta,
    )


def best_dialogues(trees: list[Tree], min_reward: float) -> list[dict]:
    """SFT rows {prompt_ids, reply_ids, question_id}: the turns of each tree's best dialogue (ties:
    the shortest, then the first) whose reward exceeds `min_reward`."""
    rows = []
    for tree in trees:
        best = max(tree.rewards, key=lambda r: (r[2], -len(tree.turns(r[0])), -r[0]))
        if best[2] <= min_reward:
            continue
        for turn in tree.turns(best[0]):
            if turn.trainable:
                ids = {"prompt_ids": turn.prompt_ids, "reply_ids": turn.token_ids}
                rows.append({"question_id": tree.question.id, **ids})
    return rows
