"""Changed parameters write over no results, and reading a notebook changes no tracked file."""

import os
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

from dits_lib.commands import reproduce
from dits_lib.commands.regimes import regimes
from dits_lib.commands.running import command
from dits_lib.report import Report
from dits_lib.settings import OUTPUT, ROOT, ParamsError, read_yaml, write_yaml
from dits_lib.settings.places import REPORT_TO, output_folder
from dits_lib.suite.execution import NotebookError, stamp_of
from dits_lib.suite.params import check_params, load_params
from dits_lib.suite.results import changed_keys, results_folder, results_name, told_changes
from dits_lib.suite.workers import WorkerError

PROFILES = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_parameters_of_a_profile_go_to_its_results(profile):
    assert results_folder(load_params(profile)) == OUTPUT / "results" / profile


@pytest.mark.parametrize("change", ["workers=3", "notebooks=[01_rollout]", "sizes.test_samples=1"])
def test_what_decides_no_number_is_no_change(change):
    assert results_name(load_params("micro", [change])) == "micro"


def test_changed_parameters_have_results_of_their_own():
    names = [
        results_name(load_params("micro", list(changes)))
        for changes in (
            ("seed=1",),
            ("seed=1", "workers=1"),
            ("seed=2",),
            ("tasks=[debate]",),
            ("influence.options={racing: {error: 0.2}}",),
            ("fidelity.validation={one_step: 60}",),
        )
    ]
    assert all(name.startswith("micro-changed-") and len(name) == 22 for name in names)
    assert names[0] == names[1] and len(set(names)) == 5
    own, changed = load_params("micro"), load_params("micro", ["seed=1"])
    assert stamp_of("01_rollout", own).parent == stamp_of("01_rollout", changed).parent
    assert stamp_of("01_rollout", own) != stamp_of("01_rollout", changed)
    told = told_changes(load_params("micro", ["seed=1", "dpo.beta=0.2"]))
    assert "`seed`: 1 instead of 0" in told and "`dpo.beta`: 0.2 instead of 0.1" in told
    assert told_changes(own) == ""


def test_a_data_set_makes_a_profile_of_its_own_that_can_be_changed_too():
    assert results_name(load_params("micro", dataset="hotpotqa")) == "micro-hotpotqa"
    changed = load_params("micro", ["seed=1"], "hotpotqa")
    assert list(changed_keys(changed)) == ["seed"]
    assert results_name(changed).startswith("micro-hotpotqa-changed-")


def test_a_file_of_ones_own_has_results_under_its_own_name_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 3")
    assert results_name(load_params(tmp_path / "mine.yaml")) == "mine"
    (tmp_path / "mine.yaml").write_text("seed: 3\nprofile: micro")
    assert results_name(load_params(tmp_path / "mine.yaml")).startswith("micro-changed-")
    assert results_name(load_params("micro", ["profile=smoke"])).startswith("smoke-changed-")
    assert results_name(load_params("micro", ["profile=new", "seed=1"])) == "new"


def test_the_parameters_beside_changed_results_make_them_again(tmp_path):
    params = load_params("micro", ["seed=1", "model.path=on", "tasks=[debate]"])
    (tmp_path / "params.yaml").write_text(write_yaml(params.model_dump()))
    again = load_params(tmp_path / "params.yaml")
    assert again == params and results_name(again) == results_name(params)


def test_a_readme_of_changed_parameters_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("dits_lib.suite.results.OUTPUT", tmp_path)
    params = load_params("micro", ["seed=1"])
    folder = reproduce.prepare(params)
    reproduce.finish(folder, params)
    assert folder.parent == tmp_path / "results" and folder.name.startswith("micro-changed-")
    title, _, note, *rest = (folder / "README.md").read_text().splitlines()
    assert title == f"# Results of profile `{folder.name}`"
    assert note.startswith("> **Changed parameters.** These are not the results of the profile `m")
    assert "> - `seed`: 1 instead of 0" in rest
    assert f"make reproduce PROFILE=results/{folder.name}/params.yaml" in "\n".join(rest)
    own = load_params("micro")
    reproduce.finish(reproduce.prepare(own), own)
    assert "Changed" not in (tmp_path / "results" / "micro" / "README.md").read_text()


def test_results_of_changed_parameters_are_no_regime(tmp_path):
    table = pd.DataFrame(
        {"task": ["debate"], "arm": ["gamma_0"], "minus": ["random"]}
        | {name: [0.1] for name in ("mean", "low", "high", "n")}
    )
    for params in (load_params("micro"), load_params("micro", ["seed=1"])):
        folder = tmp_path / results_name(params)
        (folder / "tables").mkdir(parents=True)
        (folder / "params.yaml").write_text(write_yaml(params.model_dump()))
        table.to_csv(folder / "tables" / "03_differences.csv", index=False)
    assert regimes(tmp_path)["results"].tolist() == ["micro"]


def test_a_notebook_that_is_run_by_hand_changes_no_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dits_lib.report.book.OUTPUT", tmp_path)
    monkeypatch.delenv(REPORT_TO, raising=False)
    Report("micro", "01_x").table("t", pd.DataFrame({"x": [1]}), "A table.")
    assert not (tmp_path / "results").exists() and "by_hand" in capsys.readouterr().out
    assert (tmp_path / "runs" / "micro" / "by_hand" / "tables" / "t.csv").is_file()
    monkeypatch.setenv(REPORT_TO, str(tmp_path / "results" / "micro"))
    Report("micro", "01_x").table("t", pd.DataFrame({"x": [1]}), "A table.")
    assert (tmp_path / "results" / "micro" / "tables" / "t.csv").is_file()
    assert capsys.readouterr().out == ""  # what reproduce keeps says nothing of a machine


def test_make_lab_opens_copies_and_keeps_those_that_are_there(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "02_scoring.ipynb").write_text("mine")
    # Nothing is installed, and `true` stands for JupyterLab.
    subprocess.run(["make", "-o", "setup", "lab", "RUN=true"], cwd=tmp_path, check=True)
    assert (tmp_path / "lab" / "02_scoring.ipynb").read_text() == "mine"
    names = {path.name for path in (tmp_path / "notebooks").iterdir()}
    assert {path.name for path in (tmp_path / "lab").iterdir()} == names
    ignored = ["lab/x.ipynb", "runs/micro/by_hand/tables/x.csv", "results/a-changed-0/README.md"]
    listed = subprocess.run(
        ["git", "check-ignore", *ignored], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.stdout.split() == ignored


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped; all is kept"),
        (ParamsError("one line"), 2, "one line"),
        (WorkerError("one line"), 2, "one line"),
        (NotebookError("one line", bad_input=True), 2, "one line"),
        (NotebookError("one line", bad_input=False), 1, "one line"),
        (PermissionError(13, "Permission denied", "x.yaml"), 2, "x.yaml: Permission denied; all"),
    ],
)
def test_every_command_ends_in_one_line(capsys, error, status, message):
    @command("all is kept")
    def main(arguments=None):
        raise error

    assert main() == status
    told = capsys.readouterr()
    assert told.out == "" and message in told.err and len(told.err.splitlines()) == 1


@pytest.fixture
def heard():
    """Ctrl-C reaches Python, also where the tests were started in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_made_into_another_error_is_one(capsys, heard):
    @command("all is kept")
    def main(arguments=None):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("cannot import name 'AutoConfig'") from None

    assert main() == 130 and capsys.readouterr().err == "stopped; all is kept\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    @command("all is kept")
    def fails(arguments=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # a fault of the suite keeps its traceback
        fails()


def test_every_command_shares_that_ending():
    for file in (ROOT / "dits_lib" / "commands").glob("[a-z]*.py"):
        text = file.read_text()
        assert ("def main(" in text) == ("@command(" in text) or file.name == "running.py"


def test_where_a_run_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, folder in (("~/out", tmp_path / "out"), ("out", ROOT / "out"), ("", ROOT)):
        monkeypatch.setenv("DITS_OUTPUT", value)
        assert output_folder() == folder
    monkeypatch.delenv("DITS_OUTPUT")
    assert output_folder() == ROOT


def test_an_output_folder_of_nobody_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "dits_lib.commands.plan"],
        env=os.environ | {"DITS_OUTPUT": "~nobody-of-that-name/out"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and done.stderr.count("\n") == 1
    assert done.stderr.startswith("DITS_OUTPUT: ~nobody-of-that-name is no user")


def test_a_full_dump_is_what_the_committed_files_say():
    """So that parameters beside results can be read back."""
    raw = read_yaml(ROOT / "results" / "micro" / "params.yaml")
    assert check_params(raw, "micro").changed(workers=1) == load_params("micro", ["workers=1"])
