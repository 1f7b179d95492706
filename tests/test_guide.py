"""The guide and the README, by doing what they say: their files are put where they belong in a copy
of the project, which is then run."""

import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from dits_lib.influence import ESTIMATORS, DPOLoss
from dits_lib.settings import ROOT
from dits_lib.suite.checks import choose_notebooks
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.store import Store, code_version

GUIDE = (ROOT / "docs" / "guide.md").read_text()
README = (ROOT / "README.md").read_text()


def blocks(text, language="python"):
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


def files_of_the_guide():
    """{path: text} of the blocks that begin with where they belong."""
    named = [block for block in blocks(GUIDE) if block.startswith("# dits_lib/")]
    return {re.match(r"# (\S+)", block)[1]: block for block in named}


def copy_of(folder, *names):
    """A copy of the project's folders; what is not named stays out."""
    for name in names:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def insert(file, before, line):
    """Put a line before the one place where a text stands."""
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, line + before))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A project whose reader has followed the guide: a file for each thing, and the lines that it
    names."""
    folder = copy_of(tmp_path_factory.mktemp("all"), "dits_lib", "notebooks", "params", "models")
    for path, text in files_of_the_guide().items():
        (folder / path).write_text(text)
    agents, data = (folder / f"dits_lib/{name}/__init__.py" for name in ("agents", "tasks/public"))
    insert(agents, '    "deep_search",\n)', '    "panel",\n    "newsroom",\n')
    insert(data, "        WebWalkerQA(),\n", "        MusicQuiz(),\n")
    insert(data, "from .triviaqa", "from .musicquiz import MusicQuiz\n")
    return folder


@pytest.fixture(scope="module")
def with_estimator(tmp_path_factory):
    """A project with the estimator of the guide, which is one more file."""
    folder = copy_of(tmp_path_factory.mktemp("one"), "dits_lib", "notebooks", "params")
    path = "dits_lib/influence/estimators/shortest.py"
    (folder / path).write_text(files_of_the_guide()[path])
    return folder


def run(folder, *arguments, output=None):
    """Run Python in a copy of the project."""
    paths = {"PYTHONPATH": str(folder), "DITS_OUTPUT": str(output or folder)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_parameter_file_of_the_guide_is_one(tmp_path):
    own = tmp_path / "guide.yaml"
    own.write_text(blocks(GUIDE, "yaml")[0])
    assert choose_notebooks(None, load_params(own)) == ["08_deep_search"]


def test_every_block_of_the_guide_is_a_file_or_runs(copy):
    scripts = [block for block in blocks(GUIDE) if not block.startswith("# dits_lib/")]
    assert len(files_of_the_guide()) == 4 and len(scripts) == 1
    done = run(copy, "-c", scripts[0])
    assert done.returncode == 0 and done.stdout.count("[") == 2, done.stderr


def test_a_data_set_of_ones_own(copy, tmp_path):
    rows = [
        {"id": str(n), "question": f"Who sang song {n}?", "answer": "Ann", "notes": ["one", "two"]}
        for n in range(20)
    ]
    file = tmp_path / "musicquiz.jsonl"
    code = (
        "import sys; from dits_lib.tasks.public import PUBLIC, load_splits; "
        "print(len(load_splits(PUBLIC['musicquiz'], sys.argv[1], 10, 5000)['train'].questions))"
    )
    file.write_text("\n".join(map(json.dumps, rows)))
    assert run(copy, "-c", code, str(tmp_path)).stdout.strip() == "8"
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0] | {"notes": []}])))
    done = run(copy, "-c", code, str(tmp_path))
    assert "musicquiz.jsonl:21: field 'notes': 0 notes" in done.stderr


def score_code(name):
    """What is part of the key of an estimator's scores."""
    return code_version("score", (f"influence/estimators/{name}.py",))


def test_a_new_estimator_is_one_file_and_changes_no_others_key(with_estimator):
    """Its setting has a range and a default; all others' scores keep their keys."""
    code = (
        "from dits_lib.influence import ESTIMATORS\n"
        "from dits_lib.suite.store import code_version\n"
        "for name in ESTIMATORS:\n"
        "    print(name, code_version('score', (f'influence/estimators/{name}.py',)))"
    )
    there = dict(line.split() for line in run(with_estimator, "-c", code).stdout.splitlines())
    assert there.pop("shortest") and there == {name: score_code(name) for name in ESTIMATORS}
    change = ["-m", "dits_lib.commands.plan", "--set"]
    done = run(with_estimator, *change, "influence.options={shortest: {power: 9}}")
    assert "influence.options.shortest: power = 9: must be less than or equal to 4" in done.stderr
    done = run(with_estimator, *change, "influence.estimator=shortes")
    assert "influence.estimator = 'shortes'" in done.stderr and done.returncode == 2


def test_settings_of_an_estimator_are_in_its_key_alone():
    plain, other = (
        load_params("smoke", [f"influence.options={{racing: {{questions: {n}}}}}"]).influence
        for n in (2, 3)
    )
    loss = DPOLoss(0.1, 0.0)
    changed = {n for n, e in ESTIMATORS.items() if e.key(plain, loss) != e.key(other, loss)}
    assert changed == {"racing"}
    more = load_params("smoke", ["influence.policy_samples=9"]).influence
    base = load_params("smoke").influence
    uses = {n for n, e in ESTIMATORS.items() if e.key(base, loss) != e.key(more, loss)}
    assert uses == {n for n, e in ESTIMATORS.items() if "policy_samples" in e.uses}
    for other in (DPOLoss(0.2, 0.0), DPOLoss(0.1, 0.5)):  # what trains, scores
        assert all(e.key(base, loss) != e.key(base, other) for e in ESTIMATORS.values())


@pytest.mark.long
@pytest.mark.parametrize("task", ["panel", "newsroom"])
def test_agents_of_ones_own_run_the_notebooks(copy, task, tmp_path):
    """In every table and figure, and in the plan. The micro model does not know what these agents
    are told, so pairs are made from the number of tokens alone: what is shown is that they run.
    The newsroom never answers, so that no step changes its metric: notebook 02 says so and ends."""
    names = ["01_rollout", "03_selection_ablation"]
    tables = ["01_pairs", "03_arms", "03_differences"]
    if task == "panel":
        names, tables = [*names, "02_scoring"], [*tables, "02_reliability"]
    changes = [
        f"tasks=[{task}]",
        "search.token_weight=-0.6",
        "pairs={min_value: -9, min_gap: 0}",
        "sft.min_reward=-9",
        f"agents.{task}={{max_new_tokens: 6}}",
        "influence.estimator=shortest",
    ]
    options = ["--profile", "smoke", *(part for c in changes for part in ("--set", c))]
    chosen = [part for name in names for part in ("--notebook", name)]
    command = ["-m", "dits_lib.commands.reproduce", *options, *chosen]
    done = run(copy, *command, output=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results").glob("smoke-changed-*")
    for name in tables:
        assert set(pd.read_csv(folder / "tables" / f"{name}.csv")["task"]) == {task}
    assert (folder / "figures" / f"01_tree_{task}.png").stat().st_size > 1000
    assert f"{task}: the micro world" in (folder / "README.md").read_text()
    assert yaml.safe_load((folder / "params.yaml").read_text())["tasks"] == [task]
    if task == "newsroom":
        scored = run(copy, *command[:2], *options, "--notebook", "02_scoring", output=tmp_path)
        assert scored.returncode == 2
        assert "one_step: all 8 scores are 0, which cannot tell" in scored.stderr
    plan = run(copy, "-m", "dits_lib.commands.plan", *options, output=tmp_path)
    assert plan.returncode == 0 and "03_selection_ablation" in plan.stdout, plan.stderr


@pytest.mark.long
def test_the_loop_of_the_readme_learns(tmp_path):
    """Thirty lines through the public names: the accuracy rises."""
    loop = blocks(README)[0]
    lines = [line for line in loop.splitlines() if line.strip()]
    assert len(lines) <= 33 and "dits_lib." not in loop.replace("import dits_lib as dits", "")
    done = subprocess.run(
        [sys.executable, "-c", loop], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = re.findall(r"(\w+): accuracy ([\d.]+)", done.stdout)
    accuracy = {name: float(value) for name, value in found}
    # Two standard errors of the difference of two accuracies, each on 400 questions.
    assert accuracy["DITS"] > accuracy["base"] + 2 * (2 * 0.25 / 400) ** 0.5


def test_rows_of_an_artifact_are_read_once(tmp_path, monkeypatch):
    """However many jobs of a process ask for them."""
    pipeline = Pipeline(load_params("smoke"), "debate", Store(tmp_path))
    searched = pipeline.search(pipeline.base_model(), "train", 4, 0)
    assert searched.rows("pairs.jsonl") is searched.rows("pairs.jsonl")
    other = Pipeline(load_params("smoke"), "debate", Store(tmp_path))
    found = other.search(other.base_model(), "train", 4, 0)
    assert found.rows("pairs.jsonl") is searched.rows("pairs.jsonl")
    assert [pair.node for pair in pipeline.pairs(searched)] == [
        int(pair.id.rsplit("/", 1)[1]) for pair in pipeline.pairs(searched)
    ]
