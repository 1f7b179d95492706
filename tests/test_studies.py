"""Studies where a search finds nothing, as a weak model's may: such a seed changes nothing and ends
no run."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dits_lib.engines import derive_seed
from dits_lib.influence import ESTIMATORS, ScoreError, rank_correlation
from dits_lib.report import mean_correlation
from dits_lib.report.claims import CLAIMS, OPEN, SUPPORTED
from dits_lib.report.stats import mean_interval
from dits_lib.search import Tree
from dits_lib.selection import combined_score, select_arm, top_share
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.store import Store
from dits_lib.suite.studies import (
    influence_fidelity,
    iterations,
    retest,
    scoring,
    selection_ablation,
    sensitivity,
)
from dits_lib.suite.studies.budget_scaling import ALL, INFLUENCE, at_budget, budget_job
from dits_lib.suite.studies.common import asked, epochs_of, sft_stage, step_size_of, steps_of
from dits_lib.suite.studies.iterations import iterations_job
from dits_lib.suite.studies.rollout import selection_row
from dits_lib.suite.studies.scoring import correlation_row, gain_of_v, with_influence
from dits_lib.suite.studies.selection_ablation import (
    ablation_job,
    arm_job,
    arms_of,
    by_seed,
    loss_correlations,
    loss_reach,
)
from dits_lib.suite.studies.temperatures import SHOWN, temperature_job
from dits_lib.tasks import DataError, Question


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """Parameters under which no reply is good enough for a pair; the first seed is another one than
    the seed that is run."""
    monkeypatch.setattr("dits_lib.suite.pipeline.OUTPUT", tmp_path)
    for study in (selection_ablation, iterations, influence_fidelity, sensitivity, retest):
        monkeypatch.setattr(study, "step_size_of", lambda pipeline: 0.3)
    sizes = [f"sizes.{name}_questions=4" for name in ("test", "train", "loss", "sft")]
    changes = ["profile=nothing", "tasks=[exchange]", "seed=7", "pairs.min_value=1.0", *sizes]
    return load_params("smoke", [*changes, "iterations.questions=4"])


def test_influence_that_ties_is_a_draw_and_is_told_as_one(tmp_path, monkeypatch):
    """With few questions all scores of a seed may be 0; such a seed ends no run of many."""
    monkeypatch.setattr("dits_lib.suite.pipeline.OUTPUT", tmp_path)
    sizes = [f"sizes.{name}_questions=4" for name in ("test", "train", "sft")]
    changes = ["profile=ties", "influence.step_sizes=[1e-12]", "dpo.steps=1", *sizes]
    changes.append("budget={seeds: 2, questions: 6, rollouts: [2, 3], validation: [2, 4]}")
    params = load_params("smoke", changes)
    params = params.changed(budget=params.budget.changed(estimators={}))
    found = budget_job(params, "debate", 0)
    drawn = {(row["spent_on"], row["V"]): row["drawn"] for row in found}
    assert drawn[INFLUENCE, 2] == drawn[INFLUENCE, 4] == 1.0 and drawn[ALL, 0] == 0.0
    # As many questions as scores are made for should tell pairs apart.
    params = params.changed(influence=params.influence.changed(validation_questions=4))
    with pytest.raises(ScoreError, match="debate, seed 0: one_step: all .* scores are 0"):
        budget_job(params, "debate", 0)


def without_dialogues(params):
    """The same where no dialogue is good enough to learn from either."""
    return params.changed(sft=params.sft.changed(min_reward=1.0))


def test_one_step_size_is_taken_without_a_dialogue(tmp_path):
    """Only where there are several is one chosen; scores would wait for it."""
    params = load_params("smoke", ["influence.step_sizes=[0.7]"])
    pipeline = Pipeline(params, "exchange", Store(tmp_path / "runs"))
    assert step_size_of(pipeline) == 0.7 and not (tmp_path / "runs").exists()


def test_without_pairs_every_arm_is_the_sft_model(nothing):
    found = ablation_job(nothing, "exchange", 0)
    rows = {(run["arm"], run["equal"]): run for run in found["runs"]}
    assert found["pairs"] == 0 and {arm for arm, _ in rows} == set(arms_of(nothing))
    trained = [run for (arm, _), run in rows.items() if arm not in ("base", "sft")]
    assert {run["artifact"] for run in trained} == {rows["sft", "steps"]["artifact"]}
    assert all(run["kept"] == 0 == run["drift_chosen"] == run["drift_rejected"] for run in trained)
    assert all(np.isnan(run["validation_loss"]) for run in rows.values())
    arm_job(nothing, "exchange", 0, "gamma_0")  # one of them alone, as it is computed ahead


def test_without_pairs_the_half_of_every_estimator_is_the_sft_model(nothing):
    found = influence_fidelity.use_job(nothing, "exchange", 0)
    assert found["pairs"] == 0 and len(found["artifact"]) > 4
    assert len(set(found["artifact"].values())) == 1
    assert all(np.isnan(share) for share in found["harmful_kept"].values())


def test_without_pairs_no_setting_matters(nothing):
    loose = nothing.sensitivity.changed(min_value=[1.0], guide=["q"])
    rows = sensitivity.sensitivity_job(
        nothing.model_copy(update={"sensitivity": loose}), "exchange", 0
    )
    assert {row["pairs"] for row in rows} == {0} and len({row["artifact"] for row in rows}) == 1
    assert {row["setting"] for row in rows} == {
        "random",
        "V",
        "alpha",
        "gamma",
        "step size",
        "guide",
    }


def test_validation_questions_without_pairs_leave_out_the_classic_influence(tmp_path, monkeypatch):
    monkeypatch.setattr("dits_lib.suite.pipeline.OUTPUT", tmp_path)
    monkeypatch.setattr(scoring, "read_pairs", lambda searched: [])
    found = scoring.scoring_job(
        load_params("smoke", ["profile=unscored", "scoring.noise={}"]), "debate"
    )
    assert found["classic"] is None and list(found["cost"]) == ["one-step"]
    assert np.isfinite(found["influence"]).all()


def test_without_pairs_nothing_is_scored_again(nothing):
    found = retest.retest_job(nothing, "exchange", 0)
    assert found["pairs"] == 0
    assert np.isnan([found[name] for name in ("retest", "retest_few", "with_q")]).all()


def test_pairs_are_scored_again_on_other_questions_under_another_a(tmp_path, monkeypatch):
    monkeypatch.setattr("dits_lib.suite.pipeline.OUTPUT", tmp_path)
    params, made = load_params("smoke", ["profile=again"]), []
    score = Pipeline.score

    def noted(self, *args, **options):
        made.append(score(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(Pipeline, "score", noted)
    found = retest.retest_job(params, "debate", 0)
    count = params.influence.validation_questions
    assert [artifact.manifest["spec"]["questions"][2] for artifact in made] == [0, count]
    assert found["V"] == count == 8 and found["few"] == 2
    values = [np.array(artifact.json("scores.json")["value"]) for artifact in made]
    tables = [np.array(artifact.json("scores.json")["per_question"]) for artifact in made]
    assert found["retest"] == pytest.approx(stats.spearmanr(*values).statistic)
    parts = [table[:, :2].mean(1).round(9) for table in tables]
    varied = all(np.ptp(part) > 0 for part in parts)
    expected = stats.spearmanr(*parts).statistic if varied else 0.0
    assert found["retest_few"] == pytest.approx(expected)


def test_the_correlation_with_q_and_the_gain_of_v_are_means_over_seeds():
    rows = [(0.5, 0.2, 0.1), (0.6, 0.1, -0.1), (0.4, np.nan, 0.0), (0.5, 0.3, np.nan)]
    jobs = [
        {"task": "debate", "V": 20, "few": 5, "retest": a, "retest_few": b, "with_q": c}
        for a, b, c in rows
    ]
    gain = retest.gain_of_v(jobs, "debate")
    assert gain.estimate == pytest.approx(np.mean([0.3, 0.5, 0.2])) and gain.count == 3
    found = retest.with_q(jobs, "debate")
    assert found.count == 3 and found.estimate == pytest.approx(0.0, abs=1e-9)
    low = mean_correlation("debate", "x", [0.5, 0.6, 0.4, 0.5]).interval(0.95)["low"]
    assert found.reach == pytest.approx(np.sqrt(2 * low / (1 + low)))


def test_some_arms_are_tested_at_every_temperature(nothing):
    rows = temperature_job(nothing, "exchange", 0)
    assert [(row["arm"], row["temperature"]) for row in rows] == [
        (arm, temperature) for arm in SHOWN for temperature in nothing.testing.temperatures
    ]
    lab = Pipeline(nothing, "exchange")
    base = {row["temperature"]: row["metric"] for row in rows if row["arm"] == "base"}
    assert base == {t: lab.evaluate(lab.base_model(), 0, t).mean() for t in (1.0, 0.0)}
    assert len({row["artifact"] for row in rows if row["temperature"] == 0}) == 2  # base and SFT


def test_an_arm_without_scores_has_no_value_and_is_not_a_random_half(nothing, monkeypatch):
    monkeypatch.setattr(selection_ablation, "classic_values", lambda *args: None)
    job = ablation_job(nothing, "exchange", 0)
    assert "dpo_loss" not in job["by_question"]["steps"]
    assert np.isnan(by_seed([job], "exchange", "dpo_loss")[0]).all()
    assert not np.isnan(by_seed([job], "exchange", "gamma_0", "epochs")[0]).any()


def test_steps_for_equal_epochs():
    # An epoch of 100 pairs is 13 steps of 8, the last one of 4 pairs: 30 steps are 2.31 epochs.
    whole = epochs_of(30, 100, 8)
    assert whole == 30 / 13 and [steps_of(whole, n, 8) for n in (100, 50, 10, 1)] == [30, 16, 5, 2]
    assert epochs_of(30, 0, 8) == 0 and steps_of(whole, 0, 8) == 0


def test_the_loss_on_validation_pairs_is_held_against_the_metric_of_each_model():
    runs = [(0.6, 0.1), (0.5, 0.3), (0.4, 0.2), (0.7, 0.0), (float("nan"), 0.9)]
    rows = [{"validation_loss": loss, "metric": metric} for loss, metric in runs]
    few = {"task": "debate", "seed": 1, "runs": rows[:3]}
    found = loss_correlations([few, {"task": "debate", "seed": 0, "runs": rows}], "debate")
    # Ranks of -loss: 2, 3, 4, 1; of the metric: 2, 4, 3, 1; sum of squared differences 2.
    assert found[0] == pytest.approx(1 - 6 * 2 / (4 * 15)) and np.isnan(found[1])


def noisy_jobs(rng, seeds=5, models=9, true=0.9, noise=0.0):
    """Jobs whose models' loss and metric correlate by about `true`, seen through noise."""
    jobs = []
    for seed in range(seeds):
        rows = []
        for _ in range(models):
            metric = rng.normal()
            loss = -true * metric + np.sqrt(1 - true**2) * rng.normal()
            halves = {
                name: [value + noise * rng.normal() for _ in range(2)]
                for name, value in (("metric", metric), ("loss", loss))
            }
            means = {name: float(np.mean(values)) for name, values in halves.items()}
            rows.append(
                {"validation_loss": means["loss"], "metric": means["metric"], "halves": halves}
            )
        jobs.append({"task": "debate", "seed": seed, "runs": rows})
    return jobs


def test_noise_of_loss_and_metric_bounds_the_correlation_that_can_be_seen():
    exact = noisy_jobs(np.random.default_rng(0))
    assert loss_reach(exact, "debate") == pytest.approx(1.0)
    # Noise of the variance of the models themselves: a half has the reliability 1/2, the mean of
    # two 2/3 by Spearman and Brown, so loss and metric together leave sqrt(2/3 * 2/3).
    many = noisy_jobs(np.random.default_rng(1), seeds=40, models=60, noise=1.0)
    assert loss_reach(many, "debate") == pytest.approx(2 / 3, abs=0.03)
    seen = np.mean(loss_correlations(many, "debate"))
    clean = np.mean(loss_correlations(noisy_jobs(np.random.default_rng(1), 40, 60), "debate"))
    assert seen == pytest.approx(clean * 2 / 3, abs=0.04)


def test_a_correlation_that_noise_may_hide_supports_no_bound_above_it():
    found = mean_correlation("debate", "x", [0.02, 0.0, 0.04, 0.01], lower=-np.inf, upper=0.2)
    high = found.interval(0.95)["high"]
    assert found.verdict(0.95) == SUPPORTED and high < 0.2
    verdicts = {
        share: replace(found, reach=share * high / 0.2).verdict(0.95) for share in (1.1, 0.9, 0.0)
    }
    assert verdicts == {1.1: SUPPORTED, 0.9: OPEN, 0.0: OPEN}


def test_search_for_as_many_tokens_is_interpolated_by_question():
    own = [
        {"generated_tokens": 300, "by_question": [1.0, 0.0]},
        {"generated_tokens": 100, "by_question": [0.0, 1.0]},
    ]
    assert at_budget(own, 150).tolist() == [0.25, 0.75]
    assert at_budget(own, 100).tolist() == [0.0, 1.0] and at_budget(own, 300).tolist() == [1.0, 0.0]
    assert np.isnan(at_budget(own, 301)).all() and np.isnan(at_budget(own, 99)).all()


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


def test_what_a_search_selected_is_counted_by_hand():
    question = Question("q", "", ("x",), {}, {})
    trees = [Tree(question, selected=[0, 3, 0, 0]), Tree(question, selected=[0, 1, 2, 5])]
    expected = {"selections": 4.0, "distinct": 3.0, "root_again": 2 / 6, "pairs": 1.5}
    assert selection_row(trees, 3) == pytest.approx(expected)
    once = selection_row([Tree(question, selected=[0])], 0)
    assert np.isnan(once["root_again"]) and once["distinct"] == 1


def scored(reliable: float, shared: float, pairs=120, questions=40, seed=0) -> dict:
    """A scoring job whose influence has `reliable` signal in each question's answer, and whose `q`
    goes with that signal by `shared`."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=pairs)
    noise = rng.normal(size=(pairs, questions)) / (reliable or 1)
    table = (signal if reliable else 0 * signal)[:, None] + noise
    half = questions // 2
    return {
        "task": "debate",
        "question": [i // 2 for i in range(pairs)],
        "influence": table.tolist(),
        "first": table[:, :half].tolist(),
        "second": table[:, half:].tolist(),
        "q": (shared * signal + np.sqrt(1 - shared**2) * rng.normal(size=pairs)).tolist(),
    }


@pytest.mark.parametrize(
    ("job", "expected", "barred"),
    [
        (scored(3, 0.0, pairs=1200), "supported", ""),
        (scored(3, 0.7), "contradicted", ""),
        (scored(0.2, 0.9, pairs=400), "contradicted", ""),
        (scored(0, 0.0, pairs=1200), "not decided at this size", "noise leaves 0.00"),
        (scored(0.12, 0.0, pairs=400), "not decided at this size", "noise leaves 0"),
    ],
)
def test_a_weak_correlation_counts_where_a_stronger_one_would_show(job, expected, barred):
    """And a strong one always: noise only shrinks it."""
    found = with_influence(job, "q", "Q-value", -0.2)
    assert found.verdict(0.95) == expected and found.barred(0.95).startswith(barred)
    assert found.estimate == pytest.approx(correlation_row(job, "q")["rho"])


def test_the_gain_of_v_is_that_of_the_correlations():
    job = scored(0.5, 0.0)
    found = gain_of_v(job, 4, 20)
    rho = {
        v: stats.spearmanr(*[np.array(job[k])[:, :v].mean(1) for k in ("first", "second")])[0]
        for v in (4, 20)
    }
    assert found.estimate == pytest.approx(rho[20] - rho[4])
    assert found.verdict(0.95) == "supported" and found.count == 60 and found.df == 59
    few = {k: v[:6] if isinstance(v, list) else v for k, v in job.items()}
    assert gain_of_v(few, 4, 20).verdict(0.95) == "no value"


def test_seeds_share_the_questions_of_the_micro_web_and_not_those_of_the_micro_world():
    params = load_params("micro", ["sizes.test_questions=60"])
    ids = {task: asked(params, task, 2, first=5) for task in ("exchange", "debate", "deep_search")}
    shared = {task: len(set(first) & set(second)) for task, (first, second) in ids.items()}
    assert shared["exchange"] == shared["debate"] == 0 and 0 < shared["deep_search"] < 60
    pipeline = Pipeline(params, "deep_search")
    first, second = ({q.text for q in pipeline.questions("test", 60, seed)} for seed in (5, 6))
    assert shared["deep_search"] == len(first & second)
    assert all(len(own) == 60 for pair in ids.values() for own in pair)


def test_each_estimator_speaks_of_its_own_claim():
    use = "{one_step: 4, dpo_loss: 4, policy_gradient: 4, racing: 4, through_training: 4}"
    assert influence_fidelity.used_for(load_params("micro", [f"fidelity.use={use}"])) == {
        "2": ["one_step", "racing"],
        "2p": ["policy_gradient"],
        "2t": ["through_training"],
    }
    known = {"2", *influence_fidelity.CLAIMS_OF_USE.values()}
    assert known <= set(CLAIMS) and set(influence_fidelity.CLAIMS_OF_USE) <= set(ESTIMATORS)
