"""What pages say in words: findings, plain names, numbers; and the drawings of trees."""

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dits_lib.agents.base import Turn
from dits_lib.influence.registry import ESTIMATORS
from dits_lib.report import forest_figure, seed_differences, tree_figure
from dits_lib.report.claims import CLAIMS, Comparison
from dits_lib.report.figures import estimator_looks, family_colours
from dits_lib.report.findings import MOST, findings
from dits_lib.report.names import ARMS, plain
from dits_lib.report.verdicts import Evidence, level_of
from dits_lib.report.wording import number, shown
from dits_lib.search import Node, Tree
from dits_lib.settings import ROOT
from dits_lib.suite.studies.selection_ablation import SELECTIONS, example_rows, overlap_rows
from dits_lib.tasks import make_questions


def effect(estimate, task="exchange", name="gamma_0 minus random", stderr=0.01, **more):
    return Comparison(task, name, estimate, stderr, 9.0, count=10, **more)


def found(**claims):
    """{claim: evidence} of some comparisons, such as found(c2=[...])."""
    return {
        key[1:]: [Evidence("micro", "03_x", comparison) for comparison in own]
        for key, own in claims.items()
    }


def test_a_claim_that_holds_is_told_with_the_comparison_nearest_to_its_bound():
    near, far = effect(0.05), effect(0.5, name="gamma_1 minus full")
    told = findings(found(c2=[far, near]))
    assert len(told) == 1 and told[0].startswith("**Claim 2 holds**")
    level = level_of(found(c2=[far, near])["2"])
    assert f"exchange: top by influence minus drawn at random {near.text(level)}" in told[0]
    assert "all pairs" not in told[0] and CLAIMS["2"].rstrip(".") in told[0]


def test_a_claim_that_fails_is_told_with_the_comparison_farthest_off():
    worst, bad = effect(-0.5), effect(-0.1, name="gamma_1 minus full")
    told = findings(found(c2=[bad, worst, effect(0.0, "debate")]))
    assert "**Claim 2 does not hold**" in told[0] and "(not decided: debate)" in told[0]
    assert worst.text(level_of([None] * 3)) in told[0] and "all pairs" not in told[0]


def test_what_single_tasks_decide_and_what_is_open_share_a_sentence_each():
    evidence = found(
        c1b=[effect(0.5), effect(0.0, "debate")],
        c2=[effect(0.0)],
        c3=[effect(0.001)],
        c5=[effect(math.nan)],
    )
    single, undecided = findings(evidence)
    assert single.startswith("**Decided for single tasks**: claim 1b holds for the exchange")
    assert "debate" not in single
    assert "claim 2 (" in undecided and "claim 3 (" in undecided
    assert "claim 5" not in undecided  # no value is no finding
    seen = effect(0.0).detectable()
    assert f"claim 2 ({seen:.3f})" in undecided


def test_there_are_seven_sentences_at_most():
    evidence = {
        claim: [Evidence("micro", "03_x", effect(0.5))] for claim in list(CLAIMS)[: MOST + 3]
    } | {claim: [Evidence("micro", "03_x", effect(0.0))] for claim in list(CLAIMS)[MOST + 3 :]}
    told = findings(evidence)
    assert len(told) == MOST + 2 == 7
    assert all(sum(f"laim {claim} " in line for line in told) == 1 for claim in CLAIMS)


def test_nothing_found_says_nothing():
    assert findings({}) == []


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (
            "gamma_0 minus random, equal steps",
            "top by influence minus drawn at random, equal steps",
        ),
        ("gamma_0_small", "very top by influence"),
        ("one_step, reversed minus q_value", "one step, bottom minus top by Q"),
        ("tree_policy_gradient", "tree policy gradient"),
        ("influence with Q-value", "influence with Q-value"),
        ("full", "all pairs"),
        ("fully", "fully"),
    ],
)
def test_names_are_plain(short, long):
    assert plain(short) == long


def test_every_arm_has_a_plain_name_of_its_own():
    assert {"base", "warm_start", "sft", *SELECTIONS} == set(ARMS)
    assert len(set(ARMS.values())) == len(ARMS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20.0, "20"),
        (0.5, "0.500"),
        (-0.0299, "-0.030"),
        (2.143, "2.14"),
        (89.31, "89.3"),
        (114.3, "114"),
        (306338, "306,338"),
        (3.34e7, "3.3e7"),
        (2.0e7, "2.0e7"),
        (math.nan, ""),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_written_as_people_do(value, text):
    assert number(value) == text


def test_a_table_is_shown_with_plain_names_and_numbers():
    table = pd.DataFrame(
        {
            "arm": ["sft", "gamma_1"],
            "mean_change": [0.1234, 0.0],
            "n": [20.0, 101.0],
            "variance": [0.00091, 0.0123],
            "step_size": [0.3, 10.0],
            "seed": [12345, 2],
            "path": ["a_b", "random"],
            "empty": [math.nan, math.nan],
        }
    )
    read = shown(table)
    assert read["arm"].tolist() == ["SFT model", "top by influence and Q"]
    assert read["mean change of the metric"].tolist() == ["0.123", "0"]
    assert read["n"].tolist() == ["20", "101"]
    assert read["variance"].tolist() == ["0.001", "0.012"]
    assert read["step size"].tolist() == ["0.3", "10"]
    assert read["seed"].tolist() == [12345, 2]
    assert read["path"].tolist() == ["a_b", "random"]  # no column of names
    assert read["empty"].tolist() == ["", ""]
    assert table["arm"].tolist() == ["sft", "gamma_1"]  # the table itself stays


def test_tiny_columns_keep_two_digits_that_count():
    assert shown(pd.DataFrame({"x": [0.00091, 0.0012]}))["x"].tolist() == ["0.0009", "0.0012"]


def test_differences_by_seed_are_paired():
    rows = [
        ("random", "steps", 0, 0.5),
        ("random", "steps", 0, 0.7),  # two random halves: their mean
        ("random", "steps", 1, 0.4),
        ("random", "epochs", 0, 0.2),
        ("gamma_0", "steps", 0, 0.9),
        ("gamma_0", "steps", 1, 0.3),
        ("gamma_0", "epochs", 0, 0.5),
        ("gamma_0", "epochs", 1, 0.5),
    ]
    runs = pd.DataFrame(rows, columns=["arm", "equal", "seed", "metric"]).assign(task="exchange")
    own = seed_differences(runs, "random").set_index(["equal", "seed"])["difference"]
    assert own["steps"].tolist() == pytest.approx([0.3, -0.1])
    # Of seed 1 the reference is trained in the one way alone.
    assert own["epochs"].tolist() == pytest.approx([0.3, 0.1])
    assert set(seed_differences(runs, "random", "steps")["equal"]) == {"steps"}


def test_a_dot_of_each_seed_lies_beside_its_interval():
    row = {"task": "exchange", "arm": "gamma_0", "mean": 0.2, "low": 0.1, "high": 0.3}
    seeds = pd.DataFrame({"task": "exchange", "arm": "gamma_0", "difference": [0.15, 0.2, 0.25]})
    axis = forest_figure(pd.DataFrame([row]), "random", seeds).axes[0]
    dots = next(line for line in axis.lines if len(line.get_xdata()) == 3)
    assert dots.get_xdata().tolist() == [0.15, 0.2, 0.25]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["top by influence"]
    assert axis.get_xlabel().endswith("'drawn at random'")
    plt.close("all")


def test_no_two_estimators_and_no_two_families_look_alike():
    looks = estimator_looks()
    assert set(looks) == set(ESTIMATORS)
    assert len({tuple(look.values()) for look in looks.values()}) == len(looks)
    colours = family_colours({"exchange": ["b", "a", "a"], "debate": ["a", "c"]})
    assert len(set(colours.values())) == 4
    assert colours == family_colours({"exchange": ["a", "b"], "debate": ["c", "a"]})


def tree_of(*texts):
    """A tree in which each text replies to the root."""
    tree = Tree(make_questions("debate", "train", 1, 0)[0])
    for text in texts:
        tree.nodes.append(Node(turn=Turn("solver", text), parent=0, depth=1))
        tree.nodes[0].children.append(len(tree.nodes) - 1)
    return tree


def labels(tree):
    axis = tree_figure(tree).axes[0]
    texts = [text.get_text() for text in axis.texts]
    title = axis.get_title(loc="left")
    plt.close("all")
    return texts, title


def test_a_tree_shows_its_question_and_the_end_of_a_long_reply():
    long = " ".join(f"word{i}" for i in range(80)) + " <A> d </A>"
    tree = tree_of("<A> a </A>", long)
    texts, title = labels(tree)
    assert re.sub(r"\s+", " ", title).startswith(tree.question.text[:40])
    assert tree.question.answers[0] in title
    assert texts[0] == "start" and texts[1] == "solver: <A> a </A>"
    assert texts[2].startswith("solver:") and texts[2].endswith("<A> d </A>")
    assert "…" in texts[2] and "word0 " not in texts[2] and texts[2].count("\n") <= 2


def test_a_deep_tree_is_wider_and_keeps_its_answers():
    tree = Tree(make_questions("debate", "train", 1, 0)[0])
    for depth in range(1, 25):
        text = f"a reply that is far too long for its column <A> {depth} </A>"
        turn = Turn("an_agent_of_a_very_long_name", text)
        tree.nodes.append(Node(turn=turn, parent=depth - 1, depth=depth))
        tree.nodes[depth - 1].children.append(depth)
    axis = tree_figure(tree).axes[0]
    assert axis.figure.get_figwidth() > 20
    for depth, text in enumerate(axis.texts[1:], 1):
        assert text.get_text().replace("\n", " ").endswith(f"<A> {depth} </A>")
    plt.close("all")


def test_labels_of_leaves_do_not_touch_each_other():
    tree = tree_of(*(" ".join([f"w{n}"] * 60) for n in range(6)))
    axis = tree_figure(tree).axes[0]
    axis.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts[1:]]
    boxes.sort(key=lambda box: -box.y1)
    assert all(above.y0 >= below.y1 - 1 for above, below in zip(boxes, boxes[1:], strict=False))
    assert np.isfinite([box.y0 for box in boxes]).all()
    plt.close("all")


def test_each_number_of_the_readmes_findings_stands_on_the_page_that_it_links():
    """Every point of "What was found" links the pages that its numbers can be checked on."""
    text = (ROOT / "README.md").read_text().split("## What was found")[1].split("\n![")[0]
    points = text.split("\n- ")[1:]
    assert len(points) >= 3
    for point in points:
        links = re.findall(r"\((results/[\w-]+/README\.md)\)", point)
        pages = " ".join((ROOT / link).read_text() for link in links)
        numbers = re.findall(r"[-+]?\b0\.\d{3}\b", point)
        assert links and numbers, point
        known = {found.lstrip("+") for found in re.findall(r"[-+]?\b\d\.\d{3}\b", pages)}
        assert {x.lstrip("+") for x in numbers} <= known, point


def test_shared_pairs_are_counted_by_hand():
    kept = {
        "full": [0, 1, 2, 3],
        "random": [0, 1],
        "gamma_0": [1, 2],
        "reversed": [0, 3],
        "q_value": [],
    }
    rows = [
        {"task": "debate", "agent": "solver", "chosen": f"c{i}", "rejected": "r", "Q": 1.0}
        | {"influence": float(-i)}
        for i in range(4)
    ]
    job = {"task": "debate", "rows": rows, "kept": kept}
    shares = {row["arm"]: row for row in overlap_rows([job])}
    assert set(shares) == {"random", "gamma_0", "reversed"}
    assert shares["random"]["pairs"] == 2 and shares["random"][plain("gamma_0")] == 0.5
    assert shares["gamma_0"][plain("reversed")] == 0.0
    assert shares["reversed"][plain("reversed")] == 1.0
    told = example_rows(job, 2)
    assert [row["chosen"] for row in told] == ["c0", "c3"]
    assert [row["kept by"] for row in told] == [plain("reversed")] * 2
    nothing = {"task": "debate", "rows": [], "kept": {"random": []}}
    assert overlap_rows([nothing]) == [] and example_rows(nothing) == []


def test_the_log_has_an_index_of_its_entries_newest_first():
    text = (ROOT / "docs" / "log.md").read_text()
    titles = re.findall(r"^## (.+)$", text, flags=re.M)
    anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    index = [f"- [{title}](#{to})" for title, to in zip(titles, anchors, strict=True)]
    assert "\n".join(index) in text
    dates = [title[:10] for title in titles]
    assert dates == sorted(dates, reverse=True)
