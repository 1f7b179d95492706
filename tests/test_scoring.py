"""Scoring within the pipeline: warm-up, draws of A, and the noise of either kind."""

import numpy as np
import pytest

from dits_lib.engines import derive_seed
from dits_lib.influence import DPOLoss
from dits_lib.influence.estimators.dpo_loss import dpo_loss_influence
from dits_lib.influence.estimators.one_step import one_step_influence as scored_by_hand
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline, read_scores
from dits_lib.suite.store import Store
from dits_lib.suite.studies.common import pair_stage, sft_stage
from dits_lib.suite.studies.scoring import (
    BOTH,
    DRAW,
    QUESTIONS,
    noise_pairs,
    noise_rows,
    noise_sentence,
    scoring_job,
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The pipeline of a tiny profile, with what it searched."""
    sizes = ["sizes.sft_questions=6", "sizes.train_questions=6"]
    params = load_params("smoke", ["tasks=[debate]", *sizes])
    pipeline = Pipeline(params, "debate", Store(tmp_path_factory.mktemp("warm")))
    model, _ = sft_stage(pipeline, 0)
    return pipeline, model, pair_stage(pipeline, model, 0)


def changed_influence(pipeline, **changes):
    params = pipeline.params
    changed = params.model_copy(update={"influence": params.influence.changed(**changes)})
    return Pipeline(changed, pipeline.task, pipeline.store)


def test_pairs_are_scored_on_the_warmed_model(lab):
    """By hand: DPO on all pairs, then influence there, its reference still the model before."""
    pipeline, model, searched = lab
    assert pipeline.warmed(model, searched, 0) == model
    warm = changed_influence(pipeline, warmup_steps=3)
    warmed = warm.warmed(model, searched, 0)
    pairs = warm.pairs(searched)
    assert warmed.key not in (model.key, warm.warmed(model, searched, 1).key)
    assert warmed.key != changed_influence(pipeline, warmup_steps=2).warmed(model, searched, 0).key
    found = read_scores(warm.score(model, searched, 10.0, 6, 0, limit=8, lora_seed=1), searched)
    rows = [(p.prompt_ids, ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    before = np.array([sum(row) for row in warm.engine(model).logprobs(rows)]).reshape(-1, 2)
    known = {p.id: tuple(row) for p, row in zip(pairs, before.tolist(), strict=True)}
    loss = DPOLoss(warm.params.dpo.beta, warm.params.dpo.nll_weight, known)
    asked, noise = warm.questions("validation", 6, 0), derive_seed("one_step", 0, 0)
    given = warm.system, pairs[:8], asked, 10.0, warm.params.influence, noise, 1
    engine = warm.engine(warmed)
    by_hand = scored_by_hand(engine, *given, loss=loss)
    assert found.per_question == pytest.approx(by_hand.per_question)
    # The warm-up has moved the pairs' margins, which the reference of the scores knows.
    after = np.array([sum(row) for row in engine.logprobs(rows)]).reshape(-1, 2)
    assert np.abs((after - before) @ [1, -1]).max() > 1e-3
    plain = pipeline.score(model, searched, 10.0, 6, 0, limit=8, lora_seed=1)
    assert read_scores(plain, searched).per_question.tolist() != found.per_question.tolist()
    classic = [lab.score_by_loss(model, searched, searched, 1.0, 0) for lab in (pipeline, warm)]
    assert classic[0].key != classic[1].key
    # The step is chosen where it is taken.
    assert warm.step_size(model, searched, 0)[1] != pipeline.step_size(model, searched, 0)[1]


def test_draws_of_a_share_the_classic_influences_pairs(lab):
    """By hand: every other validation pair under a second A."""
    pipeline, model, searched = lab
    drawn = changed_influence(pipeline, lora_draws=2)
    found = read_scores(drawn.score_by_loss(model, searched, searched, 1.0, 0), searched)
    engine, pairs, a = drawn.engine(model), drawn.pairs(searched), derive_seed(0, "lora")
    for start, own in ((0, a), (1, derive_seed(a, "draw", 1))):
        given = pairs, pairs[start::2], 1.0, drawn.params.influence, 0, own, drawn.loss
        part = dpo_loss_influence(engine, *given).per_question
        assert found.per_question[:, start::2] == pytest.approx(part, abs=1e-6)


@pytest.mark.parametrize("fixed", [None, 5])
def test_noise_is_told_apart_by_what_differs(lab, fixed):
    """The scorings that are compared differ in their questions, their A, or both, also where the
    parameters fix A."""
    pipeline = changed_influence(lab[0], lora_seed=fixed)
    asked = []
    score = Pipeline.score

    def noted(self, *args, **options):
        made = score(self, *args, **options)
        name, skip = options["estimator"], options["skip"]
        lora_seed = options["lora_seed"]
        if lora_seed is None:
            lora_seed = self.own_lora_seed(args[4], skip, name)
        asked.append((name, skip, lora_seed))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "score", noted)
        patch.setattr("dits_lib.suite.studies.scoring.Pipeline", lambda *a: pipeline)
        job = scoring_job(pipeline.params, "debate")
    for name in ("one_step", "policy_gradient"):
        first, second, again = [(skip, a) for own, skip, a in asked if own == name]
        assert first[0] == 0 and second[0] == again[0] > 0
        known = {"first": first, "second": second, "again": again}
        ways = noise_pairs({k: Told(v) for k, v in known.items()} | {"fixed": fixed is not None}, 9)
        for way, (one, other) in ways["ways"].items():
            differs = (one[0] != other[0], one[1] != other[1])
            assert (
                differs == {QUESTIONS: (True, False), DRAW: (False, True), BOTH: (True, True)}[way]
            )
    rows = noise_rows(job)
    assert [(row["estimator"], row["V"]) for row in rows[::3]] == [
        ("one_step", 10),
        ("policy_gradient", 6),
    ]
    assert len(rows) == 6 and all(row["task"] == "debate" for row in rows)
    one = np.array(job["noise"]["one_step"]["ways"][BOTH])
    assert one.tolist() == [np.mean(job["first"], 1).round(9).tolist(), one[1].tolist()]


class Told:
    """Stands for scores, whose values are what it is told."""

    def __init__(self, value):
        self.value = np.array(value)


@pytest.mark.parametrize(
    ("questions", "draw", "told"),
    [
        ((0.1, 0.3), (0.5, 0.9), "the questions are the larger noise"),
        ((0.5, 0.9), (0.1, 0.3), "the draw of A is the larger noise"),
        ((0.1, 0.6), (0.5, 0.9), "neither noise is the larger beyond their intervals"),
        ((0.1, float("nan")), (0.5, 0.9), "nothing can be said of scores that do not vary"),
    ],
)
def test_the_larger_noise_is_named_where_the_intervals_tell(questions, draw, told):
    rows = [
        {"task": "t", "estimator": "e", "differs": way, "rho": np.mean(ends)}
        | dict(zip(("low", "high"), ends, strict=True))
        for way, ends in ((QUESTIONS, questions), (DRAW, draw), (BOTH, (0.0, 1.0)))
    ]
    assert told in noise_sentence(rows)
