"""Questions, splits, metrics, scripted agents."""

import numpy as np
import pytest

from dits_lib.agents import finish, parse_answer
from dits_lib.micro_model.scripted import SCRIPTED, scripted_dialogue
from dits_lib.tasks import (
    FAMILIES,
    KEYS_OF_SPLIT,
    SPLITS,
    best_f1,
    choice_accuracy,
    make_questions,
    normalize_answer,
    token_f1,
    vocabulary,
)
from dits_lib.tasks.metrics import exact_match

from .conftest import SYSTEMS


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        # Worked by hand from the definition of the SQuAD evaluation script, but for the last
        # three: there, two texts of which nothing is left are the same answer.
        ("red fox", "red fox", 1.0),
        ("The red fox.", "red  FOX", 1.0),
        ("red", "red fox", 2 / 3),
        ("red owl", "red fox", 0.5),
        ("owl", "red fox", 0.0),
        ("red red fox", "red fox", 0.8),
        ("", "fox", 0.0),
        ("a", "the", 0.0),
        ("?", "!!!", 0.0),
        ("", "", 0.0),
    ],
)
def test_f1_is_squads(prediction, gold, expected):
    assert token_f1(prediction, gold) == pytest.approx(expected)


def test_metrics_take_the_best_gold_answer_and_none():
    assert best_f1("red", ("blue", "red fox")) == pytest.approx(2 / 3)
    assert best_f1(None, ("red",)) == 0.0
    assert (
        choice_accuracy(" A ", ("a",)) == 1.0
        and choice_accuracy("b", ("a",)) == 0.0
        and choice_accuracy(None, ("a",)) == 0.0
        and choice_accuracy("\uff22", ("b",)) == 1.0
        and choice_accuracy("", ("a",)) == 0.0
    )
    assert normalize_answer("An  Apple!") == "apple"


def test_a_prediction_of_nothing_is_never_right():
    """SQuAD's script gives "?" a score of 1 against the gold answer "The"."""
    for said in ("?", "The", "", "\u200b", None):
        for gold in ("The", "!!!", "a", "\u2026"):
            assert best_f1(said, (gold, "x")) == exact_match(said, (gold, "x")) == 0.0
    assert exact_match("the cork.", ("Cork",)) == 1.0


def test_answers_are_compared_whatever_their_unicode_form():
    for said, gold in (
        ("Cafe\u0301 Nero", "Caf\u00e9 Nero"),  # the accent as a character of its own
        ("\uff11\uff12", "12"),  # wide digits
        ("Cork\u200b", "Cork"),  # a space of no width
        ("so\u00adft", "soft"),  # a place where the word may be divided
    ):
        assert token_f1(said, gold) == exact_match(said, (gold,)) == 1.0


def test_splits_are_disjoint_and_cover_all_keys():
    every = [key for split in SPLITS for key in KEYS_OF_SPLIT[split]]
    assert len(every) == len(set(every)) == 8 * 48


@pytest.mark.parametrize("task", list(FAMILIES))
def test_questions_ask_only_for_keys_of_their_split(task):
    asked = {split: set() for split in SPLITS}
    for split in SPLITS:
        for question in make_questions(task, split, 200, 3):
            relation, subject = question.meta["key"]
            asked[split].add((relation, subject))
            if question.meta["family"] == "pair":
                asked[split].add((relation, question.meta["needed"][1][1]))
            assert asked[split] <= set(KEYS_OF_SPLIT[split])
            assert subject in question.text
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not asked[one] & asked[other]


@pytest.mark.parametrize("task", list(FAMILIES))
def test_questions_repeat_for_a_seed_and_differ_for_another(task):
    assert make_questions(task, "test", 20, 1) == make_questions(task, "test", 20, 1)
    assert make_questions(task, "test", 20, 1) != make_questions(task, "test", 20, 2)
    # A longer list starts with the shorter one, so that nested budgets share questions.
    assert make_questions(task, "test", 30, 1)[:20] == make_questions(task, "test", 20, 1)


@pytest.mark.parametrize("task", list(FAMILIES))
def test_views_hold_what_is_needed_and_neither_half_suffices(task):
    words = set(vocabulary())
    for question in make_questions(task, "train", 80, 0):
        needed = [tuple(fact) for fact in question.meta["needed"]]
        held = (
            {agent: {tuple(f) for f in facts} for agent, facts in question.meta["facts"].items()}
            if task == "exchange"
            else {}
        )
        if task == "exchange":
            assert set(needed) <= held["alice"] | held["bob"]
            if question.meta["family"] in ("bridge", "pair"):
                assert not set(needed) <= held["alice"] and not set(needed) <= held["bob"]
        assert (
            set(question.text.split()) <= words
            and set(" ".join(question.views.values()).split()) <= words
        )
        subjects = [
            s
            for view in question.views.values()
            for _, s, *_ in [f.split() for f in view.split(" . ") if f.strip(" .")]
        ]
        assert all(subjects.count(s) <= len(question.views) for s in subjects)


@pytest.mark.parametrize("task", list(FAMILIES))
def test_good_speakers_always_succeed_and_flawed_ones_do_not(task):
    rng, system = np.random.default_rng(0), SYSTEMS[task]
    questions = make_questions(task, "base", 120, 0)
    good = [
        finish(system, q, scripted_dialogue(system, q, rng, always_good=True)).metric
        for q in questions
    ]
    mixed = [finish(system, q, scripted_dialogue(system, q, rng)).metric for q in questions]
    assert np.mean(good) == 1.0 and 0.3 < np.mean(mixed) < 0.8


@pytest.mark.parametrize("task", list(FAMILIES))
def test_flawed_replies_differ_from_good_ones(task):
    rng, system, script = np.random.default_rng(0), SYSTEMS[task], SCRIPTED[task]
    same = 0
    for question in make_questions(task, "base", 100, 0):
        agent = system.next_agent(question, ())
        same += script.good(question, (), agent) == script.flawed(question, (), agent, rng)
    assert same == 0


def test_critic_never_gives_the_answer():
    for question in make_questions("debate", "base", 60, 0):
        for turn in scripted_dialogue(SYSTEMS["debate"], question, np.random.default_rng(1)):
            assert turn.agent != "critic" or parse_answer(turn.text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<A> red fox </A>", "red fox"),
        ("so <A>b</A>", "b"),
        ("<A> </A>", None),
        ("red", None),
        ("<A> a </A> <A> b </A>", None),
        ("<A> a", None),
    ],
)
def test_answers_are_parsed_strictly(text, answer):
    assert parse_answer(text) == answer


def test_planted_harm_touches_only_the_share_of_training_questions():
    harmful = {"share": 0.4, "kind": "wrong_answer"}
    clean, harmed = (
        make_questions("exchange", "train", 300, 0),
        make_questions("exchange", "train", 300, 0, harmful=harmful),
    )
    marked = [bool(q.meta.get("harmful")) for q in harmed]
    assert 0.3 < np.mean(marked) < 0.5
    assert all((a.answers != b.answers) == m for a, b, m in zip(clean, harmed, marked, strict=True))
    assert make_questions("exchange", "test", 50, 0, harmful=harmful) == make_questions(
        "exchange", "test", 50, 0
    )
    inverted = make_questions(
        "debate", "train", 100, 0, harmful={"share": 1.0, "kind": "inverted_reward"}
    )
    assert all(q.meta["reward_sign"] == -1 for q in inverted)
