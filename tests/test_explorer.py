"""What the explorers of trees and selections show, on trees worked out by hand."""

import base64
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dits_lib.agents import Turn
from dits_lib.pairs import Pair
from dits_lib.report import selection_explorer, tree_explorer
from dits_lib.report.kept import kept_by, kept_pairs, kept_picture, kept_sentence, kept_table
from dits_lib.report.nodes import (
    cut,
    node_facts,
    node_page,
    pair_places,
    question_line,
    replay_sentence,
    replayed,
    rollouts_of,
    tree_lines,
)
from dits_lib.search import SearchSettings, Tree, insert, tree_search
from dits_lib.settings import ROOT
from dits_lib.suite.execution import clean
from dits_lib.tasks import make_questions

from .conftest import SYSTEMS
from .test_search import CONFIG, QUESTION, dialogue

LATER = (("tell anna", "<A> owl </A>"), 0.25)


def hand_tree():
    """Two repetitions of two dialogues from the root: rewards 1.0 and 0.0, then 0.5 and 0.25.

    Nodes: 0 the root, 1 'tell anna' with the replies 2, 3 and 6, and 4 with the reply 5.
    """
    tree = Tree(QUESTION)
    for texts, reward in (
        (("tell anna", "<A> red </A>"), 1.0),
        (("tell anna", "pass"), 0.0),
        (("<A> owl </A>", "pass"), 0.5),
        LATER,
    ):
        insert(tree, 0, dialogue(*texts, metric=reward), reward, CONFIG)
    tree.selected = [0, 0]
    return tree


def hand_pair(tree, node=1, chosen=2, rejected=3):
    best, worst = tree.nodes[chosen], tree.nodes[rejected]
    ids = best.turn.token_ids, worst.turn.token_ids
    return Pair(f"q/{node}", "q", node, (), *ids, best.turn.text, worst.turn.text, best.q, worst.q)


def web_tree():
    """A call, the page that answered it, and the reply to the page."""
    page = "[https://site/anna]\n" + "<b>words</b> of a page\n" * 40
    turns = (
        Turn("reasoner", "<call open> https://site/anna </call>", token_ids=(1,)),
        Turn("open", page, trainable=False),
        Turn("reasoner", "<A> red </A>", token_ids=(2,)),
    )
    tree = Tree(QUESTION)
    insert(tree, 0, replace(dialogue(metric=1.0), turns=turns), 1.0, CONFIG)
    return tree


def test_a_node_is_told_with_its_path_its_siblings_and_its_pair():
    tree = hand_tree()
    places = pair_places(tree, [hand_pair(tree)], {"q/1": 0.0125})
    facts = node_facts(tree, 2, places)
    assert [turn.text for turn in facts.dialogue] == ["tell anna", "<A> red </A>"]
    assert (facts.q, facts.visits, facts.ended) == (1.0, 1, ((1.0, 1.0),))
    assert facts.siblings == (2, 6, 3)  # by Q: 1.0, 0.25, 0.0
    assert facts.pair.role(2) == "chosen" and facts.pair.role(3) == "rejected"
    assert facts.pair.influence == 0.0125 and facts.below is None
    above = node_facts(tree, 1, places)
    assert above.pair is None and above.below == facts.pair and above.siblings == (4, 1)
    neither = node_facts(tree, 6, places)
    assert neither.pair == facts.pair and neither.pair.role(6) is None
    root = node_facts(tree, 0, places)
    assert (root.dialogue, root.siblings, root.visits) == ((), (), 4)
    with pytest.raises(IndexError, match="node 7: the tree has 7"):
        node_facts(tree, 7)


def test_pages_name_the_other_reply_of_a_pair_and_its_influence():
    tree = hand_tree()
    places = pair_places(tree, [hand_pair(tree)], {"q/1": 0.0125})
    chosen, rejected = node_page(tree, 2, places), node_page(tree, 3, places)
    assert "The chosen reply of a pair</b>, of influence I = +0.0125" in chosen
    assert "The rejected one: " in chosen and "<q>pass</q>" in chosen
    assert "The chosen one: " in rejected and "<q>&lt;A&gt; red &lt;/A&gt;</q>" in rejected
    assert "The replies that follow give a pair" in node_page(tree, 1, places)
    assert "influence" not in node_page(tree, 2, pair_places(tree, [hand_pair(tree)]))
    assert "No other reply to the same state" in node_page(tree, 5, places)


def test_what_agents_and_data_sets_say_is_escaped():
    bad = "<script>alert('x')</script> & more"
    question = replace(QUESTION, text=bad, answers=(bad,), views={"alice": bad})
    tree = Tree(question)
    insert(tree, 0, dialogue(bad, "pass"), 0.0, CONFIG)
    insert(tree, 0, dialogue("quite another reply", "pass"), 1.0, CONFIG)
    page = node_page(tree, 1, pair_places(tree, [hand_pair(tree, 0, 3, 1)]))
    assert "<script" not in page and page.count("&lt;script&gt;") >= 5
    rows = [{"agent": bad, "chosen": bad, "rejected": bad, "Q": 1.0, "influence": 0.0}]
    assert "<script" not in kept_table(rows, kept_pairs(rows, 1.0, 1.0))


def test_a_pair_of_another_search_is_refused_and_one_of_another_question_left_out():
    tree = hand_tree()
    with pytest.raises(ValueError, match="pair q/1: its tree has no reply 'other' at node 1"):
        pair_places(tree, [replace(hand_pair(tree), chosen="other")])
    with pytest.raises(ValueError, match="at node 99"):
        pair_places(tree, [replace(hand_pair(tree), node=99)])
    assert pair_places(tree, [replace(hand_pair(tree), question_id="r")]) == []


def test_a_page_that_was_read_folds_below_the_call_that_opened_it():
    tree = web_tree()
    facts = node_facts(tree, 1)
    assert [turn.agent for turn in facts.answered] == ["open"] and facts.ended == ()
    page = node_page(tree, 1)
    assert "<details><summary><b>open answered</b> [https://site/anna]" in page
    assert "<b>words</b>" not in page and page.count("&lt;b&gt;words") >= 40
    assert [node for _, node in tree_lines(tree)] == [0, 1, 3]
    assert "reasoner: open: https://site/anna" in plain_lines(tree)[1]


def plain_lines(tree, places=()):
    return [line.replace("\u00a0", " ") for line, _ in tree_lines(tree, places)]


def test_lines_follow_the_tree():
    tree = hand_tree()
    assert plain_lines(tree, pair_places(tree, [hand_pair(tree)])) == [
        " 0.44 ▄    4   start",
        " 0.42 ▄    3   ├ alice: tell anna",
        " 1.00 █    1 + │ ├ bob: <A> red </A>",
        " 0.00 ▁    1 − │ ├ bob: pass",
        " 0.25 ▃    1   │ └ bob: <A> owl </A>",
        " 0.50 ▅    1   └ alice: <A> owl </A>",
        " 0.50 ▅    1     └ bob: pass",
    ]
    assert question_line(tree, 1) == "Q 0.44, 1 pair: badge of anna"
    assert question_line(tree, 0).startswith("Q 0.44, no pairs")
    assert cut("one two three four", 11) == "one … four" and cut("a\nb", 9) == "a b"


def test_rewards_outside_0_and_1_have_a_bar_and_a_colour():
    tree = Tree(QUESTION)
    insert(tree, 0, dialogue("so", "it is"), -0.6, CONFIG)
    insert(tree, 0, dialogue("another", "thing"), 101.0, CONFIG)
    lines = plain_lines(tree)
    assert lines[1].startswith("-0.60 ▁") and lines[3].startswith("101.00 █")
    assert "-0.60</span>" in node_page(tree, 1) and "101.00</span>" in node_page(tree, 3)


def test_a_tree_is_replayed_as_it_stood():
    tree = hand_tree()
    assert rollouts_of(tree) == 2
    first = replayed(tree, 2)
    assert [(n.visits, n.total, n.terminal, n.children) for n in first.nodes] == [
        (2, 1.0, False, [1]),
        (2, 1.0, False, [2, 3]),
        (1, 1.0, True, []),
        (1, 0.0, True, []),
    ]
    assert first.selected == [0] and replayed(tree, 3).selected == [0, 0]
    assert replayed(tree, 4).nodes == tree.nodes and len(replayed(tree, 0).nodes) == 1
    assert "Repetition 1 of 2 plays from the start; 2 dialogues" in replay_sentence(tree, first)
    assert replay_sentence(tree, tree).endswith("in all.")
    with pytest.raises(ValueError, match="5 dialogues: the tree was made of 4"):
        replayed(tree, 5)
    for selected in ([], [0, 0, 0]):  # the repetitions are not told, or do not fit
        assert rollouts_of(replace(tree, selected=selected)) is None


def test_a_replay_of_r_repetitions_is_a_search_of_r_repetitions(engine, trees):
    settings = SearchSettings(repetitions=2)
    questions = make_questions("exchange", "train", 12, 0)
    searched = tree_search(engine, SYSTEMS["exchange"], questions, settings, 0)
    for tree, short in zip(trees["exchange"], searched, strict=True):
        found = replayed(tree, 2 * rollouts_of(tree))
        assert found.selected == short.selected and found.rewards == short.rewards
        for a, b in zip(found.nodes, short.nodes, strict=True):
            said = [node.turn and node.turn.text for node in (a, b)]
            assert said[0] == said[1] and (a.visits, a.total) == (b.visits, b.total)


def shown(explorer):
    """{what: widget} of a tree explorer."""
    _, question, sliders, status, both = explorer.children
    tree, page = both.children
    return {
        "question": question,
        "repetition": sliders.children[0],
        "dialogue": sliders.children[1],
        "status": status,
        "lines": tree.children[1],
        "page": page.children[0],
        "sliders": sliders,
    }


def test_a_click_on_a_line_shows_its_page_and_a_slider_the_tree_of_then():
    tree = hand_tree()
    other = replace(hand_tree(), question=replace(QUESTION, id="r"), selected=[])
    explorer = tree_explorer({"exchange": ([other, tree], [hand_pair(tree)])}, {"q/1": 0.5})
    parts = shown(explorer)
    assert parts["question"].value == 1  # the one with a pair
    parts["lines"].value = 6
    assert "owl" in parts["page"].value and parts["repetition"].value == 2
    parts["dialogue"].value = 1
    assert [node for _, node in parts["lines"].options] == [0, 1, 2, 3, 4, 5]
    assert parts["lines"].value == 0 and "so far" in parts["status"].value
    parts["lines"].value = 2
    parts["repetition"].value = 1
    assert [node for _, node in parts["lines"].options] == [0, 1, 2]
    assert parts["lines"].value == 2 and "I = +0.5" not in parts["page"].value  # 3 is not there yet
    parts["repetition"].value, parts["dialogue"].value = 1, 2
    assert "I = +0.5" in parts["page"].value
    parts["question"].value = 0
    assert parts["sliders"].layout.display == "none" and parts["lines"].value == 0
    assert "The whole search: 4 dialogues" in parts["status"].value
    parts["question"].value = 1
    assert parts["sliders"].layout.display is None and parts["repetition"].value == 2


def test_the_first_question_and_task_can_be_named():
    tree = hand_tree()
    other = replace(tree, question=replace(QUESTION, id="r"))
    explorer = tree_explorer({"debate": ([tree], []), "exchange": ([tree, other], [])}, begin="r")
    assert explorer.children[1].value == "exchange" and explorer.children[2].value == 1
    explorer.children[1].value = "debate"
    assert explorer.children[2].value == 0
    for nothing in ({}, {"exchange": ([], [])}):
        with pytest.raises(ValueError, match="there are no trees"):
            tree_explorer(nothing)


ROWS = [
    {"agent": "bob", "chosen": f"reply {i}", "rejected": "pass", "influence": value, "Q": q}
    for i, (value, q) in enumerate([(0.4, 0.5), (0.3, 0.6), (0.2, 0.9), (0.1, 1.0)])
]


def test_gamma_moves_what_is_kept_from_influence_to_q():
    paper = {"scale": "paper", "step_size": 1.0}
    by_influence, by_q = kept_by(ROWS, "influence", 0.5), kept_by(ROWS, "Q", 0.5)
    assert by_influence.kept.tolist() == [0, 1] and by_q.kept.tolist() == [2, 3]
    found = {gamma: kept_pairs(ROWS, gamma, 0.5, paper) for gamma in (0.0, 0.5, 3.0)}
    assert [found[gamma].kept.tolist() for gamma in found] == [[0, 1], [0, 2], [2, 3]]
    assert found[0.5].score == pytest.approx([0.65, 0.6, 0.65, 0.6])
    told = kept_sentence(ROWS, found[0.5], by_influence, by_q)
    assert told.startswith("H keeps 2 of 4 pairs: 1 of them influence alone keeps too, 1 of")
    assert len(kept_pairs(ROWS, 1.0, 0.25).kept) == 1
    with pytest.raises(ValueError, match="unknown scale"):
        kept_pairs(ROWS, 1.0, 0.5, {"scale": "none"})


def test_ties_at_the_cut_are_told_and_drawn_alike():
    rows = [row | {"influence": 0.0, "Q": 1.0} for row in ROWS]
    found = kept_pairs(rows, 1.0, 0.5)
    assert found.drawn == 1.0 and kept_pairs(rows, 2.0, 0.5).kept.tolist() == found.kept.tolist()
    assert "2 of them were drawn among ties" in kept_sentence(rows, found, found, found)
    assert kept_picture(rows, found).startswith(b"\x89PNG")


def test_the_table_of_pairs_goes_from_the_highest_score_to_the_lowest():
    found = kept_pairs(ROWS, 0.0, 0.5)
    table = kept_table(ROWS, found)
    assert [table.index(f"reply {i}") for i in range(4)] == sorted(
        table.index(f"reply {i}") for i in range(4)
    )
    assert table.count("<td>kept</td>") == 2


def test_sliders_of_the_selection_redraw_it():
    jobs = [{"task": "exchange", "rows": ROWS, "scale": {"scale": "paper", "step_size": 1.0}}]
    explorer = selection_explorer([*jobs, jobs[0] | {"task": "none", "rows": []}], gamma=0.0)
    _, sliders, sentence, below = explorer.children
    picture, table = below.children
    before = bytes(picture.value), table.children[0].value
    sliders.children[0].value = 3.0
    assert before[0] != bytes(picture.value) and before[1] != table.children[0].value
    assert "2 of them Q alone" in sentence.value
    sliders.children[1].value = 1.0
    assert "keeps 4 of 4 pairs" in sentence.value
    with pytest.raises(ValueError, match="there are no pairs"):
        selection_explorer(jobs[:0])


def test_a_picture_does_not_depend_on_the_run():
    found = kept_pairs(ROWS, 1.0, 0.5)
    first, again = (base64.b64encode(kept_picture(ROWS, found)) for _ in range(2))
    assert first == again and np.isfinite(found.score).all()


def test_without_a_front_end_a_sentence_stands_there_and_results_hold_nothing_of_it():
    bundle = tree_explorer({"exchange": ([hand_tree()], [])})._repr_mimebundle_()
    assert bundle["text/plain"] == "An explorer of search trees: run this cell in JupyterLab."
    output = {"output_type": "execute_result", "data": bundle, "metadata": {}}
    cell = {"cell_type": "code", "metadata": {}, "outputs": [output]}
    notebook = {"metadata": {"widgets": {"state": {}}}, "cells": [cell]}
    cleaned = json.loads(clean(json.dumps(notebook)))
    assert cleaned["cells"][0]["outputs"] == [] and cleaned["metadata"] == {}


def test_the_report_is_imported_without_widgets():
    code = "import sys, dits_lib.report\ndits_lib.report.Report, dits_lib.report.tree_figure\n"
    code += "assert 'dits_lib.report.explorer' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
