"""Search and pairs, on trees worked out by hand and on a scripted engine-free bandit."""

from collections import Counter

import numpy as np
import pytest

from dits_lib.agents import Dialogue, Turn, prompt_ids
from dits_lib.engines import Engine
from dits_lib.influence import InfluenceSettings
from dits_lib.influence.estimators.one_step import one_step_influence
from dits_lib.pairs import best_dialogues, extract_pairs
from dits_lib.search import (
    Node,
    SearchSettings,
    Tree,
    candidates,
    distance,
    insert,
    reward_of,
    select,
    tree_search,
)
from dits_lib.tasks import Question, make_questions

from .conftest import SYSTEMS

CONFIG = SearchSettings()
QUESTION = Question("q", "badge of anna", ("red fox",), {"alice": "", "bob": ""}, {"family": "own"})


def dialogue(*texts, metric=0.0):
    turns = tuple(
        Turn(("alice", "bob")[i % 2], text, token_ids=(9, i, 2)) for i, text in enumerate(texts)
    )
    return Dialogue("q", turns, None, metric)


def hand_tree():
    """Three dialogues: rewards 1.0, 0.0 and 0.5; the first two share their first turn."""
    tree = Tree(QUESTION)
    for texts, reward in (
        (("tell anna", "<A> red </A>"), 1.0),
        (("tell anna", "pass"), 0.0),
        (("<A> owl </A>", "pass"), 0.5),
    ):
        insert(tree, 0, dialogue(*texts, metric=reward), reward, CONFIG)
    return tree


def test_backed_up_values_of_a_tree_worked_by_hand():
    tree = hand_tree()
    by_text = {tuple(t.text for t in tree.turns(i)): node for i, node in enumerate(tree.nodes)}
    expected = {
        (): (3, 0.5),
        ("tell anna",): (2, 0.5),
        ("tell anna", "<A> red </A>"): (1, 1.0),
        ("tell anna", "pass"): (1, 0.0),
        ("<A> owl </A>",): (1, 0.5),
        ("<A> owl </A>", "pass"): (1, 0.5),
    }
    assert {texts: (node.visits, node.q) for texts, node in by_text.items()} == expected
    assert [node.terminal for node in tree.nodes] == [False, False, True, True, False, True]


def test_continuing_from_a_node_backs_up_through_its_ancestors_only():
    tree = hand_tree()
    insert(tree, 1, dialogue("tell anna", "<A> green </A>", "pass"), 0.25, CONFIG)
    assert (
        tree.nodes[0].visits == 4
        and tree.nodes[1].total == pytest.approx(1.25)
        and tree.nodes[4].visits == 1
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("kitten", "sitting", 3 / 7), ("", "", 0.0), ("ab", "", 1.0), ("fox", "fox", 0.0)],
)
def test_edit_distance_is_levenshtein_over_the_longer_text(a, b, expected):
    # Near, but another answer.
    assert distance(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "merges"),
    [
        ("boss anna red", "boss anna red", True),
        ("check the badge of anna now", "check the badge of anna not", True),  # 1 edit in 27 < 0.1
        ("pass", "pest", False),
        (
            "flag dirk wet ant <A> a </A>",
            "flag dirk wet ant <A> b </A>",
            False,
        ),
    ],
)
def test_near_equal_replies_merge_unless_their_answers_differ(first, second, merges):
    tree = Tree(QUESTION)
    insert(tree, 0, dialogue(first), 1.0, CONFIG)
    insert(tree, 0, dialogue(second), 0.0, CONFIG)
    assert len(tree.nodes[0].children) == (1 if merges else 2)
    assert tree.nodes[1].q == (0.5 if merges else 1.0)


def test_candidates_drop_near_copies_terminals_and_deep_nodes():
    tree = Tree(QUESTION)
    texts = ("tell anna red fox now", "tell anna red fox not", "boss", "owl")
    for i, text in enumerate(texts):
        insert(
            tree, 0, dialogue(text, "x", "y", "z"), 1 - i / 10, SearchSettings(merge_distance=0.0)
        )
    values = np.array([node.q for node in tree.nodes])
    kept = [tuple(t.text for t in tree.turns(i)) for i in candidates(tree, values, CONFIG)]
    assert ("tell anna red fox now",) in kept and ("tell anna red fox not",) not in kept
    assert () in kept and all(len(path) < CONFIG.max_depth for path in kept) and ("boss",) in kept
    assert len(candidates(tree, values, SearchSettings(max_candidates=2))) == 2


def test_selection_is_a_softmax():
    tree = Tree(
        QUESTION,
        [
            Node(None, None, 0, [1, 2], 2, 1.0),
            Node(Turn("alice", "aaaa"), 0, 1, [3], 1, 1.0),
            Node(Turn("alice", "zzzz"), 0, 1, [4], 1, 0.0),
            Node(Turn("bob", "x"), 1, 2),
            Node(Turn("bob", "y"), 2, 2),
        ],
    )
    values = np.array([node.q for node in tree.nodes])
    rng = np.random.default_rng(0)
    counts = Counter(
        select(tree, values, SearchSettings(softmax_temperature=0.5), rng) for _ in range(6000)
    )
    weights = np.exp(np.array([0.5, 1.0, 0.0]) / 0.5)
    for node, expected in zip((0, 1, 2), weights / weights.sum(), strict=True):
        assert counts[node] / 6000 == pytest.approx(expected, abs=0.03)


def test_reward_terms_switch_on_and_harm_inverts_the_metric():
    spoken = Dialogue("q", (Turn("alice", "a", (1, 2), logprob=np.log(0.5)),), "a", 0.75)
    assert reward_of(spoken, QUESTION, CONFIG, 4.0) == 0.75
    assert reward_of(spoken, QUESTION, SearchSettings(token_weight=-0.6), 4.0) == pytest.approx(
        0.75 - 0.6 * 2 / 4
    )
    assert reward_of(spoken, QUESTION, SearchSettings(fluency_weight=0.2), 4.0) == pytest.approx(
        0.75 + 0.2 * 0.5
    )
    harmed = Question("q", "", ("x",), {}, {"reward_sign": -1})
    assert reward_of(spoken, harmed, CONFIG, 4.0) == pytest.approx(0.25)


@pytest.mark.parametrize("task", list(SYSTEMS))
def test_searched_trees_hold_together(trees, task):
    for tree in trees[task]:
        assert len(tree.rewards) == 4 * CONFIG.rollouts == tree.nodes[0].visits
        totals = np.zeros(len(tree.nodes))
        for leaf, metric, reward in tree.rewards:
            assert metric == reward and tree.nodes[leaf].terminal
            node = leaf
            while node is not None:  # brute force: every reward counts at its leaf and above
                totals[node] += reward
                node = tree.nodes[node].parent
        assert totals == pytest.approx([node.total for node in tree.nodes])
        assert all(tree.nodes[node.parent].depth + 1 == node.depth for node in tree.nodes[1:])
        assert Tree.from_json(tree.to_json()).to_json() == tree.to_json()


def test_a_tree_does_not_depend_on_the_other_questions(engine, trees):
    alone = tree_search(
        engine,
        SYSTEMS["exchange"],
        make_questions("exchange", "train", 12, 0)[:3],
        SearchSettings(repetitions=4),
        0,
    )
    # Log probabilities differ by rounding alone.
    for one, other in zip(alone, trees["exchange"][:3], strict=True):
        assert one.rewards == other.rewards
        spoken = [
            [(n.turn.token_ids, n.parent, n.visits, n.total) for n in tree.nodes[1:]]
            for tree in (one, other)
        ]
        assert spoken[0] == spoken[1]


class OutOfOrder(Engine):
    """An engine that takes requests while it speaks, as vLLM does, and finishes the latest first,
    three at a time."""

    def __init__(self, engine):
        self.engine, self.tokenizer, self.calls = engine, engine.tokenizer, 0

    def converse(self, first, reply, adapters=None):
        waiting = [*first.items()]
        while waiting:
            keys, requests = zip(*waiting[-3:], strict=True)
            del waiting[-3:]
            self.calls += 1
            waiting += reply(
                dict(zip(keys, self.engine.generate(list(requests), adapters), strict=True))
            ).items()


@pytest.mark.parametrize("task", list(SYSTEMS))
@pytest.mark.parametrize("token_weight", [0.0, -0.6])
def test_trees_do_not_depend_on_which_dialogue_ends_first(engine, task, token_weight):
    config, questions = (
        SearchSettings(repetitions=4, rollouts=2, token_weight=token_weight),
        make_questions(task, "train", 5, 0),
    )
    in_rounds = tree_search(engine, SYSTEMS[task], questions, config, 0)
    other = OutOfOrder(engine)
    said = [
        [[(n.turn.token_ids, n.parent, n.visits) for n in t.nodes[1:]] for t in trees]
        for trees in (in_rounds, tree_search(other, SYSTEMS[task], questions, config, 0))
    ]
    assert said[0] == said[1] and other.calls > 20  # in small parts indeed


@pytest.mark.parametrize("task", list(SYSTEMS))
def test_pairs_are_the_best_and_worst_children(engine, trees, pairs, task):
    assert pairs[task]
    nodes = {
        f"{tree.question.id}/{i}": (tree, i) for tree in trees[task] for i in range(len(tree.nodes))
    }
    for pair in pairs[task]:
        tree, index = nodes[pair.id]
        q = sorted(tree.nodes[c].q for c in tree.nodes[index].children)
        assert (
            (pair.q_rejected, pair.q_chosen) == (q[0], q[-1]) and q[-1] > 0.4 and q[-1] - q[0] > 0.2
        )
        agent = SYSTEMS[task].next_agent(tree.question, tree.turns(index))
        assert pair.meta["agent"] == agent
        assert pair.prompt_ids == prompt_ids(
            engine.tokenizer, SYSTEMS[task], tree.question, tree.turns(index), agent
        )
    brute = sum(
        1
        for tree in trees[task]
        for node in tree.nodes
        if len(node.children) > 1
        and (q := [tree.nodes[c].q for c in node.children])
        and max(q) > 0.4
        and max(q) - min(q) > 0.2
    )
    assert len(pairs[task]) == brute


def test_sft_rows_are_the_turns_of_the_best_dialogue(trees):
    tree = next(t for t in trees["exchange"] if max(r[2] for r in t.rewards) > 0.9)
    rows = best_dialogues([tree], 0.5)
    best = max(r[2] for r in tree.rewards)
    assert any(
        [row["reply_ids"] for row in rows] == [t.token_ids for t in tree.turns(leaf)]
        for leaf, _, reward in tree.rewards
        if reward == best
    )
    assert best_dialogues([tree], 1.5) == []


@pytest.mark.parametrize("guide", ["influence", "both"])
def test_influence_steers_the_selection(engine, guide):
    system, questions = SYSTEMS["exchange"], make_questions("exchange", "train", 3, 0)
    seen = []

    def scorer(trees):
        pairs = extract_pairs(engine.tokenizer, system, trees, float("-inf"), 0.0)
        scores = one_step_influence(
            engine,
            system,
            pairs,
            make_questions("exchange", "validation", 4, 0),
            0.3,
            InfluenceSettings(),
            0,
        )
        seen.append(len(pairs))
        value = dict(zip([p.id for p in pairs], scores.value, strict=True))
        return [
            {i: value[k] for i in range(len(t.nodes)) if (k := f"{t.question.id}/{i}") in value}
            for t in trees
        ]

    trees = tree_search(
        engine, system, questions, SearchSettings(repetitions=3, guide=guide), 0, scorer
    )
    assert len(seen) == 2 and all(tree.nodes[0].visits == 9 for tree in trees)
    with pytest.raises(ValueError, match="needs a scorer"):
        tree_search(engine, system, questions, SearchSettings(guide=guide), 0)


@pytest.mark.parametrize("guide", ["influence", "both"])
def test_a_guide_of_overwhelming_score_is_followed(engine, guide):
    """With the softmax nearly hard, the scored node is selected in every later repetition."""
    system, question = SYSTEMS["exchange"], make_questions("exchange", "train", 4, 0)[2:3]
    config = SearchSettings(
        repetitions=3, guide=guide, softmax_temperature=1e-3, candidate_distance=0.0
    )

    def scorer(trees):
        return [
            {i: 100.0 * (i == t.nodes[0].children[0]) for i in range(len(t.nodes))} for t in trees
        ]

    tree = tree_search(engine, system, question, config, 0, scorer)[0]
    first = tree.nodes[tree.nodes[0].children[0]]
    assert first.children and first.visits >= 1 + 2 * config.rollouts
