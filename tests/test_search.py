"""Search and pairs, on trees worked out by hand and against the rules written again."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dits_lib.agents import Dialogue, Turn, prompt_ids
from dits_lib.engines import Engine
from dits_lib.pairs import Pair, best_dialogues, extract_pairs, upper_half_of
from dits_lib.search import (
    Node,
    SearchSettings,
    Tree,
    candidates,
    distance,
    insert,
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


def tree_of(*dialogues):
    """Dialogues of these texts, no two replies merged, each worth a tenth less than the one
    before."""
    tree = Tree(QUESTION)
    for i, texts in enumerate(dialogues):
        insert(tree, 0, dialogue(*texts), 1 - i / 10, CONFIG.changed(merge_distance=0.0))
    return tree


def node_of(tree, *texts):
    return next(i for i in range(len(tree.nodes)) if said(tree, i) == texts)


def said(tree, node):
    return tuple(turn.text for turn in tree.turns(node))


def test_candidates_are_the_root_and_the_nodes_with_grandchildren():
    tree = tree_of(
        ("tell anna", "x", "y", "z"), ("boss", "x"), ("owl", "x"), ("owl", "y", "z"), ("pass",)
    )
    values = np.arange(len(tree.nodes), 0.0, -1.0)
    found = [said(tree, node) for node in candidates(tree, values, CONFIG)]
    # `boss` has a child, but no grandchild; of the children of `owl` the second alone has one.
    assert found == [(), ("tell anna",), ("tell anna", "x"), ("owl",)]
    shallow = candidates(tree, values, CONFIG.changed(max_depth=2))
    assert [said(tree, node) for node in shallow] == [(), ("tell anna",), ("owl",)]
    assert len(candidates(tree, values, CONFIG.changed(max_candidates=2))) == 2
    tree.nodes[node_of(tree, "owl")].terminal = True
    assert node_of(tree, "owl") not in candidates(tree, values, CONFIG)


def test_what_is_near_to_a_selected_node_is_out_for_good():
    """A search by hand, with a softmax that takes the best."""
    tree = tree_of(
        ("tell anna red fox now", "x", "y"),
        ("tell anna red fox not", "x", "y"),  # one letter in 21 from the first
        ("owl", "x", "y"),
    )
    hard, rng = CONFIG.changed(softmax_temperature=1e-3), np.random.default_rng(0)
    first, near, owl = (
        node_of(tree, t) for t in ("tell anna red fox now", said(tree, 4)[0], "owl")
    )
    assert said(tree, near) == ("tell anna red fox not",)
    values = np.zeros(len(tree.nodes))
    values[[0, first, near, owl]] = 4, 3, 2, 1
    assert select(tree, values, hard, rng) == 0  # the best; it is no candidate from now on
    assert select(tree, values, hard, rng) == first
    values[near] = 9.0  # better now, but a copy of one that was selected
    assert select(tree, values, hard, rng) == owl
    assert [select(tree, values, hard, rng) for _ in range(2)] == [0, 0]  # nothing is left
    assert tree.selected == [0, first, owl, 0, 0] and tree.out == {0, first, near, owl}
    again = Tree.from_json(tree.to_json())
    assert (again.selected, again.out) == (tree.selected, tree.out)
    for texts in (("new", "x", "y"), ("owls", "x", "y"), ("", "x", "y")):
        insert(again, 0, dialogue(*texts), 0.0, CONFIG.changed(merge_distance=0.0))
    values = np.zeros(len(again.nodes))
    # `owls` is one letter in four from `owl`, not nearer than 0.25; an empty reply is not the root.
    found = {said(again, node) for node in candidates(again, values, hard)}
    assert found == {("new",), ("owls",), ("",)}


def test_a_distance_of_zero_leaves_all_in():
    tree, rng = tree_of(("owl", "x", "y")), np.random.default_rng(0)
    anew = CONFIG.changed(candidate_distance=0.0, softmax_temperature=1e-3)
    values = np.array([0.0, 1.0, 0.0, 0.0])
    assert [select(tree, values, anew, rng) for _ in range(3)] == [1, 1, 1] and not tree.out


def edits(a, b):
    """Levenshtein's table, by the book."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


class Selector:
    """The authors' rule (train/monte_carlo_deploy.py, search), written again: a list of nodes from
    which those near to a selected one are struck."""

    def __init__(self, settings):
        self.settings, self.struck, self.selected = settings, set(), []

    def near(self, nodes, node):
        for other in self.selected:
            if node == other:
                return self.settings.candidate_distance > 0
            if 0 not in (node, other):
                a, b = nodes[node].turn.text, nodes[other].turn.text
                if edits(a, b) < self.settings.candidate_distance * max(len(a), len(b), 1):
                    return True
        return False

    def depth(self, nodes, node):
        return 0 if nodes[node].parent is None else 1 + self.depth(nodes, nodes[node].parent)

    def pick(self, nodes, values, rng):
        parents = [node.parent for node in nodes]
        grandparents = {parents[p] for p in parents if p is not None} - {None}
        allowed = [0] + [
            i
            for i in sorted(grandparents - {0})
            if not nodes[i].terminal and self.depth(nodes, i) < self.settings.max_depth
        ]
        self.struck |= {i for i in allowed if i not in self.struck and self.near(nodes, i)}
        left = [i for i in allowed if i not in self.struck]
        left = sorted(left, key=lambda i: values[i], reverse=True)[: self.settings.max_candidates]
        picked = 0
        drawn = rng.random()
        if left:
            weights = [np.exp(values[i] / self.settings.softmax_temperature) for i in left]
            edge = np.cumsum(weights) / np.sum(weights)
            picked = left[int(np.sum(edge <= drawn))]
        self.selected.append(picked)
        return picked


@pytest.mark.parametrize("seed", range(40))
def test_selection_against_the_rule_written_again_on_random_trees(seed):
    rng = np.random.default_rng(seed)
    settings = CONFIG.changed(
        candidate_distance=float(rng.choice([0.0, 0.25, 0.5])),
        max_depth=int(rng.integers(1, 6)),
        max_candidates=int(rng.integers(1, 6)),
        softmax_temperature=float(rng.choice([0.2, 1.0])),
    )
    tree, theirs, fallbacks = Tree(QUESTION), Selector(settings), 0
    for repetition in range(12):
        values = rng.normal(size=len(tree.nodes))
        one, other = (np.random.default_rng([seed, repetition]) for _ in range(2))
        expected = theirs.pick(tree.nodes, values, other)
        assert select(tree, values, settings, one) == expected
        fallbacks += expected == 0
        for _ in range(rng.integers(1, 6)):  # the tree grows
            parent = int(rng.integers(len(tree.nodes)))
            text = "".join(rng.choice([*"ab "], size=rng.integers(0, 9)))
            depth = tree.nodes[parent].depth + 1
            tree.nodes.append(Node(Turn("alice", text), parent, depth, terminal=rng.random() < 0.1))
            tree.nodes[parent].children.append(len(tree.nodes) - 1)
    assert tree.selected == theirs.selected and tree.out == theirs.struck


def test_selection_is_a_softmax():
    grown = tree_of(("aaaa", "x", "y"), ("zzzz", "x", "y"))
    a, z = node_of(grown, "aaaa"), node_of(grown, "zzzz")
    values = np.zeros(len(grown.nodes))
    values[[0, a, z]] = 0.5, 1.0, 0.0
    rng, half = np.random.default_rng(0), CONFIG.changed(softmax_temperature=0.5)
    # A fresh memory each time.
    counts = Counter(select(replace(grown, selected=[]), values, half, rng) for _ in range(6000))
    weights = np.exp(np.array([0.5, 1.0, 0.0]) / 0.5)
    for node, expected in zip((0, a, z), weights / weights.sum(), strict=True):
        assert counts[node] / 6000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("task", list(SYSTEMS))
def test_searched_trees_hold_together(trees, task):
    for tree in trees[task]:
        assert len(tree.rewards) == 4 * CONFIG.rollouts == tree.nodes[0].visits
        replies = [node for node in tree.selected if node]
        assert len(tree.selected) == 4 and tree.selected[0] == 0
        assert len(set(replies)) == len(replies)  # the root alone is taken up again
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


def pair_of(question, node, q_chosen):
    return Pair(f"{question}/{node}", question, node, (1,), (2,), (3,), "a", "b", q_chosen, 0.0)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([], []),
        ([0.5], [0]),
        ([0.5, 0.9], [1]),
        ([0.5, 0.9, 0.7], [1]),
        ([0.5, 0.9, 0.7, 0.6], [1, 2]),
        ([0.9, 0.5, 0.9, 0.9, 0.1], [0, 2]),  # of equal ones the first
        ([0.7, 0.7], [0]),
    ],
)
def test_the_upper_half_of_a_tree(values, kept):
    pairs = [pair_of("q", node, value) for node, value in enumerate(values)]
    assert upper_half_of(pairs) == kept


def test_the_upper_half_is_taken_within_each_tree():
    """Against the authors' rule: sort a tree's pairs, keep int(0.5 n) of them where int(0.7 n) is
    one or more."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        names = rng.choice([*"abcde"], size=rng.integers(0, 20))
        pairs = [pair_of(q, i, round(rng.random(), 1)) for i, q in enumerate(names)]
        expected = set()
        for name in "abcde":
            own = [pair for pair in pairs if pair.question_id == name]
            own.sort(key=lambda pair: pair.q_chosen, reverse=True)
            cut = int(0.5 * len(own)) if int(0.7 * len(own)) >= 1 else len(own)
            expected |= {pair.id for pair in own[:cut]}
        kept = upper_half_of(pairs)
        assert {pairs[index].id for index in kept} == expected and kept == sorted(kept)


@pytest.mark.parametrize("task", list(SYSTEMS))
def test_pairs_of_the_upper_half_are_told_by_a_switch(engine, trees, pairs, task):
    tokenizer, own = engine.tokenizer, trees[task]
    half = extract_pairs(tokenizer, SYSTEMS[task], own, 0.4, 0.2, upper_half=True)
    assert half == [pairs[task][index] for index in upper_half_of(pairs[task])]
    assert 0 < len(half) < len(pairs[task])
    assert {p.question_id for p in half} == {p.question_id for p in pairs[task]}
