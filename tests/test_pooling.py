"""Several folders' evidence taken together, against closed forms and a simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from dits_lib.commands.claims import Seeds
from dits_lib.report.claims import NO_VALUE, SUPPORTED, Comparison, paired
from dits_lib.report.pooling import mean_effect, pooled
from dits_lib.report.verdicts import Evidence


def evidence(estimate, stderr=0.01, folder="a", **more):
    given = {"df": 9.0, "count": 10} | more
    return Evidence(folder, "03_x", Comparison("debate", "x minus y", estimate, stderr, **given))


def never(a, b):
    return False


def always(a, b):
    return True


def test_the_mean_of_equal_folders_has_the_error_of_a_mean():
    found = mean_effect([evidence(0.1), evidence(0.2), evidence(0.6)], never)
    assert found.estimate == pytest.approx(0.3) and found.count == 30
    assert found.stderr == pytest.approx(0.01 / math.sqrt(3))
    assert found.df == pytest.approx(27)  # three equal variances of nine degrees each


def test_every_seed_counts_alike():
    """Two folders of one process give the mean over all their seeds."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 0.1, 30)
    parts = [paired("debate", "x", part, 0 * part) for part in (values[:10], values[10:])]
    both = mean_effect([Evidence(str(i), "03_x", c) for i, c in enumerate(parts)], never)
    assert both.estimate == pytest.approx(values.mean()) and both.count == 30
    spread = [part.std(ddof=1) ** 2 * len(part) for part in (values[:10], values[10:])]
    assert both.stderr == pytest.approx(math.sqrt(sum(spread)) / 30)


def test_unequal_errors_have_the_degrees_of_freedom_of_welch():
    a, b = np.random.default_rng(1).normal(0, 1, 6), np.random.default_rng(2).normal(0, 5, 6)
    # The mean of two equally large folders is half the difference of one and the other's mirror.
    reference = stats.ttest_ind(a, -b, equal_var=False)
    parts = [paired("debate", "x", part, 0 * part) for part in (a, b)]
    found = mean_effect([Evidence(str(i), "03_x", c) for i, c in enumerate(parts)], never)
    assert found.df == pytest.approx(reference.df)
    assert found.estimate / found.stderr == pytest.approx(reference.statistic)


def test_the_same_seeds_again_are_no_further_evidence():
    found = mean_effect([evidence(0.1), evidence(0.1), evidence(0.1)], always)
    assert found.stderr == pytest.approx(0.01) and found.df == 9 and found.count == 10
    some = [evidence(0.1, folder=name) for name in ("a", "b", "c")]
    chain = mean_effect(some, lambda x, y: {x.results, y.results} in ({"a", "b"}, {"b", "c"}))
    assert chain.stderr == pytest.approx(0.01)


def test_errors_of_shared_questions_are_added_apart():
    parts = [evidence(0.1, shared=0.03, shared_df=20.0), evidence(0.1, shared=0.0)]
    found = mean_effect(parts, never)
    assert found.shared == pytest.approx(0.015) and found.shared_df == pytest.approx(20)


def test_correlations_are_added_on_fishers_scale():
    given = {"scale": "correlation", "lower": -math.inf, "upper": 0.2}
    found = mean_effect([evidence(0.1, **given), evidence(0.7, reach=0.5, **given)], never)
    assert found.estimate == pytest.approx(math.tanh((math.atanh(0.1) + math.atanh(0.7)) / 2))
    assert found.reach == 0.75


def test_different_claims_are_not_added():
    with pytest.raises(ValueError, match="x minus y: different claims"):
        mean_effect([evidence(0.1), evidence(0.1, lower=0.05)], never)


@pytest.mark.parametrize("effects", [(0.0, 0.0, 0.0), (0.2, 0.0, -0.1)])
def test_the_interval_covers_the_mean_of_the_folders_effects(effects):
    """Whether these are alike or not, with few seeds and unequal errors; 2,000 simulated pages."""
    rng, counts, sigmas = np.random.default_rng(3), (4, 10, 20), (0.3, 0.1, 0.2)
    true = sum(e * n for e, n in zip(effects, counts, strict=True)) / sum(counts)
    covered = 0
    for _ in range(2000):
        parts = []
        for effect, n, sigma in zip(effects, counts, sigmas, strict=True):
            drawn = rng.normal(effect, sigma, n)
            error = drawn.std(ddof=1) / math.sqrt(n)
            parts.append(evidence(drawn.mean(), error, df=n - 1.0, count=n))
        bounds = mean_effect(parts, never).interval(0.95)
        covered += bounds["low"] <= true <= bounds["high"]
    assert 0.935 <= covered / 2000 <= 0.975


def test_folders_of_another_model_and_without_a_value_stay_apart():
    none = evidence(math.nan, math.nan, "c", df=math.nan)
    found = {"2": [evidence(0.1), evidence(0.3, folder="b"), none, evidence(0.9, folder="d")]}
    models = {"a": "x", "b": "x", "c": "x", "d": "y"}
    first, second = pooled(found, models, never)["2"]
    assert first.pooled and first.results == "the mean of 2 folders"
    assert first.comparison.estimate == pytest.approx(0.2)
    assert first.comparison.verdict(0.95) == SUPPORTED
    assert not second.pooled and second.results == "d"
    alone = pooled({"2": [none]}, models, never)["2"]
    assert [e.comparison.verdict(0.95) for e in alone] == [NO_VALUE]


def test_seeds_are_those_that_the_parameters_give_a_notebook():
    def at(folder, notebook):
        return Evidence(folder, notebook, evidence(0.1).comparison)

    seeds = Seeds(
        {
            "a": {"model": 1, "seed": 500, "ablation": {"seeds": 20}},
            "b": {"model": 1, "seed": 510, "ablation": {"seeds": 5}, "budget": {"seeds": 30}},
            "c": {"model": 2, "seed": 510, "ablation": {"seeds": 5}},
            "d": {"model": 1, "fidelity": {"first_use_seed": 519, "use_seeds": 2}},
        }
    )
    assert seeds.are_shared(at("a", "03_selection_ablation"), at("b", "03_selection_ablation"))
    assert not seeds.are_shared(at("a", "03_selection_ablation"), at("c", "03_selection_ablation"))
    assert not seeds.are_shared(at("a", "02_scoring"), at("b", "04_budget_scaling"))
    assert seeds.are_shared(at("a", "03_selection_ablation"), at("d", "06_influence_fidelity"))
    assert not seeds.are_shared(at("a", "02_scoring"), at("d", "06_influence_fidelity"))
