"""Several folders' evidence taken together, against closed forms and a simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from dits_lib.commands.claims import Made
from dits_lib.report.claims import NO_VALUE, SUPPORTED, Comparison, paired
from dits_lib.report.pooling import mean_effect, pooled, speaking
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


def test_of_folders_that_share_seeds_the_largest_speaks():
    parts = [evidence(0.1, folder="a", count=12), evidence(0.3, folder="b", count=20)]
    parts += [evidence(0.5, folder="c", count=20), evidence(0.9, folder="d", count=5)]
    among = {"a", "b", "c"}
    found = speaking(parts, lambda x, y: {x.results, y.results} <= among)
    assert [e.results for e in found] == ["b", "c", "d"]
    both = mean_effect(found, lambda x, y: {x.results, y.results} <= among)
    assert both.count == 25 and both.estimate == pytest.approx((20 * 0.4 + 5 * 0.9) / 25)
    assert both.stderr == pytest.approx(0.01 * math.hypot(20, 5) / 25)


def test_errors_of_shared_questions_do_not_shrink():
    """Folders on one data set ask the same questions, whatever their seeds."""
    parts = [evidence(0.1, shared=0.03, shared_df=20.0), evidence(0.1, shared=0.03)]
    found = mean_effect(parts, never)
    assert found.shared == pytest.approx(0.03) and found.shared_df == 20


def test_correlations_are_added_on_fishers_scale():
    given = {"scale": "correlation", "lower": -math.inf, "upper": 0.2}
    found = mean_effect([evidence(0.1, **given), evidence(0.7, reach=0.5, **given)], never)
    assert found.estimate == pytest.approx(math.tanh((math.atanh(0.1) + math.atanh(0.7)) / 2))
    assert found.reach == 0.75


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


def test_what_cannot_be_pooled_stays_apart():
    none = evidence(math.nan, math.nan, "c", df=math.nan)
    flat = evidence(0.7, 0.0, "e")
    other = evidence(0.5, folder="f", lower=0.05)
    found = {"2": [evidence(0.1), evidence(0.3, folder="b"), none, flat, other]}
    found["2"].append(evidence(0.9, folder="d"))
    first, bound, second = pooled(found, lambda e: "y" if e.results == "d" else "", never)["2"]
    assert first.pooled and first.results == "the mean of 2 folders"
    assert first.comparison.estimate == pytest.approx(0.2)
    assert first.comparison.verdict(0.95) == SUPPORTED
    assert not bound.pooled and bound.results == "f"
    assert not second.pooled and second.results == "d"
    alone = pooled({"2": [none]}, lambda e: "", never)["2"]
    assert [e.comparison.verdict(0.95) for e in alone] == [NO_VALUE]
    named = pooled({"2": found["2"][:2]}, lambda e: "qwen, arc_challenge", never)["2"]
    assert named[0].results == "the mean of 2 folders (qwen, arc_challenge)"
    unknown = mean_effect([evidence(0.1, count=0), evidence(0.3)], never)
    assert unknown.count == 0 and math.isnan(unknown.count_needed())


def test_seeds_and_worlds_are_those_that_the_parameters_give_a_notebook():
    def at(folder, notebook, name="x", task="debate"):
        return Evidence(folder, notebook, Comparison(task, name, 0.1, 0.01, 9.0))

    micro, data = {"path": "models/micro"}, {"exchange": "micro", "debate": "micro"}
    made = Made(
        {
            "a": {"model": micro, "data": data, "seed": 500, "ablation": {"seeds": 20}},
            "b": {"model": micro | {"device": "cuda"}, "seed": 510, "budget": {"seeds": 30}},
            "c": {"model": {"path": "m/qwen"}, "data": {"debate": "arc"}, "seed": 510},
            "d": {"model": micro, "fidelity": {"first_use_seed": 519, "use_seeds": 2}},
        }
    )
    worlds = [made.world(at(name, "03_selection_ablation")) for name in "abcd"]
    assert worlds == ["", "", "qwen, arc", ""]
    deep = at("d", "08_deep_search", task="deep_search")
    made.params["d"]["web"] = {"model": "models/micro-web", "site": "live"}
    assert made.world(deep) == "live"
    share = made.share_seeds
    assert share(at("a", "03_selection_ablation"), at("b", "04_budget_scaling"))
    assert not share(at("a", "03_selection_ablation"), at("c", "03_selection_ablation"))
    assert not share(at("a", "02_scoring"), at("b", "04_budget_scaling"))
    assert share(at("a", "03_selection_ablation"), at("d", "06_influence_fidelity"))
    of_halves = at("d", "06_influence_fidelity", "x of a half with y (LDS)")
    assert not share(at("a", "03_selection_ablation"), of_halves)
