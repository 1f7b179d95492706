"""Intervals, verdicts, tables, figures, the set-up's pins, and the tree's own rules."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from dits_lib.report import (
    Report,
    forest_figure,
    joint_level,
    markdown_table,
    mean_interval,
    paired,
    paired_interval,
    tree_figure,
)
from dits_lib.settings import ROOT


def test_intervals_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    found = paired_interval(a, b)
    reference = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((reference.low, reference.high))
    assert mean_interval(a)["mean"] == pytest.approx(a.mean()) and np.isnan(
        mean_interval([1.0])["low"]
    )
    with pytest.raises(ValueError, match="different lengths"):
        paired_interval(a, b[:3])


def test_joint_intervals_are_those_of_a_smaller_error():
    values = [0.1, 0.4, 0.2, 0.5]
    assert joint_level(5) == pytest.approx(0.99)
    assert paired_interval(values, [0] * 4, joint_level(5)) == pytest.approx(
        mean_interval(values, 0.99)
    )


def test_intervals_cover_the_truth_19_times_in_20():
    rng = np.random.default_rng(1)
    hits = [
        (i := mean_interval(rng.normal(loc=0.3, size=5)))["low"] < 0.3 < i["high"]
        for _ in range(2000)
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_tables_show_tags_and_bars():
    text = markdown_table(pd.DataFrame({"reply": ["<A> a|b </A>\nand more"]}))
    assert "&lt;A> a\\|b &lt;/A><br>and more" in text and text.splitlines()[1] == "|---|"


def test_equal_reports_are_equal_files(tmp_path, monkeypatch, trees):
    import dits_lib.report.book as book

    files = []
    for name in ("one", "two"):
        monkeypatch.setattr(book, "OUTPUT", tmp_path / name)
        report = Report("p", "01_x")
        report.figure("tree", tree_figure(trees["exchange"][0]), "A tree.")
        rows = pd.DataFrame(
            {
                "task": ["exchange"] * 2,
                "arm": ["a", "b"],
                "mean": [0.1, 0.2],
                "low": [0.0, 0.1],
                "high": [0.2, 0.3],
            }
        )
        report.figure("forest", forest_figure(rows, "b"), "A forest.")
        report.table("t", rows, "A table.")
        report.claim("2", [paired("exchange", "a minus b", [0.1, 0.2], [0.3, 0.2])])
        files.append(
            {
                str(p.relative_to(tmp_path / name)): p.read_bytes()
                for p in (tmp_path / name).rglob("*")
                if p.is_file()
            }
        )
    assert files[0] == files[1] and len(files[0]) == 7


def test_tables_are_exact_in_csv_and_rounded_in_md(tmp_path, monkeypatch):
    """Whatever computes from a table reads the former: no number changes on the way."""
    monkeypatch.setattr("dits_lib.report.book.OUTPUT", tmp_path)
    values = [0.1 + 0.2, 1 / 3, float("nan"), 2e-17]
    shown = Report("p", "01_x").table("t", pd.DataFrame({"x": values}), "A table.", fold=True)
    folder = tmp_path / "runs" / "p" / "by_hand" / "tables"
    back = pd.read_csv(folder / "t.csv", float_precision="round_trip")["x"]
    assert back.tolist()[:2] == values[:2] and back.tolist()[3] == values[3] and np.isnan(back[2])
    assert shown["x"].tolist() == ["0.300", "0.333", "", "0.000"]
    assert "| 0.333 |" in (folder / "t.md").read_text()


def pins(text):
    return dict(re.findall(r"^\s*-?\s*([A-Za-z0-9_.-]+)==(\S+)$", text, flags=re.M))


def conda_pins(name):
    listed = yaml.safe_load((ROOT / name).read_text())["dependencies"]
    return pins("\n".join(next(entry["pip"] for entry in listed if isinstance(entry, dict))))


def test_conda_and_pip_have_the_same_pins():
    pip, gpu = (
        pins((ROOT / name).read_text()) for name in ("requirements.txt", "requirements-gpu.txt")
    )
    assert pip == conda_pins("environment.yml") and len(pip) > 15
    held_by_vllm = {"numpy"}  # vLLM holds it below the pinned release
    with_gpu = {name: pin for name, pin in (pip | gpu).items() if name not in held_by_vllm}
    assert with_gpu == conda_pins("environment-gpu.yml") and "vllm" in with_gpu


def test_the_package_names_what_is_pinned():
    """pyproject.toml names packages, requirements.txt their versions, and neither more than the
    other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    assert named | {"setuptools"} == set(pins((ROOT / "requirements.txt").read_text()))


def test_importing_the_package_is_quick_and_needs_no_torch(tmp_path):
    """Also from another folder: the package is installed."""
    code = (
        "import sys, dits_lib, dits_lib.suite.params, dits_lib.suite.studies.ahead\n"
        "heavy = [n for n in ('torch._C', 'transformers', 'pandas', 'sklearn') if n in "
        "sys.modules]\n"
        "assert heavy == [], heavy\nprint(len(dits_lib.__all__))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 12 <= int(done.stdout) <= 25


def test_the_environment_holds_the_pins():
    """vLLM holds numpy below the pinned release; where it is installed, it has its way."""
    from importlib.metadata import version
    from importlib.util import find_spec

    own = {"numpy"} if find_spec("vllm") else set()
    for name, pin in pins((ROOT / "requirements.txt").read_text()).items():
        assert name in own or version(name).split("+")[0] == pin, name


def test_make_help_lists_the_commands():
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(
        f"make {name}" in text
        for name in ("setup", "reproduce", "test", "lab", "micro-model", "bench", "clean")
    )


ROOMS = (
    "settings tools tasks agents engines rollout search pairs influence selection training report "
    "micro_model suite commands"
).split()
"""The rooms of the library, in the order in which they may know of each other."""
SUITE = (
    "memory progress store processes ray_jobs workers notebooks cells sections fitting params "
    "model_checks question_checks results deep_search pipeline checks hub ledger kernels "
    "studies planning scaling execution export push own_pairs"
).split()
"""The same within the suite."""


def imported(path):
    """(level, module, names) of the relative imports that a file makes when it runs."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []  # for readers and type checkers alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("dits_lib") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level or not node.module.startswith("dits_lib")
            if node.level:
                yield node.level, node.module or "", [alias.name for alias in node.names]


def rooms_of(path, folder):
    """The parts of `folder`, a package, that a file below it imports from."""
    level = len(path.relative_to(folder).parts)
    for own, module, names in imported(path):
        if own == level:
            yield from [module.split(".")[0]] if module else names


FILES = sorted((ROOT / "dits_lib").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    """A module imports only from its own room or those before it in the list."""
    for folder, order in ((ROOT / "dits_lib", ROOMS), (ROOT / "dits_lib" / "suite", SUITE)):
        if not path.is_relative_to(folder) or path == folder / "__init__.py":
            continue
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        assert own in order, f"{own} is no room: put it where it belongs in the list"
        for name in rooms_of(path, folder):
            assert order.index(name) <= order.index(own), f"{path} imports {name}"


def test_no_module_is_loaded_late_as_an_object():
    """Python 3.12.3, that of Ubuntu 24.04, runs such a module again while it is being run (CPython
    issue 117178), which torch does not survive. An import in a function is safe, and so are names
    that `lazy_loader.attach` puts off."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            assert name not in ("lazy_loader.load", "importlib.util.LazyLoader"), path


@pytest.mark.parametrize(
    "name", ["run", "estimators", "gpu", "faults", "intervals", "metasmoothness"]
)
def test_benchmarks_can_be_imported(name):
    """They are run by hand, so that nothing else would notice a name that moved."""
    command = [sys.executable, "-c", f"import benchmarks.{name}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


def drawn_arrows():
    """The arrows of the picture in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text().split("```mermaid")[1].split("```")[0]
    return {tuple(line.split(" --> ")) for line in map(str.strip, text.splitlines()) if ">" in line}


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    """It shows every arrow that does not follow from others, and no arrow that is not there."""
    found = {room: set() for room in ROOMS}
    for path in FILES:
        own = path.relative_to(ROOT / "dits_lib").parts[0].removesuffix(".py")
        if own in ROOMS:
            found[own] |= set(rooms_of(path, ROOT / "dits_lib")) - {own}

    def reach(start):
        below = set(found[start])
        return below.union(*(reach(room) for room in below))

    direct = {
        (room, other)
        for room, others in found.items()
        for other in others
        if not any(other in reach(between) for between in others - {other})
    }
    assert drawn_arrows() == direct


STALE = {
    "smollm2",
}
"""Results of the search and the studies of before 2026-11-26 (docs/log.md). They are to be made
again; nothing is to be added here."""


def cells_of(notebook, asides=True):
    """Kinds and sources of the cells that a reader wrote.

    Args:
        asides: those tagged `aside` too. They explain or can be clicked, and write no table or
            figure, so that results of before they were added stay valid.
    """
    left_out = {"injected-parameters", *(() if asides else ("aside",))}
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(notebook.read_text())["cells"]
        if not left_out & set(cell["metadata"].get("tags", []))
    ]


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "results").glob("*/notebooks/*.ipynb")),
    ids=lambda p: f"{p.parts[-3]}/{p.stem}",
)
def test_results_come_from_the_notebooks_that_are_here(path):
    source, profile = ROOT / "notebooks" / path.name, path.parts[-3]
    same = cells_of(path, asides=False) == cells_of(source, asides=False)
    assert same != (profile in STALE), "run make reproduce again, and commit its results"
    if profile == "micro":  # quickly made again
        assert cells_of(path) == cells_of(source), "run make reproduce, and commit its results"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "results").glob("*/notebooks/*.ipynb")),
    ids=lambda p: f"{p.parts[-3]}/{p.stem}",
)
def test_notebooks_as_they_ran_show_their_figures(path):
    index = json.loads((path.parents[1] / "index" / f"{path.stem}.json").read_text())
    shown = [
        kind
        for cell in json.loads(path.read_text())["cells"]
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert shown.count("image/png") == [e["kind"] for e in index["entries"]].count("figure")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_asides_write_nothing_and_give_nothing_to_other_cells(path):
    cells = json.loads(path.read_text())["cells"]
    made: set[str] = set()
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if "aside" in cell["metadata"].get("tags", []):
            assert not re.search(r"\breport\.(table|figure|claim|used)\(", source), source
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    made.add(node.id)
                elif isinstance(node, ast.alias):
                    made.add(node.asname or node.name)
                elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                    made.add(node.name)
                # What other cells have is not changed in place.
                elif isinstance(node, ast.Subscript | ast.Attribute):
                    assert not isinstance(node.ctx, ast.Store), source
            continue
        # What an aside has bound may stand in a later cell only if that cell binds it first.
        read, bound = set(), set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (bound if isinstance(node.ctx, ast.Store) else read).add(node.id)
            bound |= {a.arg for a in getattr(getattr(node, "args", None), "args", [])}
            if isinstance(node, ast.alias):
                bound.add(node.asname or node.name)
        assert not (read & made) - bound, (path.stem, (read & made) - bound)


def test_committed_results_match_the_released_model_and_claims():
    folder = ROOT / "results" / "micro"
    readme = (folder / "README.md").read_text()
    for index in (folder / "index").glob("*.json"):
        for entry in json.loads(index.read_text())["entries"]:
            assert entry["caption"] in readme
            kinds = {"figure": ("figures", ("png", "svg")), "table": ("tables", ("csv", "md"))}[
                entry["kind"]
            ]
            assert all(
                (folder / kinds[0] / f"{entry['name']}.{suffix}").stat().st_size > 0
                for suffix in kinds[1]
            )
    for number in ("1a", "1b", *"23456789"):
        assert re.search(
            rf"^\| {number}\. .*\*\*(supported|contradicted|not decided at this size)\*\*",
            readme,
            flags=re.M,
        )


def test_the_released_model_is_the_one_that_passed_its_gates():
    from dits_lib.micro_model.gates import missed_gates
    from dits_lib.suite.store import checksum

    folder = ROOT / "models" / "micro"
    assert missed_gates(json.loads((folder / "gates.json").read_text())) == []
    assert checksum(folder / "model.safetensors") in (folder / "README.md").read_text()


def test_the_released_model_still_looks_up():
    from dits_lib.engines import TransformersEngine
    from dits_lib.micro_model.gates import GATES, lookup_accuracy

    assert (
        lookup_accuracy(TransformersEngine.load(ROOT / "models" / "micro"), 200)
        >= GATES["lookup"][0]
    )


def test_a_missed_gate_stops_the_release():
    from dits_lib.micro_model.gates import missed_gates

    numbers = json.loads((ROOT / "models" / "micro" / "gates.json").read_text())
    numbers["lookup"], numbers["debate"]["searched_gain_low"] = 0.5, -0.01
    assert missed_gates(numbers) == [
        "lookup = 0.500, allowed (0.98, 1.0)",
        "debate searched_gain_low = -0.010, allowed (1e-09, 1.0)",
    ]


@pytest.mark.parametrize(
    "changes, arm, expected",
    [
        ([], "one_step", ""),
        (["influence.target_repeatable=0.5"], "one_step", "step that repeats at 0.5"),
        (["influence.target_repeatable=0.5"], "policy_gradient", ""),
        ([], "through_training", "1 round"),
        (["influence.options={through_training: {rounds: 3}}"], "through_training", "3 rounds"),
        (["influence.options={through_training: {rounds: 3}}"], "full", ""),
    ],
)
def test_an_arm_tells_how_its_scores_were_made(changes, arm, expected):
    from dits_lib.commands.regimes import how_of
    from dits_lib.suite.params import load_params

    assert how_of(load_params("micro", changes).model_dump(), arm) == expected


def test_regimes_are_read_off_the_tables(tmp_path):
    import pandas as pd
    import yaml

    from dits_lib.agents import TASKS
    from dits_lib.commands.regimes import EARLIER, answers, regime_figure, regimes
    from dits_lib.suite.params import load_params

    for name, changes in (
        ("a", []),
        (
            "b",
            [
                "tasks=[exchange, debate]",
                "world.harmful={share: 0.35, kind: inverted_reward}",
                "dpo.nll_weight=0.5",
            ],
        ),
    ):
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "params.yaml").write_text(
            yaml.safe_dump(load_params("micro", changes).model_dump())
        )
        table = "03_differences" if name == "a" else "06_use_differences"
        rows = [
            ("gamma_0" if name == "a" else "policy_gradient", "random", 0.1, 0.05, 0.15),
            ("q_value", "random", -0.1, -0.2, -0.01),
            ("full", "random", 0.0, -0.1, 0.1),
            ("sft", "random", 0, 0, 0),
        ]
        table_of = pd.DataFrame(
            [("exchange", *row, 5) for row in rows],
            columns=["task", "arm", "minus", "mean", "low", "high", "n"],
        )
        if name == "a":  # notebook 03 trains arms for equal epochs too
            again = table_of[table_of["arm"] == "gamma_0"].assign(equal="epochs", mean=0.2)
            table_of = pd.concat([table_of.assign(equal="steps"), again])
        table_of.to_csv(tmp_path / name / "tables" / f"{table}.csv", index=False)
    found = regimes(tmp_path)
    assert len(found[found["equal"] == "epochs"]) == 1
    assert found[found["equal"] == "epochs"]["mean"].tolist() == [0.2]
    figure = regime_figure(found)  # a panel a task, a look a regime
    assert [len(axis.containers) for axis in figure.axes] == [6]
    assert len({bar.lines[0].get_color() for bar in figure.axes[0].containers}) == 2
    told = answers(found)
    assert (
        "*one step* minus *drawn at random*: better in 1, worse in 0 and not decided in 0 of 1"
        in (told[0])
    )
    assert "*top by Q* minus *drawn at random*: better in 0, worse in 2" in told[1]
    assert "(-0.100 to -0.100)" in told[1]
    found = found[found["equal"] == "steps"]
    assert list(found["decided"]) == ["better", "worse", "not decided"] * 2 and list(found["arm"])[
        :2
    ] == ["one_step", "q_value"]
    assert list(found["V"].dropna()) == [20, 100]
    assert list(dict.fromkeys(found["regime"])) == [
        "no planted harm; 30 steps at 0.0003",
        "35% inverted reward; 30 steps at 0.0003, NLL 0.5",
    ]
    # Of one comparison in one regime the most seeds speak; an earlier search is told apart.
    fewer = found.assign(n=3, mean=0.7, decided="better")
    assert answers(pd.concat([found, fewer])) == answers(found)
    old = tmp_path / "a" / "params.yaml"
    params = yaml.safe_load(old.read_text())
    params["search"]["depth"] = params["search"].pop("max_depth")
    old.write_text(yaml.safe_dump(params))
    told = regimes(tmp_path)
    assert {
        name: kind.startswith(EARLIER)
        for name, kind in zip(told["results"], told["regime"], strict=True)
    } == {"a": True, "b": False}
    assert not any("one step" in line for line in answers(told))
    with_debate = pd.concat([found, found.assign(task="debate")])
    assert [axis.get_title() for axis in regime_figure(with_debate).axes] == [
        TASKS[task].label for task in ("exchange", "debate")
    ]
