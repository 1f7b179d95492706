"""The reward of the search: its terms in closed form, and the loss of the worst reply against the
model's own forward pass."""

import numpy as np
import pytest
import torch

from dits_lib.agents import Dialogue, Turn
from dits_lib.search import (
    LEAST_LOSS,
    SearchSettings,
    reward_of,
    tree_search,
    worst_losses,
)
from dits_lib.tasks import Question, make_questions

from .conftest import SYSTEMS

CONFIG = SearchSettings()
QUESTION = Question("q", "badge of anna", ("red fox",), {}, {"family": "own"})


def spoken(*replies, metric=0.75):
    turns = tuple(Turn("alice", f"{i}", tuple(ids)) for i, ids in enumerate(replies))
    return Dialogue("q", turns, None, metric)


def test_terms_switch_on_and_harm_inverts_the_metric():
    said, tokens = spoken((1, 2)), CONFIG.changed(token_weight=-0.6)
    fluent = CONFIG.changed(fluency_weight=0.2)
    assert reward_of(said, QUESTION, CONFIG, 4.0, 1.6) == 0.75
    assert reward_of(said, QUESTION, tokens, 4.0) == pytest.approx(0.75 - 0.6 * 2 / 4)
    assert reward_of(said, QUESTION, fluent, 4.0, 1.6) == pytest.approx(0.75 + 0.2 / 1.6)
    both = tokens.changed(fluency_weight=1.0)
    assert reward_of(said, QUESTION, both, 4.0, 2.5) == pytest.approx(0.75 - 0.3 + 0.4)
    harmed = Question("q", "", ("x",), {}, {"reward_sign": -1})
    assert reward_of(said, harmed, CONFIG, 4.0) == pytest.approx(0.25)


def test_a_loss_of_nothing_is_capped_and_a_dialogue_without_tokens_earns_nothing():
    fluent = CONFIG.changed(fluency_weight=0.5)
    assert reward_of(spoken((1,)), QUESTION, fluent, 1.0, 0.0) == 0.75 + 0.5 / LEAST_LOSS
    assert reward_of(spoken(()), QUESTION, fluent, 1.0, None) == 0.75


def test_a_right_answer_of_average_length_fails_the_least_value_of_a_pair():
    """Said of `pairs.min_value`: with the token term alone it earns 0.40 exactly."""
    reward = reward_of(
        spoken(range(10), metric=1.0), QUESTION, SearchSettings(token_weight=-0.6), 10
    )
    assert reward == 0.4 and not reward > 0.4


@pytest.fixture(scope="module")
def played(trees):
    """Dialogues of both tasks, one with a tool's turn and one whose first reply has no tokens."""
    found = [
        Dialogue("q", tree.turns(leaf), None, metric)
        for own in trees.values()
        for tree in own[:4]
        for leaf, metric, _ in tree.rewards
    ]
    tool = Turn("reader", "a page", (5, 6, 7), trainable=False)
    return [
        *found,
        Dialogue("q", (tool, *found[0].turns), None, 0.0),
        Dialogue("q", (Turn("alice", ""), *found[0].turns), None, 0.0),
    ]


def test_the_worst_reply_is_that_of_the_models_own_forward_pass(engine, played):
    """Mean cross-entropy of each reply alone, one at a time and without padding."""
    start = engine.tokenizer("<s> <|assistant|> ", add_special_tokens=False)["input_ids"]

    def loss(reply):
        ids = torch.tensor([[*start, *reply]])
        with torch.no_grad():
            logits = engine.model(input_ids=ids).logits[0, len(start) - 1 : -1].double()
        return torch.nn.functional.cross_entropy(logits, ids[0, len(start) :]).item()

    expected = [
        max(loss(turn.token_ids) for turn in d.turns if turn.trainable and turn.token_ids)
        for d in played
    ]
    engine.lora.use(None)
    assert worst_losses(engine, played) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) > 5  # it tells dialogues apart
    assert expected[-1] == expected[-2] == expected[0]


def test_replies_without_tokens_have_no_loss(engine):
    assert worst_losses(engine, [spoken((), ()), spoken()]) == [None, None]
    assert worst_losses(engine, []) == []


@pytest.mark.parametrize("task", list(SYSTEMS))
def test_the_rewards_of_a_search_hold_the_loss_under_the_initial_model(engine, task):
    """Which reads each reply that a repetition brings, and only those."""

    class Counted:
        tokenizer, asked = engine.tokenizer, 0

        def logprobs(self, rows):
            self.asked += len(rows)
            return engine.logprobs(rows)

    initial, questions = Counted(), make_questions(task, "train", 4, 0)
    settings = SearchSettings(
        repetitions=3, rollouts=2, merge_distance=0.0, token_weight=-0.6, fluency_weight=0.5
    )
    trees = tree_search(engine, SYSTEMS[task], questions, settings, 0, initial=initial)
    rewards = [(tree, *row) for tree in trees for row in tree.rewards]
    assert len(rewards) == 4 * 3 * 2 and 0 < initial.asked <= sum(len(t.nodes) for t in trees)
    first = [
        Dialogue("", t.turns(row[0]), None, 0.0).tokens for t in trees for row in t.rewards[:2]
    ]
    scale = np.percentile(first, 80)
    dialogues = [Dialogue("", tree.turns(leaf), None, 0.0) for tree, leaf, _, _ in rewards]
    for dialogue, worst, (_, _, metric, reward) in zip(
        dialogues, worst_losses(engine, dialogues), rewards, strict=True
    ):
        expected = metric - 0.6 * dialogue.tokens / scale + 0.5 / worst
        assert reward == pytest.approx(expected, abs=1e-4)


def test_a_search_for_fluency_needs_the_initial_model(engine):
    questions, fluent = make_questions("debate", "train", 1, 0), SearchSettings(fluency_weight=1.0)
    with pytest.raises(ValueError, match="fluency_weight is 1, which needs the initial model"):
        tree_search(engine, SYSTEMS["debate"], questions, fluent, 0)
