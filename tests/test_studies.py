"""Studies where a search finds nothing, as a weak model's may: such a seed changes nothing and ends
no run."""

import numpy as np
import pytest

from dits_lib.engines import derive_seed
from dits_lib.influence import rank_correlation
from dits_lib.report.stats import mean_interval
from dits_lib.selection import combined_score, select_arm, top_share
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.studies import iterations, selection_ablation
from dits_lib.suite.studies.common import sft_stage
from dits_lib.suite.studies.iterations import iterations_job
from dits_lib.suite.studies.selection_ablation import ablation_job, arm_job, arms_of
from dits_lib.tasks import DataError


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """Parameters under which no reply is good enough for a pair; the first seed is another one than
    the seed that is run."""
    monkeypatch.setattr("dits_lib.suite.pipeline.OUTPUT", tmp_path)
    for study in (selection_ablation, iterations):
        monkeypatch.setattr(study, "step_size_of", lambda pipeline: (0.3, []))
    sizes = [f"sizes.{name}_questions=4" for name in ("test", "train", "loss", "sft")]
    changes = ["profile=nothing", "tasks=[exchange]", "seed=7", "pairs.min_value=1.0", *sizes]
    return load_params("smoke", [*changes, "iterations.questions=4"])


def without_dialogues(params):
    """The same where no dialogue is good enough to learn from either."""
    return params.changed(sft=params.sft.changed(min_reward=1.0))


def test_without_pairs_every_arm_is_the_sft_model(nothing):
    found = ablation_job(nothing, "exchange", 0)
    assert found["pairs"] == 0 and list(found["metric"]) == list(arms_of(nothing))
    assert {found["metric"][arm] for arm in found["drift"]} == {found["metric"]["sft"]}
    assert {found["artifact"][arm] for arm in found["drift"]} == {found["artifact"]["sft"]}
    assert all(value == 0 for drift in found["drift"].values() for value in drift.values())
    arm_job(nothing, "exchange", 0, "gamma_0")  # one of them alone, as it is computed ahead


def test_a_round_without_pairs_keeps_its_sft_model(nothing):
    rows = iterations_job(nothing, "exchange", "DITS-iSFT-DPO", 0)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert [row["pairs"] for row in rows[1:]] == [0, 0]
    assert all(np.isnan(row["influence_mean"]) for row in rows[1:])
    assert all(np.isnan(row["influence_variance"]) for row in rows[1:])


def test_the_first_seed_must_find_something(nothing):
    first = nothing.changed(seed=0)
    advice = "gave no preference pairs; lower pairs.min_value or pairs.min_gap"
    with pytest.raises(DataError, match=advice):
        ablation_job(first, "exchange", 0)
    with pytest.raises(DataError, match="found no dialogue with a reward above sft.min_reward"):
        sft_stage(Pipeline(without_dialogues(first), "exchange"), 0)


def test_sft_on_nothing_is_the_model_itself(nothing):
    pipeline = Pipeline(without_dialogues(nothing), "exchange")
    model, searched = sft_stage(pipeline, 0)
    assert not searched.rows("sft.jsonl") and model == pipeline.base_model()


def test_selections_of_nothing_are_empty():
    none, rng = np.zeros(0), np.random.default_rng(derive_seed("none") % 2**32)
    assert len(top_share(none, 0.5, rng)) == 0 and len(combined_score(none, none, 1.0)) == 0
    assert all(
        len(select_arm(arm, 0.5, rng, none, none, none)) == 0
        for arm in ("full", "random", "q_value", "dpo_loss", "gamma_0", "reversed")
    )


def test_runs_that_have_no_value_are_left_out_of_an_interval():
    assert mean_interval([1.0, float("nan"), 3.0]) == mean_interval([1.0, 3.0])
    assert (
        np.isnan(mean_interval([float("nan")])["mean"]) and mean_interval([float("nan")])["n"] == 0
    )


def test_a_correlation_of_one_question_has_no_interval():
    found = rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), groups=[0, 0, 0])
    assert found["rho"] == pytest.approx(0.5) and np.isnan(found["low"]) and np.isnan(found["high"])
