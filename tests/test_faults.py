"""Kills, damaged files, full disks: what can be made anew is, the rest is refused in one line."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from dits_lib.report.index import read_index
from dits_lib.report.render import artifacts_of
from dits_lib.settings import ROOT
from dits_lib.settings.files import FileError, read_text, write_changed, write_file
from dits_lib.suite.execution import is_current, make_way_for, write_stamp
from dits_lib.suite.ledger import ledger
from dits_lib.suite.store import Artifact, Store, StoreError, sweep, write_json, write_jsonl
from dits_lib.suite.workers import WorkerError, run_jobs

ODD = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b"\xff",
    b"3",
    b'"x"',
    b"[" * 100_000,
    b"9" * 5000,
    b'{"key": 1}',
]
"""Contents that are no stamp, no index and no manifest."""


def one_line(error):
    return "\n" not in str(error.value)


def made(root, value=1):
    def make(folder):
        write_json(folder / "metric.json", {"value": value})
        write_jsonl(folder / "rows.jsonl", [{"n": 1}, {"n": 2}])
        return {"generated_tokens": value}

    return Store(root).get("evaluate", {"value": value}, make)


# Writing


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "below" / "table.md"
    write_file(file, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="table.md: no space left on the device") as error:
        write_file(file, "new and longer")
    assert one_line(error) and file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == ["table.md"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_fills_up_in_a_stage_leaves_the_finished_ones(tmp_path):
    kept = made(tmp_path)

    def make(folder):
        (folder / "big.bin").symlink_to("/dev/full")
        (folder / "big.bin").write_bytes(b"x" * 100_000)

    with pytest.raises(StoreError, match="no space left on the device") as error:
        Store(tmp_path).get("evaluate", {"other": 1}, make)
    assert one_line(error) and sorted(p.name for p in tmp_path.iterdir()) == [
        ".locks",
        kept.path.name,
    ]


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    left, busy = tmp_path / ".table.md.0123abcd.tmp", tmp_path / ".other.md.0123abcd.tmp"
    for path in (left, busy):
        path.write_text("half")
    with busy.open("r+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_file(tmp_path / "table.md", "whole")
    assert not left.exists() and busy.exists()
    write_file(tmp_path / "table.md", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_what_lies_in_the_way_of_a_file(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "link"):
        write_file(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text" and not (tmp_path / name).is_symlink()
    with pytest.raises(FileError, match="full: a folder, where a file belongs; move it away"):
        write_file(tmp_path / "full", "text")
    assert (tmp_path / "full" / "mine.txt").exists()
    with pytest.raises(FileError, match="empty: no folder, and none can be made there") as error:
        write_file(tmp_path / "empty" / "below.md", "text")
    assert one_line(error)


def test_a_file_that_says_this_already_is_not_written(tmp_path):
    file = tmp_path / "README.md"
    for content in (b"\xff", b"text"):
        file.write_bytes(content)
        before = file.stat().st_ino
        write_changed(file, "text")
        assert file.read_text() == "text"
    assert file.stat().st_ino == before
    file.write_bytes(b"a\xff")
    with pytest.raises(FileError, match=r"not UTF-8 \(byte 1\); run again"):
        read_text(file, "run again")


# Artifacts


@pytest.mark.parametrize("content", ODD)
def test_a_manifest_of_another_shape_is_one_line(tmp_path, content):
    artifact = made(tmp_path)
    (artifact.path / "manifest.json").write_bytes(content)
    for read in (lambda: made(tmp_path), lambda: ledger(tmp_path, [artifact.name])):
        with pytest.raises(StoreError, match="manifest.json: .*; delete the folder") as error:
            read()
        assert one_line(error) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "change", [{"files": {}}, {"cost": {}}, {"spec": {"value": 2}}, {"stage": "search"}]
)
def test_a_manifest_that_was_changed_is_not_believed(tmp_path, change):
    artifact = made(tmp_path)
    file = artifact.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(StoreError, match="manifest.json: damaged"):
        Artifact.at(artifact.path)


def test_a_manifest_of_another_artifact_is_not_believed(tmp_path):
    one, two = made(tmp_path), made(tmp_path, 2)
    for file in one.path.iterdir():
        shutil.copy(file, two.path / file.name)
    with pytest.raises(StoreError, match="tells of another artifact; delete the folder"):
        made(tmp_path, 2)
    assert Artifact.at(one.path).json("metric.json") == {"value": 1}


def test_only_the_files_of_an_artifact_are_read(tmp_path):
    artifact = made(tmp_path)
    write_json(artifact.path / "more.json", 1)
    assert len(artifact.rows("rows.jsonl")) == 2
    for read, message in (
        (lambda: artifact.rows("more.json"), "more.json: not in manifest.json"),
        (lambda: artifact.json("rows.jsonl"), "rows.jsonl: 2 rows instead of one"),
    ):
        with pytest.raises(StoreError, match=message) as error:
            read()
        assert one_line(error) and "delete the folder" in str(error.value)


@pytest.mark.parametrize("kind", ["link", "loop", "file", "folder", "file is a folder"])
def test_what_lies_in_the_place_of_an_artifact_is_one_line(tmp_path, kind):
    path = made(tmp_path).path
    place = path / "metric.json" if kind == "file is a folder" else path
    shutil.rmtree(path) if place == path else place.unlink()
    {
        "link": lambda: place.symlink_to(tmp_path / "nowhere"),
        "loop": lambda: place.symlink_to(place),
        "file": lambda: place.write_text("mine"),
        "folder": place.mkdir,
        "file is a folder": place.mkdir,
    }[kind]()
    with pytest.raises(StoreError, match="; delete the folder") as error:
        made(tmp_path)
    assert one_line(error) and str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "link", "no folder of locks"])
def test_a_lock_that_cannot_be_had_is_one_line(tmp_path, kind):
    path = made(tmp_path).path
    shutil.rmtree(path)
    lock = tmp_path / ".locks" / path.name
    lock.unlink(missing_ok=True)
    if kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(tmp_path / "nowhere" / "lock")
    else:
        shutil.rmtree(lock.parent)
        lock.parent.write_text("mine")
    with pytest.raises(StoreError, match="locks cannot be kept there .*; delete it") as error:
        made(tmp_path)
    assert one_line(error)


def test_folders_of_killed_stages_are_removed_and_those_in_work_are_not(tmp_path):
    names = [f"search-{digit * 20}" for digit in "ab"]
    for name in names:
        (tmp_path / f".{name}.1234" / "model").mkdir(parents=True)
    (tmp_path / ".mine-own.1234").mkdir()
    made(tmp_path / "other")  # another store sweeps nothing here
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / names[0]):
        made(tmp_path)
        assert (tmp_path / f".{names[0]}.1234").exists()
    assert not (tmp_path / f".{names[1]}.1234").exists()
    sweep(tmp_path)
    assert not (tmp_path / f".{names[0]}.1234").exists() and (tmp_path / ".mine-own.1234").exists()


def _stage_until_killed(root):
    def make(folder):
        (folder / "weights.bin").write_bytes(b"x" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)

    Store(root).get("evaluate", {"killed": True}, make)


def test_a_killed_stage_leaves_nothing_after_the_next_one(tmp_path):
    code = f"from tests.test_faults import _stage_until_killed as f; f({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and list(tmp_path.glob(".evaluate-*/weights.bin"))
    made(tmp_path)
    assert sorted(path.name[:9] for path in tmp_path.iterdir()) == [".locks", "evaluate-"]


# Stamps and indices


@pytest.fixture
def reported(tmp_path):
    """(stamp, results, index) of a notebook that ran: one table, one artifact behind it."""
    folder, runs = tmp_path / "results", tmp_path / "runs"
    artifact = made(runs)
    entries = [{"kind": "table", "name": "01_data", "caption": "What."}]
    body = {
        "notebook": "01_rollout",
        "entries": entries,
        "claims": [],
        "artifacts": [artifact.name],
    }
    write_file(folder / "index" / "01_rollout.json", json.dumps(body))
    for name in ("tables/01_data.csv", "tables/01_data.md", "notebooks/01_rollout.ipynb"):
        write_file(folder / name, name)
    stamp = runs / "01_rollout.stamp.json"
    write_stamp(stamp, "key", "01_rollout", folder)
    assert is_current(stamp, "key", folder) and not is_current(stamp, "other", folder)
    return stamp, folder, folder / "index" / "01_rollout.json"


@pytest.mark.parametrize("content", ODD)
def test_a_damaged_stamp_or_index_means_run_again(reported, content):
    stamp, folder, index = reported
    kept = stamp.read_bytes()
    stamp.write_bytes(content)
    assert not is_current(stamp, "key", folder)
    stamp.write_bytes(kept)
    index.write_bytes(content)
    assert not is_current(stamp, "key", folder)
    with pytest.raises(FileError, match="01_rollout.json: damaged .*; delete it and run") as error:
        artifacts_of(folder)
    assert one_line(error) and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["tables/01_data.csv", "notebooks/01_rollout.ipynb", "stamp"])
@pytest.mark.parametrize("kind", ["deleted", "folder", "link", "loop", "changed"])
def test_an_output_that_is_not_as_it_was_written_means_run_again(reported, name, kind):
    stamp, folder, _ = reported
    path = stamp if name == "stamp" else folder / name
    path.unlink()
    {
        "deleted": lambda: None,
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(folder / "nowhere"),
        "loop": lambda: path.symlink_to(path),
        "changed": lambda: path.write_text("mine"),
    }[kind]()
    assert not is_current(stamp, "key", folder)


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda p: (p / "manifest.json").write_text("{")])
def test_results_whose_stages_are_gone_or_damaged_are_made_again(reported, damage):
    """Else the costs in the README would leave them out without a word."""
    stamp, folder, index = reported
    damage(stamp.parent / read_index(index).artifacts[0])
    assert not is_current(stamp, "key", folder)


def test_what_is_in_the_way_of_outputs_is_told_before_a_notebook_runs(reported):
    stamp, folder, _ = reported
    table = folder / "tables" / "01_data.csv"
    table.unlink()
    table.mkdir()
    make_way_for("01_rollout", folder, stamp)
    assert not table.exists() and (folder / "figures").is_dir()
    (table / "mine").mkdir(parents=True)
    with pytest.raises(FileError, match="01_data.csv: a folder, where a file belongs"):
        make_way_for("01_rollout", folder, stamp)
    shutil.rmtree(folder / "tables")
    (folder / "tables").write_text("mine")
    with pytest.raises(FileError, match="tables: no folder, and none can be made there"):
        make_way_for("01_rollout", folder, stamp)


def test_an_index_names_nothing_outside_its_folder(reported):
    index = reported[2]
    body = json.loads(index.read_text())
    body["entries"][0]["name"] = "../../README"
    index.write_text(json.dumps(body))
    with pytest.raises(FileError, match=r"damaged \(entries.0.name: "):
        read_index(index)


# Workers


def _ends(number, how):
    if number:
        os._exit(how) if how > 0 else os.kill(os.getpid(), -how)
    time.sleep(20 if how != -signal.SIGINT else 0)
    return number


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (-signal.SIGKILL, "killed by the system, most likely for want of memory; lower workers"),
        (-signal.SIGTERM, "ended by SIGTERM"),
        (3, "ended with status 3"),
    ],
)
def test_a_killed_worker_is_one_line_with_the_likely_cause(how, message):
    with pytest.raises(WorkerError, match=message) as error:
        run_jobs(_ends, [(n, how) for n in range(2)], 2, "x")
    assert one_line(error) and "finished stages are kept, run again" in str(error.value)


def test_workers_do_not_see_ctrl_c(capfd):
    """It reaches them with their parent, which ends them; they would each show a traceback."""
    assert run_jobs(_ends, [(n, -signal.SIGINT) for n in range(2)], 2, "x") == [0, 1]
    assert "Traceback" not in capfd.readouterr().err
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


# The campaign, small


def test_the_faults_of_a_seed_are_the_same_each_time(tmp_path):
    import random

    from benchmarks.fault_inputs import own_row_reads, parameter_reads, public_row_reads

    for reads in (own_row_reads, parameter_reads, public_row_reads):
        told = []
        for turn in ("a", "b"):
            folder = tmp_path / f"{reads.__name__}-{turn}"
            folder.mkdir()
            told.append([read.what for read in reads(20, random.Random(1), folder)])
        assert told[0] == told[1] and len(set(told[0])) > 10


@pytest.mark.slow
@pytest.mark.long
def test_a_small_campaign_loses_nothing(tmp_path):
    command = "-m benchmarks.faults --kills 3 --damaged 10 --mutated 30 --disks 1 --seed 11 --out"
    page = tmp_path / "faults.md"
    done = subprocess.run(
        [sys.executable, *command.split(), str(page)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "DITS_OUTPUT"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + Path(page).read_text()
    assert page.read_text().strip().endswith("None.")
