"""Bad input gives one clear line; artifacts are whole or absent, and damage is named."""

import ast
import errno
import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml

from dits_lib.commands import reproduce
from dits_lib.engines import ModelError
from dits_lib.rollout import sample_dialogues
from dits_lib.settings import ROOT, ParamsError
from dits_lib.suite import checks, store
from dits_lib.suite.checks import InputError, check_models
from dits_lib.suite.ledger import ledger
from dits_lib.suite.notebooks import questions_needed
from dits_lib.suite.params import check_params, load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.store import (
    LEFT_OUT,
    Artifact,
    Store,
    StoreError,
    code_version,
    source_digest,
    write_json,
)
from dits_lib.suite.workers import run_jobs
from dits_lib.tasks import DataError, make_questions

BAD_PARAMS = {
    "unknown key": ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
    "unknown nested key": (
        {"search": {"repetition": 3}},
        "search.repetition: unknown key; did you mean 'repetitions'?",
    ),
    "deeper unknown key": (
        {"world": {"harmful": {"shares": 0.1}}},
        "world.harmful.shares: unknown key; did you mean 'share'?",
    ),
    "wrong type": ({"seed": "zero"}, "seed = 'zero': must be a valid integer"),
    "too small": (
        {"search": {"repetitions": 0}},
        "search.repetitions = 0: must be greater than or equal to 1",
    ),
    "too large": (
        {"world": {"facts_per_view": 99}},
        "world.facts_per_view = 99: must be less than or equal to 8",
    ),
    "share above one": ({"selection": {"alpha": 1.5}}, "selection.alpha = 1.5"),
    "zero learning rate": (
        {"dpo": {"learning_rate": 0}},
        "dpo.learning_rate = 0: must be greater than 0",
    ),
    "unknown choice": (
        {"search": {"guide": "luck"}},
        "search.guide = 'luck': must be 'q', 'influence' or 'both'",
    ),
    "unknown task": (
        {"tasks": ["chess"]},
        "tasks.0 = 'chess': must be 'exchange', 'debate' or 'deep_search'",
    ),
    "no task": ({"tasks": []}, "tasks = []"),
    "a task twice": (
        {"tasks": ["debate", "debate"]},
        "must not repeat a value, but debate stands there twice",
    ),
    "harm in own questions": (
        {"tasks": ["debate"], "world": {"questions": "x.jsonl", "harmful": {"share": 0.1}}},
        "takes no planted harm",
    ),
    "one seed": (
        {"ablation": {"seeds": 1}},
        "ablation.seeds = 1: must be greater than or equal to 2",
    ),
    "section is no mapping": ({"search": 3}, "search = 3"),
    "harm of unknown kind": (
        {"world": {"harmful": {"share": 0.1, "kind": "evil"}}},
        "world.harmful.kind = 'evil'",
    ),
    "harm in deep search": (
        {"tasks": ["deep_search"], "world": {"harmful": {"share": 0.1}}},
        "world.harmful knows no harm for deep_search",
    ),
    "a site without its questions": (
        {"web": {"site": "live"}},
        "web.site is live, but data.deep_search is micro",
    ),
    "questions without their site": (
        {"data": {"deep_search": "webwalkerqa"}},
        "web.site is micro: set it to live, or to a folder",
    ),
    "a warm start of deep search": (
        {"sft": {"warm_start": "scripted"}},
        "no scripted dialogues of deep_search",
    ),
    "no notebook for the tasks": (
        {"tasks": ["deep_search"], "notebooks": ["01_rollout"]},
        "none of them serves tasks deep_search",
    ),
    "the micro web's model with chat prompts": (
        {"agents": {"prompts": "chat"}},
        "set web.model to null",
    ),
    "a search engine without http": (
        {"web": {"search_engine": "localhost:8888"}},
        "web.search_engine = 'localhost:8888'",
    ),
    "a judge without a model": ({"web": {"judge": "model"}}, "name its judge_model"),
    "a judge without an address": (
        {"web": {"judge": "server", "judge_model": "m", "judge_url": "localhost"}},
        "judge_url must be its address",
    ),
    "no calls": ({"web": {"calls": 0}}, "web.calls = 0: must be greater than or equal to 1"),
    "profile with a slash": ({"profile": "../x"}, "profile = '../x'"),
}


@pytest.mark.parametrize("name", list(BAD_PARAMS))
def test_a_bad_parameter_gives_one_line(name):
    raw, message = BAD_PARAMS[name]
    with pytest.raises(ParamsError) as error:
        check_params(raw, "mine.yaml")
    lines = str(error.value).splitlines()
    assert len(lines) == 1 and lines[0].startswith("mine.yaml: ") and message in lines[0]


def test_tasks_decide_which_notebooks_run():
    from dits_lib.suite.checks import InputError, choose_notebooks

    def run(*changes, wanted=None):
        return choose_notebooks(wanted, load_params("micro", list(changes)))

    assert run() == load_params("micro").notebooks
    assert run("tasks=[exchange]") == [name for name in run() if name != "08_deep_search"] and run(
        "tasks=[deep_search]"
    ) == ["08_deep_search"]
    assert choose_notebooks(None, load_params("micro", dataset="hotpotqa")) == run(
        "tasks=[exchange]"
    )
    assert run("tasks=[exchange]", "world.questions=mine.jsonl", "sizes.test_questions=5") == run(
        "tasks=[exchange]"
    )
    with pytest.raises(InputError, match="08_deep_search serves deep_search alone"):
        run("tasks=[debate]", wanted=["08_deep_search"])
    with pytest.raises(
        ParamsError, match="tasks names deep_search, but 01_rollout serves exchange, debate"
    ):
        load_params("micro", ["tasks=[deep_search]"]).serving("01_rollout")
    with pytest.raises(
        ParamsError, match="tasks names debate, but 08_deep_search serves deep_search alone"
    ):
        load_params("micro", ["tasks=[debate]"]).serving("08_deep_search")
    assert load_params("llama3-8b", dataset="webwalkerqa").parts()[0].notebooks == [
        "08_deep_search"
    ]


PROFILES = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_parameters_go_to_other_processes_whole(profile):
    params = load_params(profile)
    assert pickle.loads(pickle.dumps(params)) == params
    for part in params.parts():
        assert all(count >= 0 for count in questions_needed(part).values())


def test_changes_reach_the_name_of_a_data_sets_results():
    assert load_params("micro", ["profile=mine"], "hotpotqa").profile == "mine-hotpotqa"
    assert load_params("micro", [], "hotpotqa").profile == "micro-hotpotqa"


def test_a_notebook_outside_the_list_counts_its_own_questions():
    """Else a warm start would take questions that it searches."""
    params = load_params("smollm2", ["notebooks=[03_selection_ablation]"])
    listed, own = (params.serving(name) for name in ("03_selection_ablation", "05_iterations"))
    assert own.notebooks == ["03_selection_ablation", "05_iterations"]
    more = params.iterations.rounds * params.iterations.questions
    assert questions_needed(own)["train"] == questions_needed(listed)["train"] + more


def test_one_budget_is_enough():
    assert questions_needed(load_params("micro", ["budget.validation=[10]"]))["validation"] >= 10


def test_every_mistake_has_its_line():
    with pytest.raises(ParamsError) as error:
        check_params({"sed": 1, "workers": 0}, "mine.yaml")
    assert len(str(error.value).splitlines()) == 2


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ParamsError, match="no such parameter file; profiles here: .*micro"):
        load_params("nowhere")
    (tmp_path / "broken.yaml").write_text("seed: [1\nx: 2")
    with pytest.raises(ParamsError, match=r"broken.yaml:2: not valid YAML"):
        load_params(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ParamsError, match="expected a mapping"):
        load_params(tmp_path / "list.yaml")


def test_the_default_profile_names_every_key():
    raw = yaml.safe_load((ROOT / "params" / "micro.yaml").read_text())
    dumped = load_params("micro").model_dump()
    assert set(raw) == set(dumped)
    assert load_params("smoke").dpo.learning_rate == load_params("micro").dpo.learning_rate
    for section, value in dumped.items():
        if isinstance(value, dict):
            assert set(raw[section]) == set(value), section


def test_every_key_of_the_default_profile_has_a_comment():
    lines = [
        line
        for line in (ROOT / "params" / "micro.yaml").read_text().splitlines()
        if line.startswith("  ") or ": " in line
    ]
    bare = [line.split(":")[0].strip() for line in lines if "#" not in line]
    explained = {line.split(":")[0].strip() for line in lines if "#" in line}
    assert set(bare) <= explained, set(bare) - explained


def reproduce_mine(folder):
    """`make reproduce` with `mine.yaml` of a folder, which takes the results too."""
    command = [sys.executable, "-m", "dits_lib.commands.reproduce", "--profile"]
    return subprocess.run(
        [*command, str(folder / "mine.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"DITS_OUTPUT": str(folder)},
        check=False,
    )


def test_what_a_gpu_computed_can_be_shown_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "sees_gpu", lambda: False)
    with pytest.raises(InputError, match="torch sees no GPU"):
        checks.check_gpu(tmp_path)
    (tmp_path / "sft-1" / "model").mkdir(parents=True)
    (tmp_path / "sft-1" / "model" / LEFT_OUT).touch()  # as dits_lib.commands.pack leaves it
    checks.check_gpu(tmp_path)
    # Nothing is left to compute ahead, and no process would find a GPU.
    monkeypatch.setattr(reproduce, "sees_gpu", lambda: False)
    monkeypatch.setattr("dits_lib.suite.studies.ahead.run_ahead", None)
    reproduce.compute_ahead(["01_rollout"], load_params("smoke", ["model.device=cuda"]), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model: {path: models/none}", "no such model folder"),
        ("tasks: [debate]\nworld: {questions: none.jsonl}", "none.jsonl: no such file"),
        ("model: {device: cuda}", "torch sees no GPU"),
        ("search: {repetitons: 2}", "did you mean 'repetitions'?"),
    ],
)
def test_the_command_refuses_bad_input_at_once(tmp_path, change, message):
    import torch

    if "cuda" in change and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (tmp_path / "mine.yaml").write_text(change)
    done = reproduce_mine(tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.glob("results/*/notebooks/*.ipynb"))


def make_artifact(store, value=1, stage="evaluate"):
    calls = []

    def make(folder):
        calls.append(value)
        write_json(folder / "metric.json", {"value": value})
        return {"generated_tokens": 10 * value}

    return store.get(stage, {"value": value}, make), calls


def test_an_artifact_is_made_once_and_found_again(tmp_path):
    first, calls = make_artifact(Store(tmp_path))
    again, more = make_artifact(Store(tmp_path))
    assert (
        calls == [1]
        and more == []
        and again.path == first.path
        and again.json("metric.json") == {"value": 1}
    )
    assert first.manifest["cost"]["generated_tokens"] == 10 and first.manifest["files"]
    other, _ = make_artifact(Store(tmp_path), 2)
    assert other.path != first.path


def test_two_processes_never_make_one_artifact(tmp_path):
    """Two stores stand for two processes; the lock is the system's."""
    made = []

    def make(folder):
        made.append(1)
        time.sleep(0.5)
        write_json(folder / "metric.json", 1)
        return {}

    with ThreadPoolExecutor(2) as pool:
        keys = [pool.submit(Store(tmp_path).get, "evaluate", {}, make) for _ in range(2)]
    assert len({key.result().key for key in keys}) == 1 and made == [1]


def stages_in(folder):
    """All that a store holds but its locks, which stay."""
    return [path.name for path in folder.iterdir() if path.name != ".locks"]


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def make(folder):
        write_json(folder / "half.json", 1)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        Store(tmp_path).get("evaluate", {}, make)
    assert stages_in(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "metric.json").write_text('{"val'), "metric.json: damaged or cut short"),
        (lambda f: (f / "metric.json").unlink(), "metric.json: missing"),
        (
            lambda f: (f / "manifest.json").write_text('{"cost'),
            "manifest.json: missing or cut short",
        ),
    ],
)
def test_a_damaged_artifact_is_named_with_the_cure(tmp_path, damage, message):
    artifact, _ = make_artifact(Store(tmp_path))
    kept, _ = make_artifact(Store(tmp_path), 2)
    damage(artifact.path)
    with pytest.raises(StoreError) as error:
        make_artifact(Store(tmp_path))
    assert (
        message in str(error.value)
        and "delete the folder" in str(error.value)
        and "\n" not in str(error.value)
    )
    assert make_artifact(Store(tmp_path), 2)[1] == [] and kept.path.exists()


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full"
)
def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    kept, _ = make_artifact(Store(tmp_path))

    def make(folder):
        (folder / "big.bin").symlink_to("/dev/full")
        # The kernel answers ENOSPC, as a full disk does.
        with (folder / "big.bin").open("wb") as handle:
            handle.write(b"x" * 100_000)

    with pytest.raises(
        StoreError,
        match="no space left on the device; free some and run again, finished stages are kept",
    ):
        Store(tmp_path).get("evaluate", {"other": 1}, make)
    assert stages_in(tmp_path) == [kept.path.name]


def test_an_unwritable_results_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    (tmp_path / "mine.yaml").write_text("seed: 0")
    done = reproduce_mine(tmp_path)
    assert (
        done.returncode == 2
        and "cannot be written" in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )


def test_code_is_part_of_the_key_but_comments_are_not():
    source = 'def f(x):\n    """Doc."""\n    return x + 1\n'
    assert source_digest(source) == source_digest(
        'def f(x):\n    # why\n    """Other."""\n\n    return x + 1\n'
    )
    assert source_digest(source) != source_digest(source.replace("+ 1", "+ 2"))
    assert len({code_version(stage) for stage in ("search", "dpo", "evaluate")}) == 3


def test_the_key_of_code_is_that_of_any_python():
    """Python 3.12 gave functions and classes a list of type parameters, which is empty in code that
    older ones read; a constant None is no empty field."""
    source = "def f(a, b=None):\n    return [a, b, None, '']\n\n\nclass C:\n    x: int = 0\n"
    tree = ast.parse(source)
    for node in tree.body:
        node._fields, node.type_params = (*node._fields, "type_params"), []
    newer = store._dumped(tree)
    assert newer == store._dumped(ast.parse(source))
    digests = [source_digest(s) for s in ("f(None)", "f('')", "f()", "f([])", "f(0)", "f(*[])")]
    assert len(set(digests)) == len(digests)


def test_the_ledger_adds_up(tmp_path):
    names = [
        make_artifact(Store(tmp_path), value, stage)[0].path.name
        for value, stage in ((1, "evaluate"), (2, "evaluate"), (5, "sft"))
    ]
    table = ledger(tmp_path, names + names[:1]).set_index("stage")
    assert (
        table.loc["evaluate", "generated_tokens"] == 30 and table.loc["evaluate", "artifacts"] == 2
    )
    assert table.loc["total", "generated_tokens"] == 80
    assert (
        json.loads((tmp_path / names[0] / "manifest.json").read_text())["cost"]["peak_memory_mb"]
        > 0
    )


def _two_stages(folder):
    for stage in ("search", "score"):
        Store(folder).get(stage, {}, lambda folder: {})


def _square(raw, number):
    return raw * number * number


def _sleep_long(path):
    import pathlib
    import time

    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(120)


def test_jobs_keep_their_order_on_several_processes():
    assert run_jobs(_square, [(2, n) for n in range(6)], 2, "squares") == [
        2 * n * n for n in range(6)
    ]


def test_a_bar_tells_the_stages_of_its_workers(tmp_path, capfd):
    for workers in (1, 2):
        run_jobs(
            _two_stages, [(str(tmp_path / f"{workers}-{n}"),) for n in range(2)], workers, "studies"
        )
        told = capfd.readouterr().err
        assert "stage 4: " in told and "100%" in told and ("search" in told or "score" in told)


def _own_gpu(number: int) -> str | None:
    time.sleep(3)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(("visible", "expected"), [("0,3", {"0", "3"}), ("2", {"2"}), ("", {""})])
def test_several_gpus_are_dealt_out_to_the_workers(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert set(run_jobs(_own_gpu, [(n,) for n in range(4)], 4, "x")) == expected
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def _fail_first(number: int, folder: str) -> None:
    if number == 0:
        raise DataError("this one fails")
    time.sleep(2)
    (Path(folder) / str(number)).touch()


def test_a_failed_job_ends_the_run_and_what_is_queued_is_not_computed(tmp_path):
    code = (
        "from dits_lib.suite.workers import run_jobs; from dits_lib.tasks import DataError; from "
        "tests.test_params_store import _fail_first\n"
        f"try: run_jobs(_fail_first, [(n, {str(tmp_path)!r}) for n in range(8)], 1, 'x', "
        "apart=True)\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "this one fails" and len(list(tmp_path.iterdir())) <= 1


def test_a_full_disk_met_at_the_lock_is_named(tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreError, match="no space left on the device"):
        make_artifact(Store(tmp_path))


def test_workers_end_when_their_run_is_killed(tmp_path):
    marks = [tmp_path / "a", tmp_path / "b"]
    code = f"from dits_lib.suite.workers import run_jobs; from tests.test_params_store import _sleep_long; run_jobs(_sleep_long, {[(str(m),) for m in marks]}, 2, 'x')"  # noqa: E501
    process = subprocess.Popen(
        [sys.executable, "-c", f"if __name__ == '__main__': {code}"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not all(m.exists() and m.read_text() for m in marks):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    workers = [psutil.Process(int(m.read_text())) for m in marks]
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


@pytest.fixture
def own_questions(tmp_path):
    """The micro world's questions as somebody's own file."""
    rows = [
        q.to_json()
        for split in ("train", "validation", "development", "test")
        for q in make_questions("exchange", split, 8, 0)
    ]
    for row in rows:
        row["meta"] = {"split": row["meta"]["split"]}
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_own_questions_run_through_the_stages(own_questions, tmp_path):
    raw = load_params("smoke").model_dump() | {
        "tasks": ["exchange"],
        "world": {"questions": str(own_questions)},
    }
    lab, greedy = (
        Pipeline(
            check_params(raw | {"sizes": raw["sizes"] | {"test_questions": n}}, "own"),
            "exchange",
            Store(tmp_path / "runs"),
        )
        for n in (8, 9)
    )
    searched = lab.search(lab.base_model(), "train", 6, 0)
    assert {row["question"]["meta"]["split"] for row in searched.rows("trees.jsonl")} == {
        "train"
    } and lab.pairs(searched)
    assert lab.evaluate(lab.base_model(), 0).shape == (8,)
    assert sum(lab.endings(lab.base_model(), 0).values()) == pytest.approx(1)
    with pytest.raises(DataError, match="8 questions of split 'test', but 9 are asked for"):
        greedy.evaluate(greedy.base_model(), 0)


def test_a_model_is_tested_at_temperatures_of_its_own(tmp_path):
    sizes = ["sizes.test_questions=12", "sizes.test_samples=3"]
    changes = [*sizes, "testing.temperatures=[0.9, 0]", "search.temperature=0.5"]
    params = load_params("smoke", changes)
    lab = Pipeline(params, "debate", Store(tmp_path))
    base = lab.base_model()
    drawn, greedy = lab.evaluation(base, 0), lab.evaluation(base, 0, 0.0)
    found = drawn.json("metric.json"), greedy.json("metric.json")
    # One greedy dialogue of each question says all.
    assert [len(one["scores"]) for one in found] == [36, 12]
    assert lab.evaluation(base, 0, 0.9).key == drawn.key != greedy.key
    questions = lab.questions("test", 12, 0)
    played = sample_dialogues(lab.engine(base), lab.system, questions, "any noise", 1, 0.0)
    assert lab.evaluate(base, 0, 0.0).tolist() == [dialogue.metric for dialogue in played]
    assert lab.judged(base, 0)["dialogues"] == 36
    cut = Pipeline(load_params("smoke", [*changes, "testing.top_p=0.5"]), "debate", Store(tmp_path))
    assert cut.evaluation(base, 0).key != drawn.key


def test_samples_of_greedy_tests_alone_are_refused():
    alone = ["testing.temperatures=[0]", "sizes.test_samples=2"]
    with pytest.raises(ParamsError, match="sizes.test_samples is 2, but testing.temperatures is 0"):
        load_params("smoke", alone)
    load_params("smoke", ["testing.temperatures=[0]"])
    load_params("smoke", ["testing.temperatures=[0, 1]", "sizes.test_samples=2"])
    for wrong in ("[]", "[1, 1]", "[-1]", "[6]", "1.0"):
        with pytest.raises(ParamsError, match="testing.temperatures"):
            load_params("smoke", [f"testing.temperatures={wrong}"])
    with pytest.raises(ParamsError, match="tree_policy_gradient.*search.top_p is 0.9"):
        load_params("smoke", ["search.top_p=0.9", "influence.estimator=tree_policy_gradient"])


def test_own_questions_are_counted_before_anything_runs(own_questions, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"profile: mine\ntasks: [exchange]\nworld: {{questions: {own_questions}}}\n"
    )
    done = reproduce_mine(tmp_path)
    assert (
        done.returncode == 2
        and "own.jsonl: too few questions for the parameters, add some or lower the keys: "
        "train: 8 of 180 questions = sizes.sft_questions 60 + sizes.train_questions 48 + "
        "iterations.rounds 3 * iterations.questions 24 (05_iterations)"
        in done.stderr.strip().splitlines()[-1]
    )


def test_no_pairs_and_a_guided_search(tmp_path):
    raw = load_params("smoke").model_dump()
    strict = Pipeline(
        check_params(raw | {"pairs": {"min_value": 2.0, "min_gap": 0.2}}, "strict"),
        "debate",
        Store(tmp_path),
    )
    with pytest.raises(DataError, match="no preference pairs; lower pairs.min_value"):
        strict.pairs(strict.search(strict.base_model(), "train", 4, 0))
    guided = Pipeline(
        check_params(raw | {"search": raw["search"] | {"guide": "both"}}, "guided"),
        "debate",
        Store(tmp_path),
    )
    plain = Pipeline(check_params(raw, "plain"), "debate", Store(tmp_path))
    paths = [lab.search(lab.base_model(), "train", 4, 0) for lab in (guided, plain)]
    assert paths[0].key != paths[1].key and len(paths[0].rows("trees.jsonl")) == 4


def test_planted_harm_inverts_the_search_and_is_marked_in_the_pairs(tmp_path):
    raw = load_params("smoke", ["tasks=[debate]"]).model_dump() | {
        "world": {"harmful": {"share": 1.0, "kind": "inverted_reward"}}
    }
    lab = Pipeline(check_params(raw, "harm"), "debate", Store(tmp_path))
    searched = lab.search(lab.base_model(), "train", 6, 0)
    assert all(pair.meta["harmful"] for pair in lab.pairs(searched))
    assert all(
        reward == 1 - metric
        for row in searched.rows("trees.jsonl")
        for _, metric, reward in row["rewards"]
    )


def test_a_changed_model_file_changes_the_key(tmp_path):
    import shutil

    from dits_lib.suite.pipeline import _weights_key

    shutil.copytree(ROOT / "models" / "micro", tmp_path / "m")
    before = _weights_key(str(tmp_path / "m"))
    template = next((tmp_path / "m").glob("chat_template.jinja"))
    template.write_text(template.read_text() + " ")
    _weights_key.cache_clear()
    assert _weights_key(str(tmp_path / "m")) != before


def test_a_length_that_the_model_cannot_read_is_told_before_vllm_starts():
    params = load_params(
        "smoke",
        [
            "tasks=[exchange]",
            "model.engine=vllm",
            "sft.lora_rank=8",
            "dpo.lora_rank=8",
            "model.max_length=512",
        ],
    )
    with pytest.raises(
        ModelError, match="models/micro: reads 256 tokens at most, but model.max_length is 512"
    ):
        check_models(params)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (["influence.estimator=policy_gradient"], "influence.estimator"),
        (["budget.estimators={policy_gradient: 20}"], "budget.estimators"),
        (["notebooks=[06_influence_fidelity]"], "fidelity.validation"),
        (
            [
                "fidelity.validation={racing: 9}",
                "notebooks=[06_influence_fidelity]",
                "fidelity.use_seeds=2",
            ],
            "fidelity.use",
        ),
        (["notebooks=[02_scoring]"], "scoring.noise"),
    ],
)
def test_greedy_validation_is_refused_for_estimators_that_compare_samples(changes, key):
    """Wherever the parameters name one, before anything is computed."""
    with pytest.raises(ParamsError, match=f"{key} names .*set influence.temperature above 0"):
        load_params("micro", ["influence.temperature=0", *changes])
    alone = ["influence.temperature=0", "notebooks=[01_rollout, 02_scoring]", "scoring.noise={}"]
    assert load_params("micro", alone).influence.temperature == 0
    assert load_params("llama3-8b").influence.temperature == 0


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (["influence.lora_draws=30"], "influence.validation_questions is 20"),
        (["influence.lora_draws=5", "scoring.retest_questions=4"], "scoring.retest_questions"),
        (["influence.lora_draws=5", "scoring.noise={likelihood: 3}"], "scoring.noise.likelihood"),
        (["influence.lora_draws=9", "budget.validation=[8, 20]"], "budget.validation is 8"),
    ],
)
def test_more_draws_of_a_than_questions_are_refused(changes, key):
    with pytest.raises(
        ParamsError, match=f"{key}.*: each draw needs a validation question"
    ) as told:
        load_params("micro", changes)
    assert len(str(told.value).splitlines()) == 1
    assert load_params("micro", ["influence.lora_draws=5"]).influence.lora_draws == 5


def test_a_packed_run_is_whole_but_for_its_weights(tmp_path):
    """What is packed on one machine is read on another as it was; weights alone may be missing, and
    only where they were left out on purpose."""
    from dits_lib.commands.pack import pack

    def make(folder):
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        (folder / "log.json").write_text("[1]")
        return {"tokens": 7}

    there, here = tmp_path / "there" / "runs" / "micro", tmp_path / "here"
    made = Store(there).get("dpo", {"seed": 1}, make)
    assert pack(there, tmp_path / "micro.tar.gz") == (1, len(b"weights"))
    here.mkdir()
    with tarfile.open(tmp_path / "micro.tar.gz") as archive:
        archive.extractall(here, filter="data")

    def never(folder):
        raise AssertionError("computed again")

    found = Store(here / "runs" / "micro").get("dpo", {"seed": 1}, never)
    assert (found.key, found.manifest) == (made.key, made.manifest)
    assert found.json("log.json") == [1]
    left = found.path / "model" / LEFT_OUT
    assert not left.with_name("model.safetensors").exists()
    # The log is no weights, and weights may not go missing by themselves.
    left.with_name("log.json").write_text("")
    (found.path / "log.json").rename(found.path / "model" / "log.json")
    with pytest.raises(StoreError, match="log.json: missing"):
        Artifact.at(found.path)
    (found.path / "model" / "log.json").rename(found.path / "log.json")
    assert Artifact.at(found.path).key == made.key
    left.unlink()
    with pytest.raises(StoreError, match="model.safetensors: missing"):
        Artifact.at(found.path)


def test_packing_nothing_says_so(tmp_path, monkeypatch, capsys):
    from dits_lib.commands import pack

    monkeypatch.setattr(pack, "OUTPUT", tmp_path)
    assert pack.main(["--out", str(tmp_path / "x.tar")]) == 2
    assert "no finished stage to pack" in capsys.readouterr().err
    assert not (tmp_path / "x.tar").exists()
