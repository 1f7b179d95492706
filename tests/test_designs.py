"""Racing, control variates, learned scores and group designs, against brute force, closed forms and
planted effects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dits_lib.engines import derive_seed
from dits_lib.influence import (
    ESTIMATORS,
    DPOLoss,
    InfluenceSettings,
    ScoreError,
    ScoringContext,
    dpo_gradients,
    evaluate_adapters,
    fresh_stack,
    metric_table,
    step,
)
from dits_lib.influence.estimators.group_design import (
    GroupOptions,
    draw_groups,
    gradient_clusters,
    handed_down,
    train_groups,
)
from dits_lib.influence.estimators.learned import features, fit_and_predict, learned
from dits_lib.influence.estimators.one_step import one_step_influence
from dits_lib.influence.estimators.one_step_controlled import controlled
from dits_lib.influence.estimators.one_step_question import one_step_question, whole_groups
from dits_lib.influence.estimators.racing import race, settled
from dits_lib.influence.gradients import sum_by, take
from dits_lib.suite.studies.influence_fidelity import (
    controlled_rows,
    lds_rows,
    left_out_rows,
    race_rows,
)
from dits_lib.tasks import make_questions

from .conftest import SYSTEMS

CONFIG = InfluenceSettings(rank=4, policy_samples=4)


@pytest.fixture(scope="module")
def questions():
    return make_questions("exchange", "validation", 4, 0)


def setting_of(engine, size=1.0, **changes):
    return ScoringContext(engine, SYSTEMS["exchange"], size, CONFIG.changed(**changes), lora_seed=5)


# One step for all pairs of a question


def test_a_questions_pairs_take_one_step_together(engine, pairs, questions):
    """Against merging the summed gradient into one adapter, question by question; blocks change
    nothing."""
    some, setting = pairs["exchange"][:8], setting_of(engine)
    found = one_step_question(setting, some, questions, 0)
    gradients = dpo_gradients(engine, some, loss=DPOLoss(), rank=4, scaling=CONFIG.scaling, seed=5)
    base = metric_table(evaluate_adapters(engine, setting.system, questions, None, 1, CONFIG, 0), 1)
    for name in {pair.question_id for pair in some}:
        own = [i for i, pair in enumerate(some) if pair.question_id == name]
        stack = fresh_stack(engine, 1, 4, CONFIG.scaling, 5)
        for module, (_, b) in stack.weights.items():
            b += gradients.weights[module][1][own].sum(0)
        expected = (
            metric_table(
                evaluate_adapters(
                    engine, setting.system, questions, step(stack, 1.0), 1, CONFIG, 0
                ),
                1,
            )
            - base
        )
        for i in own:
            assert found.per_question[i] == pytest.approx(expected[0] / len(own))
    small = one_step_question(setting_of(engine, gradient_block=3), some, questions, 0)
    assert small.per_question.tolist() == found.per_question.tolist()


def test_blocks_hold_whole_questions(pairs):
    some = pairs["exchange"][:12]
    blocks = whole_groups(some, 3)
    assert sorted(sum(blocks, [])) == list(range(12)) and len(blocks) > 1
    for name in {pair.question_id for pair in some}:
        assert sum(any(some[i].question_id == name for i in block) for block in blocks) == 1


def test_sums_and_choices_of_adapters(engine):
    stack = fresh_stack(engine, 5, 2, 1.0, 0)
    for n, (_, b) in enumerate(stack.weights.values()):
        b += torch.arange(5.0)[:, None, None] + n
    owners = torch.tensor([0, 1, 0, 1, 1])
    for (_, b), (_, whole), (_, chosen) in zip(
        stack.weights.values(),
        sum_by(stack, owners, 2).weights.values(),
        take(stack, [4, 1]).weights.values(),
        strict=True,
    ):
        assert torch.equal(whole[0], b[0] + b[2]) and torch.equal(whole[1], b[1] + b[3] + b[4])
        assert torch.equal(chosen, b[[4, 1]])


# Racing


def noisy_table(true, questions, noise, seed):
    return true[:, None] + noise * np.random.default_rng(seed).normal(size=(len(true), questions))


def test_a_race_finds_the_top_half_with_fewer_plays():
    true = np.linspace(-1, 1, 40)
    plays, missed = [], 0
    for seed in range(20):
        table = noisy_table(true, 400, 1.0, seed)
        raced = race(lambda live, columns: table[np.ix_(live, columns)], 40, 400, 20, 0.5, 0.1)
        missed += len(set(np.argsort(-np.nanmean(raced, axis=1))[:20]) - set(range(20, 40)))
        plays.append((~np.isnan(raced)).mean())
        assert np.array_equal(raced[~np.isnan(raced)], table[~np.isnan(raced)])
    assert np.mean(plays) < 0.4
    # The stated error; the two next to the cut are 0.05 apart, a standard error of 400 questions.
    assert missed / (20 * 20) < 0.1


def test_a_race_between_equals_plays_everything():
    table = np.zeros((10, 60))
    raced = race(lambda live, columns: table[np.ix_(live, columns)], 10, 60, 20, 0.5, 0.1)
    assert not np.isnan(raced).any()


def test_pairs_that_never_changed_are_not_certain():
    """A row of zeros has no spread of its own; the others' spread says how far its mean can be
    trusted."""
    table = np.vstack([np.zeros((1, 10)), noisy_table(np.array([0.1, -0.1, 0.2]), 10, 1.0, 0)])
    assert not settled(table, np.arange(4), 2, 0.1)[0]
    assert settled(
        np.vstack([np.zeros((2, 400)), noisy_table(np.array([5.0, 5.0]), 400, 1.0, 0)]),
        np.arange(4),
        2,
        0.1,
    ).all()


def test_a_raced_score_is_the_one_step_score_on_what_was_played(engine, pairs, questions):
    some, setting = pairs["exchange"][:6], setting_of(engine, options={"racing": {"questions": 2}})
    full = one_step_influence(
        engine, setting.system, some, questions, 1.0, setting.settings, 0, lora_seed=5
    ).per_question
    raced = ESTIMATORS["racing"](setting, some, questions, 0)
    played = ~np.isnan(raced.per_question)
    assert played[:, :2].all() and np.allclose(raced.per_question[played], full[played])
    assert raced.cost["played"] == played.mean()


def test_race_rows_by_brute_force():
    table = noisy_table(np.linspace(-1, 1, 20), 100, 0.1, 0)
    rows = race_rows([{"task": "exchange", "table": table.tolist()}], 0.5, 10)
    assert all(row["same top half"] == 1.0 and row["played"] < 0.7 for row in rows[:-1])
    third = set(np.argsort(-table[:, :33].mean(1))[:10]) & set(np.argsort(-table.mean(1))[:10])
    assert rows[-1]["alike"] == len(third) / 10 and np.isnan(rows[-1]["same top half"])


# Control variates


def test_a_control_variate_removes_what_it_explains():
    rng = np.random.default_rng(0)
    true, shared = rng.normal(size=(60, 1)), rng.normal(size=(60, 500))
    covariate = 2 * shared + 0.3 * true
    table = true + shared[:, :40] + 0.2 * rng.normal(size=(60, 40))
    found, left, slope = controlled(table, covariate)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert left == pytest.approx(0.04 / 1.04, abs=0.01)
    assert np.std(found.mean(1) - true[:, 0]) < 0.6 * np.std(table.mean(1) - true[:, 0])
    same, all_left, _ = controlled(table, np.zeros((60, 500)))
    assert same.tolist() == table.tolist() and all_left == 1
    with pytest.raises(ValueError, match="takes at least as many"):
        controlled(table, covariate[:, :30])


def test_the_error_of_a_controlled_score_counts_the_controls_own(
    engine, pairs, questions, monkeypatch
):
    """Against the spread of the value over many draws of both tables."""
    import dits_lib.influence.estimators.one_step_controlled as module

    rng, values, errors = np.random.default_rng(0), [], []
    for _ in range(200):
        shared = rng.normal(size=(4, 100))
        tables = {
            "one_step": shared[:, :20] + 0.2 * rng.normal(size=(4, 20)),
            "policy_gradient": shared + 0.2 * rng.normal(size=(4, 100)),
        }
        for name in tables:
            cost = {"backward_rows": 0}
            monkeypatch.setattr(
                module,
                name,
                lambda *_, table=tables[name], cost=cost: module.Scores(
                    "x", table.mean(1), table.mean(1), cost, table
                ),
            )
        found = ESTIMATORS["one_step_controlled"](
            setting_of(engine), pairs["exchange"][:4], [None] * 100, 0
        )
        values.append(found.value)
        errors.append(found.stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_controlled_rows_compare_the_same_tables():
    rng = np.random.default_rng(1)
    true, jobs = rng.normal(size=80), []
    for side in (0, 1):
        shared = rng.normal(size=(80, 300))
        for name, table in (
            ("one_step", true[:, None] + 3 * shared[:, :20]),
            ("policy_gradient", true[:, None] + shared),
        ):
            jobs.append(
                {
                    "task": "exchange",
                    "estimator": name,
                    "side": side,
                    "table": table.tolist(),
                    "question": list(range(80)),
                }
            )
    plain, better = controlled_rows(jobs)
    assert (
        plain["variance left"] == 1
        and better["variance left"] < 0.01
        and better["mean"] > plain["mean"]
    )


# Learned scores


def test_regression_learns_a_linear_truth_and_admits_noise():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(200, 6)), rng.normal(size=6)
    y = (x @ weights)[:, None] + 2.0 * rng.normal(size=(200, 8))
    there = rng.normal(size=(100, 6))
    predicted, error = fit_and_predict(x, y, there)
    assert np.corrcoef(predicted.mean(1), there @ weights)[0, 1] > 0.95 and predicted.shape == (
        100,
        8,
    )
    off = np.abs(predicted.mean(1) - there @ weights)
    assert 0 < error.min() and (off < 3 * error).mean() > 0.95
    assert fit_and_predict(x, np.ones((200, 3)), there)[0].tolist() == np.ones((100, 3)).tolist()


def test_learned_scores_predict_what_was_not_scored(engine, pairs, questions):
    some = pairs["exchange"][:24]
    setting = setting_of(engine, options={"learned": {"share": 0.5}})
    scores = ESTIMATORS["learned"](setting, some, questions, 0)
    assert scores.value.shape == (24,) and scores.cost["learned_from"] == 12
    with pytest.raises(ScoreError, match="share leaves 4 pairs"):
        ESTIMATORS["learned"](setting, some[:8], questions, 0)


def test_a_scored_pair_is_not_predicted_from_itself(engine, pairs, questions, monkeypatch):
    """Its own measurement, made enormous, moves the others' predictions and not its own."""
    import dits_lib.influence.estimators.learned as module

    some, setting, plain = pairs["exchange"][:24], setting_of(engine), module.one_step
    options = module.LearnedOptions(share=0.9)
    before = learned(setting, some, questions, 0, options)

    def outlier(*arguments):
        scores = plain(*arguments)
        scores.per_question[0] += 100.0
        return scores

    rng = np.random.default_rng(derive_seed(0, "learned") % 2**32)
    first = np.sort(rng.choice(24, round(0.9 * 24), replace=False))[0]
    monkeypatch.setattr(module, "one_step", outlier)
    after = learned(setting, some, questions, 0, options)
    assert after.value[first] == pytest.approx(before.value[first]) and not np.allclose(
        after.value, before.value
    )


def test_features_are_those_of_the_replies(engine, pairs):
    """Mean hidden states against a plain forward pass of one reply; log probabilities against the
    engine's."""
    some = pairs["exchange"][:3]
    table = features(engine, some)
    pair, width = some[1], engine.model.config.hidden_size
    states = []
    for reply in (pair.chosen_ids, pair.rejected_ids):
        hidden = engine.model.model(
            input_ids=torch.tensor([[*pair.prompt_ids, *reply]])
        ).last_hidden_state[0]
        states.append(hidden[len(pair.prompt_ids) :].mean(0).detach().numpy())
    assert table[1, :width] == pytest.approx(states[0] - states[1], abs=1e-3)
    assert table[1, width : width + 3].tolist() == [
        pair.q_chosen,
        pair.q_rejected,
        pair.q_chosen - pair.q_rejected,
    ]
    assert table[1, -1] == pytest.approx(
        sum(engine.logprobs([(pair.prompt_ids, pair.chosen_ids)])[0])
        - sum(engine.logprobs([(pair.prompt_ids, pair.rejected_ids)])[0]),
        abs=1e-3,
    )


# Group designs


def test_groups_are_halves_of_questions_and_of_clusters():
    questions, clusters = np.repeat(np.arange(10), 4), np.tile(np.arange(4), 10)
    member = draw_groups(6, questions, clusters, np.random.default_rng(0))
    assert member.shape == (6, 40) and (member.sum(1) == 20).all()
    for index, row in enumerate(member):
        labels = questions if index % 2 == 0 else clusters
        assert set(labels[row]).isdisjoint(labels[~row])


def test_clusters_are_those_of_the_directions():
    rng = np.random.default_rng(0)
    directions = np.eye(8)[np.repeat(np.arange(8), 5)]
    gradients = torch.tensor(
        directions * rng.uniform(0.1, 10, (40, 1)) + 0.01 * rng.normal(size=(40, 8))
    )
    found = gradient_clusters(gradients, 0)
    assert (
        all(len(set(found[start : start + 5])) == 1 for start in range(0, 40, 5))
        and len(set(found)) == 8
    )


@pytest.mark.parametrize("nll_weight", [0.0, 0.5])
def test_a_group_of_one_pair_takes_plain_gradient_steps(engine, pairs, nll_weight):
    """Against autograd through one adapter, several steps from zero."""
    some = pairs["exchange"][:2]
    options = GroupOptions(steps=3, batch=2, rate=0.5)
    setting = replace(setting_of(engine, 1.0, gradient_rows=3), loss=DPOLoss(0.1, nll_weight))
    found = train_groups(
        engine, some, np.eye(2, dtype=bool), setting, options, 5, np.random.default_rng(0)
    )
    stack = fresh_stack(engine, 1, 4, CONFIG.scaling, 5)
    for _ in range(3):
        leaves = [b.detach().requires_grad_() for _, b in stack.weights.values()]
        for (name, (a, _)), leaf in zip(list(stack.weights.items()), leaves, strict=True):
            stack.weights[name] = (a, leaf)
        index = torch.zeros(1, dtype=torch.long)
        policy = [
            engine.teacher_forced([(some[1].prompt_ids, ids)], stack, index).sum()
            for ids in (some[1].chosen_ids, some[1].rejected_ids)
        ]
        with torch.no_grad():
            base = [
                engine.teacher_forced([(some[1].prompt_ids, ids)]).sum()
                for ids in (some[1].chosen_ids, some[1].rejected_ids)
            ]
        loss = -torch.nn.functional.logsigmoid(
            0.1 * (policy[0] - base[0] - policy[1] + base[1])
        ) - nll_weight * policy[0] / len(some[1].chosen_ids)
        for (name, (a, b)), gradient in zip(
            list(stack.weights.items()), torch.autograd.grad(loss, leaves), strict=True
        ):
            stack.weights[name] = (a, (b - 0.5 * gradient).detach())
    for (_, b), (_, expected) in zip(found.weights.values(), stack.weights.values(), strict=True):
        assert torch.allclose(b[1], expected[0], atol=1e-5) and b[1].abs().max() > 0


def test_group_effects_come_down_to_the_pairs():
    """Planted effects of questions and of single pairs, seen through noisy group means only."""
    rng = np.random.default_rng(0)
    questions, clusters = np.repeat(np.arange(20), 5), rng.integers(0, 6, 100)
    true = np.repeat(rng.normal(size=20), 5) + 0.2 * rng.normal(size=100)
    member = draw_groups(80, questions, clusters, rng)
    changes = (member @ true)[:, None] / 50 + 0.3 * rng.normal(size=(80, 40))
    found = handed_down(member, changes, [questions, clusters])
    assert found.shape == (100, 40) and spearmanr(found.mean(1), true).statistic > 0.7
    shuffled = handed_down(member, changes[rng.permutation(80)], [questions, clusters])
    assert abs(spearmanr(shuffled.mean(1), true).statistic) < 0.35


# Truth


def planted_jobs():
    rng = np.random.default_rng(0)
    true, groups = rng.normal(size=60), [f"q{i // 3}" for i in range(60)]
    table = true[:, None] + 0.1 * rng.normal(size=(60, 10))
    family = ["own" if value > 0 else "other" for value in true]
    return true, [
        {
            "task": "exchange",
            "estimator": "one_step",
            "side": side,
            "table": table.tolist(),
            "question": groups,
            "family": family,
            "q": rng.random(60).tolist(),
        }
        for side in (0, 1)
    ]


def test_lds_is_one_for_the_truth_and_none_for_chance():
    rng = np.random.default_rng(1)
    true, jobs = planted_jobs()
    truths = []
    for index in range(40):
        kept = rng.permutation(60)[:30]
        truths.append(
            {
                "task": "exchange",
                "kind": "half",
                "index": index,
                "kept": kept.tolist(),
                "metric": (0.3 * true[kept].mean() + 0.01 * rng.normal(size=200)).tolist(),
            }
        )
    rows = {row["estimator"]: row for row in lds_rows(jobs, truths)}
    assert (
        rows["one_step"]["rho"] > 0.95
        and 0.9 < rows["ceiling"]["rho"] <= 1
        and abs(rows["q_value"]["rho"]) < 0.4
        and rows["one_step"]["n"] == 40
    )


def test_the_ceiling_is_what_a_perfect_score_reaches():
    """Halves of unequal size: the metric answers to the mean of the scores, seen through the noise
    of the questions."""
    rng, reached, told = np.random.default_rng(3), [], []
    for _ in range(20):
        true = rng.normal(size=60) - 0.5
        jobs = [
            {
                "task": "exchange",
                "estimator": "one_step",
                "side": side,
                "table": true[:, None].repeat(2, 1).tolist(),
                "question": list(range(60)),
                "q": true.tolist(),
            }
            for side in (0, 1)
        ]
        truths = []
        for index in range(60):
            kept = rng.permutation(60)[: rng.integers(20, 41)]
            truths.append(
                {
                    "task": "exchange",
                    "kind": "half",
                    "index": index,
                    "kept": kept.tolist(),
                    "metric": (true[kept].mean() + 2.5 * rng.normal(size=200)).tolist(),
                }
            )
        rows = {row["estimator"]: row for row in lds_rows(jobs, truths)}
        reached.append(rows["one_step"]["rho"])
        told.append(rows["ceiling"]["rho"])
    assert (
        np.mean(told) == pytest.approx(np.mean(reached), abs=0.06) and 0.4 < np.mean(reached) < 0.9
    )


def test_ties_do_not_look_like_agreement():
    rows = race_rows([{"task": "exchange", "table": np.zeros((20, 40)).tolist()}], 0.5, 10)
    assert all(row["alike"] == pytest.approx(0.5, abs=0.06) for row in rows)


def test_leaving_a_family_out_by_hand():
    true, jobs = planted_jobs()
    whole = np.full(100, 0.5)
    truths = [{"task": "exchange", "kind": "all", "metric": whole.tolist()}] + [
        {
            "task": "exchange",
            "kind": "without",
            "left_out": name,
            "metric": (whole - gain + 0.001 * np.arange(100) % 0.002).tolist(),
        }
        for name, gain in (("own", 0.1), ("other", -0.1))
    ]
    own, other = left_out_rows(jobs, truths)
    assert own["low"] > 0.09 and other["high"] < -0.09 and own["one_step"] > 0 > other["one_step"]
    assert own["pairs"] == int((true > 0).sum())


def test_the_lds_as_a_comparison_supports_nothing_where_the_metric_does_not_repeat():
    from dits_lib.suite.studies.influence_fidelity import lds_comparison

    rng = np.random.default_rng(2)
    true, jobs = planted_jobs()
    kept = [rng.permutation(60)[:30] for _ in range(40)]

    def found(signal, estimator, lower, upper):
        truths = [
            {
                "task": "exchange",
                "kind": "half",
                "kept": rows,
                "metric": signal * true[rows].mean() + 0.1 * rng.normal(size=200),
            }
            for rows in kept
        ]
        row = {r["estimator"]: r["rho"] for r in lds_rows(jobs, truths)}
        comparison = lds_comparison(jobs, truths, "exchange", estimator, lower, upper)
        assert comparison.estimate == pytest.approx(row[estimator]) and comparison.count == 40
        return comparison

    sure = found(1.0, "one_step", float("-inf"), 0.2)
    assert sure.reach > 0.8 and sure.verdict(0.95) == "contradicted"
    assert found(1.0, "q_value", -0.9, 0.9).verdict(0.95) == "supported"
    noise = found(0.0, "q_value", -0.9, 0.9)
    assert noise.reach < 0.5 and noise.verdict(0.95) == "not decided at this size"
