"""Questions, splits, metrics, scripted agents."""

import re
import string
from collections import Counter

import numpy as np
import pytest

from dits_lib.agents import Turn, finish, make_system, parse_answer, parsing_counts
from dits_lib.micro_model.scripted import SCRIPTED, scripted_dialogue
from dits_lib.tasks import (
    FAMILIES,
    KEYS_OF_SPLIT,
    SPLITS,
    Question,
    best_f1,
    choice_accuracy,
    make_questions,
    normalize_answer,
    token_f1,
    vocabulary,
)
from dits_lib.tasks.choices import listed_options, read_choice
from dits_lib.tasks.metrics import exact_match, shared_tokens_f1

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


def hotpotqas_f1(prediction: str, gold: str) -> float:
    """F1 as HotpotQA's evaluation script defines it, written anew from that definition."""

    def normal(text):
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    said, right = normal(prediction), normal(gold)
    for one in (said, right):
        if one in ("yes", "no", "noanswer") and said != right:
            return 0.0
    same = sum((Counter(said.split()) & Counter(right.split())).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said.split()), same / len(right.split())
    return 2 * precision * recall / (precision + recall)


def test_f1_is_hotpotqas():
    texts = ["yes", "Yes.", "no", "No", "noanswer", "no answer", "the no", "no one", "yes and no"]
    texts += ["red fox", "The red fox", "red", "a", "", "?", "fox red fox", "The Who", "yes fox"]
    pairs = [(a, b) for a in texts for b in texts]
    assert [token_f1(a, b) for a, b in pairs] == [hotpotqas_f1(a, b) for a, b in pairs]
    # By hand: half of the words of "no one" stand in "no", but it is not half right.
    assert token_f1("no", "no one") == token_f1("no one", "No.") == 0.0
    assert shared_tokens_f1("no", "no one") == pytest.approx(2 / 3)
    assert token_f1("The yes", "yes!") == 1.0 and token_f1("no answer", "answer") > 0


OPTIONS = {"A": "cat", "B": "a wild dog.", "C": "S. Lewis", "D": "cat", "E": "-5", "F": "5"}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        *((said, "B") for said in ("B", "b", " B ", "(B)", "[b]", "B.", "B)", "B:", "**B**")),
        *((said, "B") for said in ("**B.**", "(**B**)", "`B`", '"B"', "\uff22", "( B ).", "*B*)")),
        *((said, "B") for said in ("a wild dog", "A WILD dog.", "**a wild dog**", "'a wild dog'")),
        *((said, "B") for said in ("B: a wild dog", "B. a wild dog", "(B) a wild  dog", "B) dogs")),
        *((said, "B") for said in ("**B.** a wild dog", "**B: a wild dog.**", "B: it barks")),
        ("-5", "E"),
        ("5", "F"),
        ("F. 5", "F"),
        # Two letters, or no letter at all.
        *((said, None) for said in ("A or B", "A, B", "AB", "G", "(G)", "", "?", "wild dog", "*")),
        # No mark after the letter.
        *((said, None) for said in ("B a wild dog", "a dog", "A wild cat")),
        ("cat", None),  # of two options
        ("A. cat", None),  # that text is D's too
        ("A: a wild dog", None),  # the letter says one, the text another
        ("C. S. Lewis", "C"),
    ],
)
def test_an_answer_names_an_option(said, letter):
    assert read_choice(said, OPTIONS) == letter
    golds = dict.fromkeys(OPTIONS, 0.0) | ({letter: 1.0} if letter else {})
    assert {name: choice_accuracy(said, (name,), OPTIONS) for name in OPTIONS} == golds


def test_an_option_that_looks_like_a_letter_with_a_text_is_ambiguous():
    people = {"A": "J. Austen", "B": "C. S. Lewis", "C": "E. Forster", "D": "A"}
    assert read_choice("C. S. Lewis", people) is None  # C, or the text of B
    assert read_choice("B. C. S. Lewis", people) == "B"
    assert read_choice("E. Forster", people) == "C"  # there is no option E
    assert read_choice("A", people) == "A"  # letters come first
    assert read_choice("D. A", people) == "D"
    assert read_choice("2", {"1": "2", "2": "1"}) == "2"
    assert read_choice("(C)", {}) == "c" and read_choice("C. yes", {}) is None
    assert read_choice("it is", {"A": "", "B": ""}) is None


def test_the_options_of_a_question():
    text = "Which?\n1. not\n2. these\nA. one\nof many\nB. two\n(C) three"
    assert listed_options(text) == {"A": "one\nof many", "B": "two", "C": "three"}
    lettered = Question("x", text, ("B",), {}, {"letters": ["A", "B", "C", "D"]})
    assert lettered.options == {"A": "one\nof many", "B": "two", "C": "three", "D": ""}
    micro = make_questions("debate", "test", 1, 0)[0]
    assert list(micro.options) == list("abcd") and micro.options["c"] == micro.meta["options"][2]
    assert Question("x", "who?", ("y",), {}).options == {}


def debated(*said: str):
    """A debate about options, and the reward of its last answer."""
    system = make_system("debate", "chat")
    question = Question(
        "q", "Which?\nA. red\nB. blue", ("B",), dict.fromkeys(system.agents, ""), {}
    )
    turns = [Turn(("solver", "critic")[i % 2], text) for i, text in enumerate(said)]
    return finish(system, question, tuple(turns))


def test_a_debate_reads_the_option_that_was_named():
    for said in ("<A>(B)</A>", "<A>blue</A>", "<A>A</A> no, <A>**B**</A>", "<A> B: blue </A>"):
        ended = debated(said, "agree")
        assert (ended.answer, ended.metric, ended.ended) == ("B", 1.0, "answered")
    ended = debated("<A>A or B</A>", "agree")
    assert (ended.answer, ended.metric, ended.ended) == (None, 0.0, "no agreement")


def test_replies_that_the_rules_decide_are_counted():
    choose = Question("q", "Which?\nA. red\nB. blue", ("B",), {})
    texts = ["<A>B</A>", "<A>(b)</A>", "<A>A</A> <A>blue</A>", "<A>A or B</A>", "B", "<A></A>"]
    counted = {
        "replies": 6,
        "with an answer": 4,
        "with several answers": 1,
        "more than a letter": 2,
        "no option": 1,
        "yes or no": 0,
    }
    assert parsing_counts([(choose, text) for text in texts], choice=True) == counted
    free = Question("q", "who?", ("no one", "nobody"), {})
    texts = ["<A>no</A>", "<A>no one</A>", "<A>one</A>", "none"]
    found = parsing_counts([(free, text) for text in texts], choice=False)
    assert found["yes or no"] == 1 and found["with an answer"] == 3 and found["no option"] == 0


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
        ("<A> a", None),
        ("a </A>", None),
        # The last answer counts; one that is begun and not ended is none.
        ("<A> a </A> <A> b </A>", "b"),
        ("<A>a</A>, no: <A>b</A>, or <A>c</A> after all", "c"),
        ("<A>a</A> or <A>b", "a"),
        ("<A>a</A> or b</A>", "a"),
        ("I write <A> and then <A>a\nb</A>", "a\nb"),
        ("<A>a</A> <A> </A>", None),
    ],
)
def test_the_last_answer_of_a_reply_counts(text, answer):
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
