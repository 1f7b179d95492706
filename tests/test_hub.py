"""A plan without the hub: from known shapes, with what was not checked, and nothing tried twice."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dits_lib.commands.plan import main
from dits_lib.engines import ModelError
from dits_lib.settings import ROOT
from dits_lib.suite.checks import MADE, InputError, check_folders
from dits_lib.suite.hub import SHAPES, known_shape
from dits_lib.suite.params import load_params
from dits_lib.suite.planning import size_of


def plan(*options, **environment):
    """A plan in a process of its own, whose hub is where nothing listens."""
    silent = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "dits_lib.commands.plan", *options],
        cwd=ROOT,
        env=os.environ | silent | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_a_plan_is_made_without_the_hub(tmp_path):
    """8B: hours and memory stand there, and what was not checked."""
    begin = time.monotonic()
    done = plan("--profile", "llama3-8b", "--dataset", "hotpotqa", HF_HOME=str(tmp_path))
    assert time.monotonic() - begin < 60  # five retries of each file took longer
    assert "8030 M parameters" in done.stdout and "peak memory" in done.stdout
    told = done.stdout.splitlines()[-1]
    assert told.startswith("not checked, since the hub cannot be reached: the questions")
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in told and "HF_TOKEN" in told
    assert "Retry" not in done.stderr and "Traceback" not in done.stderr


def test_a_plan_of_local_files_checks_all_of_them(tmp_path):
    done = plan("--profile", "micro", HF_HOME=str(tmp_path))
    assert done.returncode == 0 and "not checked" not in done.stdout


def test_what_is_wrong_here_is_told_though_the_hub_is_silent(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "q"}\n')
    change = f"world.questions={own}"
    one = ("--set", "tasks=[exchange]", "--set", change)
    done = plan("--profile", "micro", *one, HF_HOME=str(tmp_path))
    assert done.returncode == 2 and "own.jsonl" in done.stderr


def test_a_model_of_unknown_shape_is_named(tmp_path):
    done = plan("--profile", "micro", "--set", "model.path=somebody/model", HF_HOME=str(tmp_path))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "somebody/model" in done.stderr and "known: meta-llama" in done.stderr


@pytest.mark.parametrize(
    ("path", "parameters"),
    [  # as the models' cards say
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.03e9),
        ("Qwen/QwQ-32B", 32.8e9),
        ("Qwen/Qwen2.5-7B-Instruct", 7.62e9),
    ],
)
def test_known_shapes_have_the_parameters_of_the_models(path, parameters):
    assert size_of(known_shape(path)).parameters == pytest.approx(parameters, rel=0.003)


def test_the_profiles_models_have_known_shapes():
    for name in ("llama3-8b", "qwq-32b"):
        params = load_params(name, dataset="hotpotqa" if name == "llama3-8b" else None)
        named = [*params.model_paths(), *filter(None, [params.judge_path()])]
        assert {path for path in named if not Path(path).exists()} <= set(SHAPES)
    with pytest.raises(InputError, match="known: "):
        known_shape("somebody/model")


def test_a_model_that_a_command_makes_is_told_with_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("dits_lib.suite.checks.ROOT", tmp_path)
    missing = tmp_path / "models" / "smollm2"
    params = load_params("micro", [f"model.path={missing}"])
    with pytest.raises(ModelError, match=r"smollm2: no such .*`make smollm2-model` makes this one"):
        check_folders(params)
    assert main(["--set", f"model.path={missing}"]) == 2
    assert "make smollm2-model" in capsys.readouterr().err
    other = load_params("micro", [f"model.path={tmp_path / 'models' / 'other'}"])
    with pytest.raises(ModelError) as error:
        check_folders(other)
    assert "make" not in str(error.value).split(": ", 1)[1]
    commands = (ROOT / "Makefile").read_text()
    assert all(f"\n{name}-model:" in commands for name in MADE)


def made(*arguments, **environment):
    """The commands that make would run."""
    return subprocess.run(
        ["make", "-n", *arguments],
        cwd=ROOT,
        env={key: v for key, v in os.environ.items() if key != "SSH_CONNECTION"} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_make_clean_keeps_what_was_computed_unless_asked():
    assert " runs" not in made("clean") and " .venv" in made("clean")
    assert " runs" in made("clean", "STAGES=1")


def test_make_lab_takes_options_and_works_over_ssh_and_as_root():
    plain = made("lab", "ARGS=--port=9000")
    assert "--port=9000" in plain and "--no-browser" not in plain
    assert ("--allow-root" in plain) == (os.getuid() == 0)
    assert "--no-browser" in made("lab", SSH_CONNECTION="1 2 3 4")
