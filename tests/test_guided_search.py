"""Searches that influence guides: the scale of the guide, its scores, and the stage of the
pipeline."""

import numpy as np
import pytest

from dits_lib.agents import Dialogue, Turn
from dits_lib.influence import ESTIMATORS, InfluenceSettings, ScoreError, ScoringContext
from dits_lib.influence.guide import InfluenceGuide
from dits_lib.search import SearchSettings, Tree, _guiding_values, insert, tree_search
from dits_lib.settings import ParamsError
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.store import Store
from dits_lib.tasks import Question, make_questions

from .conftest import SYSTEMS

CONFIG = SearchSettings()


def random_trees(rng):
    trees = []
    for name in "abc":
        tree = Tree(Question(name, "", ("x",), {}, {"family": "own"}))
        for i in range(8):
            texts = ("one", "two", "three")[i % 3], f"{'abcdefgh'[i] * 5}"
            turns = tuple(Turn("alice", text, (1,)) for text in texts)
            insert(tree, 0, Dialogue(name, turns, None, 0.0), float(rng.random()), CONFIG)
        trees.append(tree)
    return trees


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", [1e-4, 1.0, 50.0])
def test_guides_are_on_the_scale_of_the_q_values(seed, unit):
    """Whatever the unit of influence, its spread within trees, over the scored nodes, is that of
    the Q-values of these nodes, so that one temperature of the softmax fits all guides."""
    rng = np.random.default_rng(seed)
    trees = random_trees(rng)
    scores = [{i: float(unit * rng.normal(3.0)) for i in (0, 1, 2)} for _ in trees]
    found = {
        guide: _guiding_values(trees, CONFIG.changed(guide=guide), lambda _: scores)
        for guide in ("influence", "both")
    }
    own = {
        "influence": np.array([[scores[t][i] for i in (0, 1, 2)] for t in range(3)]),
        "q": np.array([[trees[t].nodes[i].q for i in (0, 1, 2)] for t in range(3)]),
    }
    # A constant on all nodes of a tree changes no softmax.
    within = {name: values - values.mean(1, keepdims=True) for name, values in own.items()}
    spread = {name: np.sqrt((values**2).mean()) for name, values in within.items()}
    scaled = within["influence"] * spread["q"] / spread["influence"]
    expected = {"influence": scaled, "both": (scaled + within["q"]) / np.sqrt(2)}
    for guide, values in found.items():
        scored = np.array([values[t][:3] for t in range(3)])
        assert scored - scored.mean(1, keepdims=True) == pytest.approx(expected[guide], abs=1e-9)
    assert found["influence"][0][3:] == pytest.approx(0.0)  # unscored: the mean of the tree
    plain = _guiding_values(trees, CONFIG, None)
    assert [v.tolist() for v in plain] == [[node.q for node in tree.nodes] for tree in trees]


@pytest.mark.parametrize("scores", [[{}, {}, {}], [{0: 2.0}, {1: 2.0}, {}]])
def test_scores_that_tell_nothing_apart_leave_the_other_guide(scores):
    trees = random_trees(np.random.default_rng(0))
    influence = _guiding_values(trees, CONFIG.changed(guide="influence"), lambda _: scores)
    both = _guiding_values(trees, CONFIG.changed(guide="both"), lambda _: scores)
    for tree, none, half in zip(trees, influence, both, strict=True):
        assert not none.any()
        assert half == pytest.approx(np.array([node.q for node in tree.nodes]) / np.sqrt(2))


@pytest.mark.parametrize("guide", ["influence", "both"])
def test_a_guide_of_overwhelming_score_is_followed(engine, guide):
    """With a softmax that is nearly hard, the scored node is selected wherever it may be."""
    system, questions = SYSTEMS["exchange"], make_questions("exchange", "train", 6, 0)
    settings = SearchSettings(
        repetitions=4, guide=guide, softmax_temperature=1e-6, candidate_distance=0.0
    )

    def scorer(trees):
        return [{i: 100.0 * (i == 1) for i in range(len(t.nodes))} for t in trees]

    trees = tree_search(engine, system, questions, settings, 0, scorer)
    once = settings.changed(repetitions=1)
    begun = tree_search(engine, system, questions, once, 0, scorer)
    grown = [any(t.nodes[child].children for child in t.nodes[1].children) for t in begun]
    assert 1 < sum(grown)
    for tree, has_grandchildren in zip(trees, grown, strict=True):
        assert not has_grandchildren or tree.selected == [0, 1, 1, 1]


def test_a_guide_needs_a_scorer(engine):
    guided = SearchSettings(guide="influence")
    with pytest.raises(ValueError, match="'influence', which needs a scorer"):
        tree_search(engine, SYSTEMS["debate"], [], guided, 0)


def guide_of(engine, name, task="exchange", **settings):
    shared = InfluenceSettings(rank=4, policy_samples=4, **settings)
    context = ScoringContext(engine, SYSTEMS[task], 3.0, shared)
    return InfluenceGuide(context, ESTIMATORS[name], make_questions(task, "validation", 4, 0), 0)


@pytest.mark.parametrize("name", ["one_step", "policy_gradient", "tree_policy_gradient"])
def test_the_estimator_scores_each_pair_once_and_steers(engine, name):
    guide = guide_of(engine, name)
    calls = []

    def scorer(trees):
        calls.append(guide(trees))
        return calls[-1]

    questions = make_questions("exchange", "train", 3, 0)
    settings = SearchSettings(repetitions=3, rollouts=2, guide="both")
    trees = tree_search(engine, SYSTEMS["exchange"], questions, settings, 0, scorer)
    assert len(calls) == 2 and all(tree.nodes[0].visits == 6 for tree in trees)
    known = [(p.id, p.chosen_ids, p.rejected_ids) for p, _ in guide.scored]
    assert known and len(set(known)) == len(known)
    # Scored by that estimator with the guide's own noise, as if all had come at once.
    pairs, values = zip(*guide.scored, strict=True)
    again = ESTIMATORS[name].score(guide.context, list(pairs), guide.questions, guide.noise)
    assert again.estimator == name
    assert again.value == pytest.approx(np.array(values), abs=1e-6)
    last = {
        f"{t.question.id}/{i}": v
        for t, s in zip(trees, calls[-1], strict=True)
        for i, v in s.items()
    }
    assert last and set(last.items()) <= {(p.id, v) for p, v in guide.scored}


def test_a_guide_whose_scores_are_all_alike_is_told(engine):
    guide = guide_of(engine, "one_step")
    guide.context = ScoringContext(engine, SYSTEMS["exchange"], 1e-12, guide.context.settings)
    questions = make_questions("exchange", "train", 3, 0)
    settings = SearchSettings(repetitions=3, rollouts=2, guide="influence")
    tree_search(engine, SYSTEMS["exchange"], questions, settings, 0, guide)
    with pytest.raises(ScoreError, match="one_step: all .* scores are 0, which cannot tell"):
        guide.check()


def test_estimators_that_score_pairs_together_guide_nothing(engine):
    together = [name for name, record in ESTIMATORS.items() if not record.scores_alone]
    assert {
        "learned",
        "racing",
        "group_design",
        "one_step_question",
        "through_training",
        "along_training",
    } <= set(together)
    with pytest.raises(ValueError, match="learned scores pairs together"):
        guide_of(engine, "learned")
    change = ["search.guide=both", "influence.estimator=learned"]
    for key in (change[0], "notebooks=[07_sensitivity]"):
        with pytest.raises(ParamsError, match="guide names influence.*learned.*: .*one_step"):
            load_params("smoke", [key, change[1]])
    assert load_params("smoke", change[1:]).search.guide == "q"


@pytest.mark.parametrize(
    ("guide", "estimator"), [("influence", "policy_gradient"), ("both", "one_step")]
)
def test_a_guided_search_as_a_stage(tmp_path, guide, estimator):
    """It runs at a tiny size, and its key holds the step size, whoever chose it."""
    change = ["tasks=[exchange]", "influence.policy_samples=4"]
    change += [f"search.guide={guide}", f"influence.estimator={estimator}"]
    lab = Pipeline(load_params("smoke", change), "exchange", Store(tmp_path))
    plain = Pipeline(load_params("smoke", change[:2]), "exchange", Store(tmp_path))
    base = lab.base_model()
    found = lab.search(base, "train", 4, 0)
    middle = lab.params.influence.step_sizes[1]
    assert lab.search(base, "train", 4, 0, step_size=middle).key == found.key
    assert lab.search(base, "train", 4, 0, step_size=5.0).key != found.key
    by_q = plain.search(base, "train", 4, 0)
    assert plain.search(base, "train", 4, 0, step_size=5.0).key == by_q.key != found.key
    assert len(found.rows("trees.jsonl")) == 4 and found.rows("pairs.jsonl")
    assert found.manifest["cost"]["prompt_tokens"] > by_q.manifest["cost"]["prompt_tokens"]


def test_a_search_for_fluency_as_a_stage(tmp_path):
    """Its key holds the base model, whose loss the reward holds."""
    change = ["tasks=[debate]", "search.fluency_weight=0.5", "pairs.min_value=-1"]
    lab = Pipeline(load_params("smoke", change), "debate", Store(tmp_path))
    plain = Pipeline(load_params("smoke", change[:1]), "debate", Store(tmp_path))
    base = lab.base_model()
    searched = lab.search(base, "train", 4, 0)
    assert searched.manifest["spec"]["initial"] == base.key
    assert "initial" not in plain.search(base, "train", 4, 0).manifest["spec"]
    rewards = [row for tree in searched.rows("trees.jsonl") for row in tree["rewards"]]
    assert rewards and all(reward > metric for _, metric, reward in rewards)
    # The trained model speaks, and the base model reads.
    trained = lab.dpo(base, searched, np.arange(2), 0)
    again = lab.search(trained, "train", 2, 0)
    assert again.manifest["spec"]["initial"] == base.key != again.manifest["spec"]["model"]
    # An estimator that searches the validation questions needs the base model too.
    scored = lab.score(base, searched, 3.0, 4, 0, estimator="tree_policy_gradient")
    assert scored.manifest["spec"]["initial"] == base.key
