"""End to end: every notebook by papermill, killed and resumed runs, equal and fresh seeds."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from dits_lib.report.names import plain
from dits_lib.settings import ROOT
from dits_lib.suite.execution import clean
from dits_lib.suite.params import load_params
from dits_lib.suite.results import results_name

pytestmark = pytest.mark.slow
NOTEBOOKS = load_params("smoke").notebooks
KILLS = (2, 9, 22, 45, 70)
"""The run is killed when this many stages are in the store: in notebook 01, in 02, and three times
in 03."""


def start(output, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dits_lib.commands.reproduce", *arguments],
        cwd=ROOT,
        # A shell that wants figures drawn into nothing must not take them from the notebooks.
        env=os.environ | {"DITS_OUTPUT": str(output), "MPLBACKEND": "Agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_tree(process):
    """SIGKILL to the run and all that it started; a kernel has a session of its own."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=30)
    assert not [
        member
        for member in family
        if member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    ]


def killed_and_resumed(output):
    stages = output / "runs" / "smoke"
    for count in KILLS:
        process = start(output, "--profile", "smoke")
        deadline = time.monotonic() + 600
        while len(list(stages.glob("[a-z]*-*"))) < count:
            assert process.poll() is None and time.monotonic() < deadline, (
                "the run ended before it was killed"
            )
            time.sleep(0.05)
        kill_tree(process)
    run(output, "--profile", "smoke")


def run(output, *arguments):
    process = start(output, *arguments)
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    return text


def tables(output, profile="smoke"):
    """Every result except what tells seconds and memory (the ledger, and the README that shows
    it)."""
    folder = output / "results" / profile
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert not [name for name in files if name.endswith(".tmp.ipynb")]
    return {
        name: data
        for name, data in files.items()
        if not name.startswith("tables/ledger") and name != "README.md"
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run from start to end, and beside it one that is killed in five places and resumed."""
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    begin = time.monotonic()
    process = start(whole, "--profile", "smoke")
    killed_and_resumed(killed)
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    return whole, killed, time.monotonic() - begin


@pytest.fixture(scope="module")
def whole(runs):
    return runs[0], runs[2]


def test_every_notebook_runs_and_reports(whole):
    output, _ = whole
    folder = output / "results" / "smoke"
    for name in NOTEBOOKS:
        notebook = json.loads((folder / "notebooks" / f"{name}.ipynb").read_text())
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(
            cell["execution_count"]
            for cell in code
            if "injected-parameters" not in cell["metadata"].get("tags", [])
        )
        assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]
        assert str(ROOT) not in json.dumps(notebook)
        index = json.loads((folder / "index" / f"{name}.json").read_text())
        pictures = [o for cell in code for o in cell["outputs"] if "image/png" in o.get("data", {})]
        assert len(pictures) == [e["kind"] for e in index["entries"]].count("figure")
    readme = (folder / "README.md").read_text()
    assert all(name in readme for name in NOTEBOOKS) and readme.count("![") >= 10
    assert yaml.safe_load((folder / "params.yaml").read_text())["profile"] == "smoke"


def test_again_rewrites_nothing(whole):
    output, first = whole
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    begin = time.monotonic()
    assert f"0 of {len(NOTEBOOKS)} notebooks run" in run(output, "--profile", "smoke")
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == before
    assert time.monotonic() - begin < first


def test_a_run_killed_in_five_places_gives_identical_tables(runs):
    """Also: two runs with one seed give identical tables, figures and notebooks."""
    expected, resumed = tables(runs[0]), tables(runs[1])
    assert sorted(resumed) == sorted(expected)
    assert [name for name in expected if resumed[name] != expected[name]] == []


def computed_ahead(output, changes="[]", notebooks="part.notebooks"):
    """Stages of the smoke profile that computing ahead adds to those that are there."""
    stages = output / "runs" / "smoke"
    before = {path.name for path in stages.glob("[a-z]*-*")}
    code = (
        "from dits_lib.suite.params import load_params\n"
        "from dits_lib.suite.studies.ahead import run_ahead\n"
        f"for part in load_params('smoke', {changes}).parts():\n"
        f"    assert run_ahead(part, {notebooks}) == 0"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"DITS_OUTPUT": str(output)},
        check=True,
    )
    return {path.name for path in stages.glob("[a-z]*-*")} - before


def test_what_is_computed_ahead_is_what_the_notebooks_ask_for(whole):
    """With vLLM, or many processes, the stages are computed before the notebooks run; here all are
    there already, and none may be added."""
    assert computed_ahead(whole[0]) == set()


def test_the_notebooks_of_make_fidelity_run_on_the_kept_stages(whole):
    """They are not part of `make reproduce`."""
    output, more = whole[0], ("06_influence_fidelity", "07_sensitivity")
    arguments = [
        "--profile",
        "smoke",
        "--set",
        "tasks=[exchange]",
        *(part for name in more for part in ("--notebook", name)),
    ]
    committed = tables(output)
    assert "2 of 2 notebooks run" in run(output, *arguments)
    assert tables(output) == committed  # changed parameters write elsewhere
    folder = output / "results" / results_name(load_params("smoke", ["tasks=[exchange]"]))
    readme = (folder / "README.md").read_text()
    for name in (
        "06_reliability.png",
        "06_use.png",
        "07_sensitivity.png",
        *map(plain, load_params("smoke").fidelity.validation),
    ):
        assert name in readme
    for name in ("06_lds", "06_left_out", "06_races", "06_controlled", "06_use_differences"):
        assert (folder / "tables" / f"{name}.csv").stat().st_size > 100
    assert computed_ahead(output, "['tasks=[exchange]']", str(list(more))) == set()


def test_a_fresh_seed_differs(whole, tmp_path):
    raw = yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text()) | {"seed": 11}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    run(tmp_path, "--profile", str(tmp_path / "mine.yaml"), "--notebook", "01_rollout")
    changed = results_name(load_params(str(tmp_path / "mine.yaml")))
    expected, found = tables(whole[0]), tables(tmp_path, changed)
    assert found["tables/01_pairs.csv"] != expected["tables/01_pairs.csv"]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebooks_are_clean_and_have_a_parameters_cell(name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert (
        len(tagged) == 1
        and name in load_params("".join(tagged[0]["source"]).split('"')[1]).notebooks
    )
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert notebook["cells"][0]["cell_type"] == "markdown" and "$$" in "".join(
        notebook["cells"][0]["source"]
    )


def test_ctrl_c_stops_a_run_in_one_line(tmp_path):
    process = start(tmp_path, "--profile", "smoke", "--notebook", "01_rollout")
    stages, deadline = tmp_path / "runs" / "smoke", time.monotonic() + 300
    while not list(stages.glob("[a-z]*-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in text
    assert text.splitlines()[-1] == "stopped; finished stages are kept, run again"
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_papermill_takes_the_parameter_file_and_changes_no_results(whole, tmp_path):
    """`papermill -f`, as the README says, from another folder; the stages are there already, so it
    is quick."""
    before = tables(whole[0])
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / "01_rollout.ipynb"),
        str(tmp_path / "out.ipynb"),
        "-f",
        str(ROOT / "params" / "smoke.yaml"),
        "-k",
        "python3",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"DITS_OUTPUT": str(whole[0])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exchange" in (tmp_path / "out.ipynb").read_text()
    assert tables(whole[0]) == before
    assert (whole[0] / "runs" / "smoke" / "by_hand" / "tables" / "01_pairs.csv").is_file()


def test_a_bad_artifact_stops_the_run_with_one_line(whole, tmp_path):
    import shutil

    shutil.copytree(whole[0], tmp_path / "copy")
    used = json.loads(
        (tmp_path / "copy" / "results" / "smoke" / "index" / "01_rollout.json").read_text()
    )["artifacts"]
    damaged = (
        tmp_path
        / "copy"
        / "runs"
        / "smoke"
        / next(name for name in used if name.startswith("search"))
        / "trees.jsonl"
    )
    damaged.write_text(damaged.read_text()[:100])
    (tmp_path / "copy" / "runs" / "smoke" / "01_rollout.stamp.json").unlink()
    process = start(tmp_path / "copy", "--profile", "smoke", "--notebook", "01_rollout")
    text, _ = process.communicate(timeout=300)
    assert (
        process.returncode == 2
        and "damaged or cut short" in text.strip().splitlines()[-1]
        and str(damaged) in text
    )


def test_prints_that_a_kernel_cut_in_two_are_one_output():
    def printed(*texts):
        outputs = [{"output_type": "stream", "name": "stdout", "text": [text]} for text in texts]
        cells = [
            {
                "cell_type": "code",
                "metadata": {},
                "outputs": [*outputs, {"output_type": "display_data", "data": {}}, *outputs[-1:]],
            }
        ]
        cleaned = clean(json.dumps({"metadata": {}, "cells": cells}))
        return json.loads(cleaned)["cells"][0]["outputs"]

    assert printed("one\n", "two")[0] == {
        "output_type": "stream",
        "name": "stdout",
        "text": ["one\n", "two"],
    }
    assert len(printed("one\n", "two")) == 3
