"""Comparisons, verdicts, their intervals and their power; the pages that show them."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dits_lib.commands.claims import Made, claims_page
from dits_lib.report import (
    Comparison,
    Report,
    correlation,
    joint_level,
    mean_correlation,
    paired,
)
from dits_lib.report.claims import (
    CONTRADICTED,
    NO_VALUE,
    OPEN,
    SUPPORTED,
    by_task,
    claim_text,
    together,
)
from dits_lib.report.index import read_index
from dits_lib.report.render import PACKED, render_readme
from dits_lib.report.stats import paired_effect, power_at
from dits_lib.report.verdicts import Evidence
from dits_lib.settings import ROOT
from dits_lib.settings.files import FileError

NAN, INF = math.nan, math.inf


def effect(estimate, stderr=0.01, df=4.0, **rest):
    return Comparison("exchange", "a minus b", estimate, stderr, df, **rest)


# Comparisons


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_intervals_are_those_of_the_paired_t_test(level):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, 30))
    found = paired("debate", "a minus b", list(first), list(second))
    reference = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval(level)
    assert found.interval(level) == pytest.approx({"low": reference.low, "high": reference.high})
    plain = paired("debate", "a minus b", list(first.mean(1)), list(second.mean(1)))
    assert plain.interval(level) == pytest.approx(found.interval(level))
    assert found.count == 6 and found.df == 5


def test_seeds_may_have_different_numbers_of_questions():
    found = paired("debate", "x", [[1.0, 0.0], [1.0]], [[0.0, 0.0], [0.0]])
    assert found.estimate == 0.75


def test_intervals_of_a_correlation_are_made_on_fishers_scale():
    found = effect(0.5, 0.1, INF, scale="correlation").interval(0.95)
    z = 1.959963984540054
    assert found["low"] == pytest.approx(math.tanh(math.atanh(0.5) - z * 0.1))
    assert found["high"] == pytest.approx(math.tanh(math.atanh(0.5) + z * 0.1))


@pytest.mark.parametrize(
    ("estimate", "bounds", "expected"),
    [
        (0.1, {}, SUPPORTED),
        (-0.1, {}, CONTRADICTED),
        (0.01, {}, OPEN),
        (0.1, {"lower": 0.2}, CONTRADICTED),
        (0.1, {"lower": -0.2, "upper": 0.2}, SUPPORTED),
        (0.3, {"lower": -0.2, "upper": 0.2}, CONTRADICTED),
        (-0.3, {"lower": -0.2, "upper": 0.2}, CONTRADICTED),
        (0.19, {"lower": -0.2, "upper": 0.2}, OPEN),
        (-0.5, {"lower": -INF, "upper": 0.2}, SUPPORTED),
        (0.3, {"lower": -INF, "upper": 0.2}, CONTRADICTED),
        (NAN, {}, NO_VALUE),
    ],
)
def test_a_verdict_follows_from_the_interval_and_what_is_claimed(estimate, bounds, expected):
    assert effect(estimate, **bounds).verdict(0.95) == expected


def test_noise_bars_support_alone():
    """It only shrinks a correlation: one that is surely above 0.2 contradicts "below 0.2"."""
    kind = {"scale": "correlation", "lower": -0.2, "upper": 0.2, "reach": 0.4}
    assert effect(0.0, 0.05, INF, **kind).verdict(0.95) == OPEN
    assert effect(0.416, 0.09, INF, **kind).verdict(0.95) == CONTRADICTED
    assert effect(0.0, 0.05, INF, **(kind | {"reach": 1.0})).verdict(0.95) == SUPPORTED
    # 0.05 of Fisher's z: an interval of +-0.098, so that 0.6 of 0.2 is enough and 0.4 is not.
    assert effect(0.0, 0.05, INF, **(kind | {"reach": 0.6})).verdict(0.95) == SUPPORTED
    # At a stricter level the interval is wider, and the same noise bars the claim.
    joint = effect(0.0, 0.05, INF, **(kind | {"reach": 0.6}))
    assert joint.verdict(0.99) == OPEN and joint.barred(0.99).startswith("noise leaves 0.60")
    assert (
        joint.barred(0.95) == ""
        and effect(0.0, 0.2, INF, **(kind | {"reach": 1.0})).barred(0.95) == ""
    )
    assert effect(0.0, 0.05, INF, **(kind | {"reach": 0.0})).verdict(0.95) == OPEN


def test_without_a_value_there_is_no_verdict():
    nothing = [
        effect(NAN),
        effect(0.1, NAN),
        effect(0.1, 0.1, NAN),
        effect(1.0, 0.1, scale="correlation"),
        paired("exchange", "one seed", [[0.1, 0.2]], [[0.0, 0.0]]),
        paired("exchange", "no seed", [], []),
        paired("exchange", "no questions", [[], []], [[], []]),
        paired("exchange", "a run lacks it", [0.1, NAN, 0.2], [0.0, 0.0, 0.0]),
        correlation("exchange", "three", [1, 2, 3], [1, 3, 2]),
        correlation("exchange", "no spread", [1, 1, 1, 1, 1], [1, 3, 2, 5, 4]),
        correlation("exchange", "NaN", [1, NAN, 3, 4, 5], [1, 3, 2, 5, 4]),
        correlation("exchange", "one group", range(9), [3, 1, 2, 5, 4, 8, 7, 6, 9], groups=[0] * 9),
    ]
    for found in nothing:
        assert found.verdict(0.95) == NO_VALUE and found.text(0.95) == "no value", found.name
        assert math.isnan(found.detectable()) and math.isnan(found.count_needed()), found.name
        assert all(map(math.isnan, found.interval(0.95).values())), found.name


def test_runs_without_any_spread_decide_nothing():
    same = paired("exchange", "x", [0.6, 0.6, 0.6], [0.5, 0.5, 0.5])
    assert same.verdict(0.95) == OPEN and math.isnan(same.detectable())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": "log"}, "scale 'log'; allowed: linear, correlation"),
        ({"lower": 0.2, "upper": 0.1}, "lower 0.2 must be below upper 0.1"),
        ({"lower": -INF}, "lower or upper must be finite"),
        ({"stderr": -0.1}, "must be positive"),
        ({"df": 0.0}, "must be positive"),
        ({"shared": -1.0}, "must be positive"),
    ],
)
def test_a_comparison_checks_itself(wrong, message):
    with pytest.raises(ValueError, match=message):
        effect(0.1, **wrong)


def test_sides_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        paired("exchange", "x", [[1, 2], [3]], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="different shapes"):
        paired("exchange", "x", [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one id for each value"):
        paired("exchange", "x", [[1, 2], [3, 4]], [[0, 0], [0, 0]], questions=[[1, 2], [1]])
    with pytest.raises(ValueError, match="5, 4 and 5 values"):
        correlation("exchange", "x", range(5), range(4))


# Power


def test_power_is_that_of_the_t_test_and_of_a_simulation():
    """Against the noncentral t distribution, and against 20,000 runs of ten seeds."""
    df, stderr, distance = 4, 0.02, 0.07
    bound = stats.t.ppf(0.975, df)
    exact = stats.nct.sf(bound, df, distance / stderr)
    assert power_at(distance, 0.95, stderr, df) == pytest.approx(exact, abs=2e-3)
    rng = np.random.default_rng(0)
    runs = rng.normal(distance, stderr * np.sqrt(10), size=(20_000, 10))
    seen = runs.mean(1) > stats.t.ppf(0.995, 9) * runs.std(1, ddof=1) / np.sqrt(10)
    assert power_at(distance, 0.99, stderr, 9) == pytest.approx(seen.mean(), abs=0.01)
    normal = stats.norm.cdf(distance / stderr - stats.norm.ppf(0.975))
    assert power_at(distance, 0.95, stderr, INF) == pytest.approx(normal)


def test_a_detectable_effect_is_seen_in_four_runs_of_five():
    """Brute force: draw runs with that true effect, and count the supported ones."""
    found = effect(0.0, 0.02, 4.0)
    size = found.detectable(0.8, 0.95)
    rng = np.random.default_rng(1)
    runs = rng.normal(size, 0.02 * np.sqrt(5), size=(4000, 5))
    verdicts = [paired("exchange", "x", run, np.zeros(5)).verdict(0.95) for run in runs]
    assert np.mean([v == SUPPORTED for v in verdicts]) == pytest.approx(0.8, abs=0.02)


def test_between_two_bounds_what_lies_beyond_them_is_detectable():
    found = effect(0.0, 0.1, INF, scale="correlation", lower=-0.2, upper=0.2)
    beyond = math.tanh(math.atanh(0.2) + (1.959964 + 0.841621) * 0.1) - 0.2
    assert found.detectable() == pytest.approx(beyond, abs=1e-4)
    true = math.atanh(0.2 + found.detectable())
    seen = np.tanh(true + 0.1 * np.random.default_rng(0).normal(size=4000))
    decided = [replace(found, estimate=float(rho)).verdict(0.95) for rho in seen]
    assert np.mean([v == CONTRADICTED for v in decided]) == pytest.approx(0.8, abs=0.02)


def test_a_detectable_correlation_lies_beyond_its_bound():
    kind = {"scale": "correlation", "lower": -0.2, "upper": INF}
    size = effect(0.0, 0.1, INF, **kind).detectable()
    far = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.1
    assert size == pytest.approx(math.tanh(math.atanh(-0.2) + far) + 0.2, abs=1e-6)
    below = effect(0.0, 0.1, INF, scale="correlation", lower=-INF, upper=0.2).detectable()
    assert below == pytest.approx(size, abs=1e-6)


def test_a_correlation_that_noise_leaves_too_little_of_is_not_detectable():
    kind = {"scale": "correlation", "lower": -INF, "upper": 0.2}
    clear, faint = (effect(0.0, 0.1, INF, **kind, reach=reach) for reach in (1.0, 0.5))
    # Half of a correlation is left: it must lie twice as far below half the bound.
    far = np.arctanh(0.2) - np.arctanh(0.2 - clear.detectable())
    assert 0.2 - faint.detectable() == pytest.approx(2 * np.tanh(np.arctanh(0.1) - far))
    assert math.isnan(effect(0.0, 0.1, INF, **kind, reach=0.2).detectable())


def test_seeds_needed_are_those_at_which_power_is_reached():
    found = effect(0.03, 0.02, 4.0, count=5)
    count = found.count_needed(0.8, 0.95)
    spread = 0.02 * math.sqrt(5)

    def power(n):
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, 0.03 / (spread / math.sqrt(n)))

    assert power(count - 1) < 0.8 <= power(count)
    assert effect(0.1, 0.001, 4.0, count=5).count_needed() <= 5
    assert effect(-0.03, 0.02, 4.0, count=5).count_needed() == count  # whichever way
    assert math.isinf(effect(0.0, 0.02, 4.0, count=5).count_needed())
    assert math.isnan(effect(0.03, 0.02, 4.0).count_needed())
    shared = effect(0.03, 0.02, 4.0, count=5, shared=0.02, shared_df=99.0)
    assert math.isinf(shared.count_needed())  # more questions are wanted, not more seeds
    within = {"lower": -0.2, "upper": 0.2, "reach": 0.1, "count": 5}
    assert math.isinf(effect(0.03, 0.02, 4.0, **within).count_needed())


# Seeds that share questions


def test_shared_questions_are_those_of_a_two_way_layout():
    """All seeds ask the same questions: the error is that of the crossed variance components."""
    rng = np.random.default_rng(0)
    seeds, count = 4, 30
    table = rng.normal(size=(seeds, count)) + 2 * rng.normal(size=count)
    found = paired_effect(table, np.zeros_like(table), [range(count)] * seeds)
    rows, columns = table.mean(1), table.mean(0)
    left = table - rows[:, None] - columns[None] + table.mean()
    error = (left**2).sum() / ((seeds - 1) * (count - 1))
    of_seeds = count * rows.var(ddof=1)
    of_questions = seeds * columns.var(ddof=1)
    whole = (of_seeds + of_questions - error) / (seeds * count)
    assert found["stderr"] ** 2 + found["shared"] ** 2 == pytest.approx(whole)
    assert found["df"] == seeds - 1 and found["shared_df"] == count - 1


def test_questions_of_one_seed_alone_and_repeats_within_a_seed_add_nothing():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(3, 10))
    apart = [[f"{seed} {i // 2}" for i in range(10)] for seed in range(3)]
    found = paired_effect(table, np.zeros_like(table), apart)
    assert found == paired_effect(table, np.zeros_like(table))
    assert found["shared"] == 0


def coverage(seeds, count, pool, of_seeds, of_questions, runs, ids=True):
    """Share of runs whose interval of 95 % holds the true effect, 0. The variance of one answer is
    1; seeds draw their `count` questions from one pool of so many, or (None) each from its own."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(runs):
        effects = rng.normal(size=(seeds, count)) + rng.normal(0, np.sqrt(of_seeds), (seeds, 1))
        asked = None
        if pool:
            asked = [rng.permutation(pool)[:count] for _ in range(seeds)]
            effects += rng.normal(0, np.sqrt(of_questions), pool)[np.array(asked)]
        else:
            effects += rng.normal(0, np.sqrt(of_questions), (seeds, count))
        found = paired("debate", "x", effects, np.zeros_like(effects), asked if ids else None)
        interval = found.interval(0.95)
        hits += interval["low"] < 0 < interval["high"]
    return hits / runs


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("of_seeds", [0.0, 0.02, 0.2])
def test_intervals_hold_their_level(seeds, of_seeds):
    """Seeds with questions of their own, at three ratios of the variances; the whole table is
    benchmarks/intervals.md. The margin is three standard errors of 2000 runs."""
    found = coverage(seeds, 50, None, of_seeds, 0.5, 2000)
    assert found == pytest.approx(0.95, abs=0.015)


def test_no_interval_that_holds_its_level_is_narrower_than_t():
    """benchmarks/intervals.md: where the coverage of mean +- h(r) at the variance 1 + t^2 / d does
    not change to first order, neither does the mean of h at the variance 1; and concave coverage
    makes of it a bound. Here on a grid of r, by differences, for five seeds."""
    d, seeds = 4, 5
    t = stats.t.ppf(0.975, d)
    r = np.linspace(0.05, 8, 60)

    def coverage_at(h, variance):
        density = stats.chi2.pdf(r * d / variance, d) * d / variance
        return density * (2 * stats.norm.cdf(h * np.sqrt(seeds / variance)) - 1)

    usual = t * np.sqrt(r / seeds)
    slope = coverage_at(usual + 1e-5, 1 + t**2 / d) - coverage_at(usual - 1e-5, 1 + t**2 / d)
    ratio = slope / (stats.chi2.pdf(r * d, d) * d)
    assert np.ptp(ratio) < 1e-4 * ratio.mean()


@pytest.mark.parametrize(("seeds", "pool"), [(3, 50), (5, 50), (5, 100), (10, 50)])
def test_intervals_hold_their_level_where_seeds_share_questions(seeds, pool):
    """Never less than the level, and with few seeds a little more; without the ids they would lie
    far below it where all is shared."""
    runs = 2500 // seeds
    assert 0.93 < coverage(seeds, 50, pool, 0.0, 1.0, runs) < 0.99
    if pool == 50:
        assert coverage(seeds, 50, pool, 0.0, 1.0, runs, ids=False) < 0.89


def test_correlations_are_spearmans_and_hold_their_level():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    found = correlation("debate", "x", a, b)
    rho = stats.spearmanr(a, b).statistic
    assert found.estimate == pytest.approx(rho)
    assert found.stderr == pytest.approx(math.sqrt((1 + rho**2 / 2) / 27))
    hits = 0
    for _ in range(1000):
        a, b = rng.normal(size=(2, 20))
        interval = correlation("debate", "x", a, b).interval(0.95)
        hits += interval["low"] < 0 < interval["high"]
    assert hits / 1000 == pytest.approx(0.95, abs=0.018)


def test_pairs_of_one_question_count_as_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    alone = correlation("debate", "x", a, b)
    fivefold = correlation("debate", "x", np.repeat(a, 5), np.repeat(b, 5), np.repeat(range(30), 5))
    assert fivefold.stderr == pytest.approx(alone.stderr, rel=0.25)
    assert fivefold.count == 30 and fivefold.df == 29
    assert correlation("debate", "x", np.repeat(a, 5), np.repeat(b, 5)).stderr < alone.stderr / 2


# Claims


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([SUPPORTED, SUPPORTED], SUPPORTED),
        ([SUPPORTED, OPEN], OPEN),
        ([SUPPORTED, NO_VALUE], OPEN),
        ([OPEN, CONTRADICTED], CONTRADICTED),
        ([SUPPORTED, CONTRADICTED], CONTRADICTED),
        ([NO_VALUE, CONTRADICTED], CONTRADICTED),
        ([NO_VALUE], NO_VALUE),
        ([], NO_VALUE),
    ],
)
def test_verdicts_come_together(verdicts, expected):
    assert together(verdicts) == expected


def test_a_task_has_a_verdict_of_its_own():
    comparisons = [effect(0.1), effect(0.2), Comparison("debate", "c", -0.1, 0.01, 4.0)]
    assert by_task(comparisons, 0.95) == {"exchange": SUPPORTED, "debate": CONTRADICTED}


def test_the_text_of_a_claim_names_verdicts_joint_intervals_and_power():
    comparisons = [effect(0.03), effect(0.02, reach=0.5), effect(NAN)]
    text = claim_text("2", comparisons, "A note.")
    level = joint_level(3)
    assert comparisons[0].verdict(0.95) == SUPPORTED and comparisons[0].verdict(level) == OPEN
    found = comparisons[0].interval(level)
    assert f"+0.030 [{found['low']:+.3f}, {found['high']:+.3f}], {OPEN}; detectable" in text
    assert f"{comparisons[0].detectable(level=level):.3f}" in text and "; noise leaves 0.50" in text
    assert text.endswith("A note.") and "over all: not decided at this size" in text
    assert text.count("no value") == 1
    assert claim_text("2", []).endswith("over all: no value")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results, and a function that opens a notebook's report in one of its folders."""

    def report(folder, notebook):
        place = tmp_path / folder
        if not place.exists():
            (place / "tables").mkdir(parents=True)
            for name in ("params.yaml", "versions.json"):
                shutil.copy(ROOT / "results" / "micro" / name, place)
        monkeypatch.setattr("dits_lib.report.book.report_folder", lambda: place)
        return Report(folder, notebook)

    return tmp_path, report


def test_what_is_stored_comes_back(results):
    folder, report = results
    comparisons = [
        effect(0.1, 0.02, 3.7, count=5, shared=0.01, shared_df=99.0),
        effect(0.1, 0.02, INF, scale="correlation", lower=-INF, upper=0.2, reach=0.7),
        effect(NAN, NAN, NAN),
    ]
    report("micro", "03_x").claim("2", comparisons, "A note.")
    file = folder / "micro" / "index" / "03_x.json"
    json.loads(file.read_text(), parse_constant=pytest.fail)  # neither NaN nor Infinity
    claim = read_index(file).claims[0]
    back = [stored.comparison() for stored in claim.comparisons]
    assert back[:2] == comparisons[:2] and claim.note == "A note."
    assert back[2].verdict(0.95) == NO_VALUE and math.isnan(back[2].estimate)


def test_a_claim_that_is_not_the_papers_is_refused(results):
    with pytest.raises(ValueError, match="no claim '12'; allowed: 1a, 1b"):
        results[1]("micro", "03_x").claim("12", [effect(0.1)])


@pytest.mark.parametrize(
    "change", [{"stderr": -1.0}, {"df": 0.0}, {"scale": "log"}, {"lower": 3.0, "upper": 1.0}]
)
def test_a_damaged_comparison_gives_one_line(results, change):
    folder, report = results
    report("micro", "03_x").claim("2", [effect(0.1)])
    file = folder / "micro" / "index" / "03_x.json"
    body = json.loads(file.read_text())
    body["claims"][0]["comparisons"][0] |= change
    file.write_text(json.dumps(body))
    with pytest.raises(FileError, match=r"03_x\.json: damaged .*run 03_x again") as error:
        read_index(file)
    assert "\n" not in str(error.value)


def earlier(report, verdict, evidence):
    """Write a claim as earlier versions did."""
    report.claims.append({"number": "2", "verdict": verdict, "evidence": evidence})
    report.used([])


def readme(folder):
    return render_readme(folder, pd.DataFrame({"seconds": [1.0]}), {}, ["exchange", "debate"])[0]


def rows_of(text, start):
    """Cells of the table rows that begin with `| start`."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_joins_the_notebooks_of_one_claim(results):
    """Two notebooks on one claim: each decides alone, and together their intervals are wider."""
    folder, report = results
    own = [effect(0.029, count=5), Comparison("debate", "c minus d", -0.2, 0.01, 4.0, count=5)]
    deep = Comparison("deep_search", "e minus f", 0.5, 0.01, INF, count=3)
    report("micro", "03_x").claim("2", own)
    report("micro", "05_x").claim("9", [], "deep search is not part of this profile")
    last = report("micro", "08_x")
    last.claim("2", [deep, effect(0.0)])
    last.claim("9", [deep], "Not at 32B.")
    text = readme(folder / "micro")
    level = joint_level(4)
    assert own[0].verdict(0.95) == SUPPORTED and own[0].verdict(level) == OPEN
    summary = rows_of(text, "2. ")
    assert summary[0][1:5] == [f"**{CONTRADICTED}**", OPEN, CONTRADICTED, SUPPORTED]
    sizes = sorted(c.detectable(level=level) for c in (*own, deep, effect(0.0)))
    assert summary[0][5] == f"{sizes[0]:.3f} to {sizes[-1]:.3f}"
    found = own[0].interval(level)
    row = next(row for row in rows_of(text, "[03_x]") if row[2] == "a minus b")
    assert row[:6] == [
        "[03_x](#03_x)",
        "exchange",
        "a minus b",
        "> 0",
        "+0.029",
        f"[{found['low']:+.3f}, {found['high']:+.3f}]",
    ]
    assert row[6] == f"{own[0].detectable(level=level):.3f}" and row[7] == "5"
    assert row[8] == f"{own[0].count_needed(level=level):.0f}" and row[9] == OPEN
    assert "one of 98.75 %; the 4 hold together" in text
    assert "not part of this profile" not in text and "\n08_x: Not at 32B.\n" in text
    assert len(rows_of(text, "9. ")) == 1 and text.count("<b>Claim 9") == 1
    order = [text.index(part) for part in ("finds them", "<b>Claim 2", "## 03_x", "## Versions")]
    assert order == sorted(order)
    assert "another machine" not in text
    versions = folder / "micro" / "versions.json"
    versions.write_text(json.dumps(json.loads(versions.read_text()) | {PACKED: "3"}))
    assert "these; 3 models, and most of what" in readme(folder / "micro")


def test_a_claim_without_evidence_says_why(results):
    folder, report = results
    report("micro", "05_x").claim("9", [], "deep search is not part of this profile")
    text = readme(folder / "micro")
    assert "<b>Claim 9" in text and "deep search is not part of this profile" in text
    assert SUPPORTED not in text


def test_the_page_over_all_results_joins_them(results):
    folder, report = results
    models = {"a": "x", "b": "x", "c": "y"}
    report("a", "03_x").claim("2", [effect(0.029, count=5)])
    report("b", "03_x").claim("2", [effect(0.2, count=5)])
    report("c", "03_x").claim("2", [effect(0.5, count=5)])
    for number, (name, model) in enumerate(models.items()):
        lines = f"profile: {name}", f"seed: {number}", f"model: {{path: {model}}}"
        text = "\n".join([*lines, f"dpo: {{steps: {number}}}"])
        (folder / name / "params.yaml").write_text(text)
    report("smoke", "03_x").claim("2", [effect(-0.5)])
    earlier(report("old", "03_x"), SUPPORTED, "exchange: +0.1 [0.0, 0.2]")
    report("silent", "06_x").used([])
    text = claims_page(folder)
    rows = rows_of(text, "2")
    assert [row[1:3] for row in rows] == [
        ["all together", f"**{SUPPORTED}**"],
        ["a", f"**{SUPPORTED}**"],
        ["b", f"**{SUPPORTED}**"],
        ["c", f"**{SUPPORTED}**"],
    ]
    mean, *single = (row for row in rows_of(text, "") if len(row) == 11 and row[3] == "a minus b")
    assert mean[:2] == ["the mean of 2 folders (x)", "03_x"] and mean[5] == "+0.115"
    found = effect(0.029).interval(0.95)
    shown = [row for row in single if row[0] == "a"]
    assert shown[-1][6] == f"[{found['low']:+.3f}, {found['high']:+.3f}]"
    assert "the 2 hold together" in text
    assert "no verdict here: [old](old/README.md)." in text
    assert "Without evidence on a claim: [silent](silent/README.md)." in text
    assert "smoke" not in text


def test_of_one_comparison_by_one_method_the_most_seeds_speak(results):
    """Whatever they found; another model is another method, and another comparison is kept."""
    folder, report = results
    for name, count, model in (("a", 5, "x"), ("b", 20, "x"), ("c", 3, "y"), ("d", 4, "x")):
        report(name, "03_x").claim("2", [effect(0.1 * count, count=count)])
        (folder / name / "params.yaml").write_text(f"profile: {name}\nmodel: {{path: {model}}}\n")
    report("d", "04_x").claim("2", [effect(0.01, count=4)])
    text = claims_page(folder)
    shown = {(row[0], row[1]) for row in rows_of(text, "") if row[1].startswith("[0")}
    assert shown == {
        ("b", "[03_x](b/README.md#03_x)"),
        ("c", "[03_x](c/README.md#03_x)"),
        ("d", "[04_x](d/README.md#04_x)"),
    }
    assert "the 2 hold together" in text  # the means of models x and y
    assert "another folder holds with more seeds: [a](a/README.md)." in text


def test_results_of_an_earlier_version_are_shown_as_they_were_written(results):
    folder, report = results
    earlier(report("micro", "03_x"), OPEN, "exchange: +0.1 [-0.1, 0.3]")
    text = readme(folder / "micro")
    assert "as an earlier version found them" in text and "exchange: +0.1 [-0.1, 0.3]" in text


def test_the_committed_results_can_be_read():
    text = claims_page(ROOT / "results")
    assert text.startswith("# The paper's claims, over all results")
    for folder in (path.parent for path in (ROOT / "results").glob("*/index")):
        assert f"{folder.name}" in text


def test_the_mean_correlation_of_seeds_is_one_on_fishers_scale():
    found = mean_correlation("debate", "x", [0.1, NAN, 0.5, 0.3])
    z = np.arctanh([0.1, 0.5, 0.3])
    reference = stats.ttest_1samp(z, 0).confidence_interval(0.95)
    assert found.estimate == pytest.approx(math.tanh(z.mean())) and found.count == 3
    expected = {"low": math.tanh(reference.low), "high": math.tanh(reference.high)}
    assert found.interval(0.95) == pytest.approx(expected)
    assert mean_correlation("debate", "x", [0.1, NAN]).verdict(0.95) == NO_VALUE


def test_the_command_writes_the_page_or_names_the_damaged_file(results, monkeypatch, capsys):
    import dits_lib.commands.claims as command

    folder, report = results
    monkeypatch.setattr(command, "OUTPUT", folder)
    report("results/a", "03_x").claim("2", [effect(0.1)])
    assert command.main([]) == 0
    assert (folder / "results" / "README.md").read_text() == claims_page(folder / "results")
    (folder / "results" / "a" / "index" / "03_x.json").write_text("{")
    assert command.main([]) == 2
    said = capsys.readouterr().err.strip()
    assert "03_x.json: damaged" in said and "\n" not in said


def test_a_method_is_every_setting_but_how_often():
    """A setting that is off is none: versions that did not have it yet wrote nothing."""
    older = {"influence": {"rank": 8}, "ablation": {"seeds": 3}, "budget": {"validation": [5, 8]}}
    newer = older | {"influence": {"rank": 8, "target_repeatable": None}, "ablation": {"seeds": 20}}
    other = older | {"influence": {"rank": 8, "target_repeatable": 0.5}}
    wider = older | {"budget": {"validation": [5, 20], "seeds": 30}}
    made = Made({"older": older, "newer": newer, "other": other, "wider": wider})

    def method(folder, notebook="03_selection_ablation"):
        return made.method(Evidence(folder, notebook, effect(0.1)))

    assert method("older") == method("newer") == method("wider") != method("other")
    budgets = [method(name, "04_budget_scaling") for name in ("older", "wider")]
    assert budgets[0] != budgets[1]
