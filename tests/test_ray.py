"""Jobs on a Ray cluster: what each host must offer, results as those of local processes, and jobs
whose host is gone. Ray's own cluster of several nodes on this machine stands in for hosts."""

import os
import secrets
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from dits_lib.settings import ParamsError
from dits_lib.suite.fitting import on_one_card
from dits_lib.suite.params import load_params
from dits_lib.suite.processes import WorkerError
from dits_lib.suite.ray_jobs import _check_offer, _Dealer, check_lock, connect
from dits_lib.suite.studies.influence_fidelity import use_job
from dits_lib.suite.workers import run_jobs
from dits_lib.tasks import DataError

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None

ASKED = load_params("smoke", ["executor=ray"]).ray
needs_ray = pytest.mark.skipif(
    ray is None, reason="Ray is not installed; make test RAY=1 installs it"
)
on_ray = [pytest.mark.ray, pytest.mark.slow, needs_ray]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["executor=slurm"], "executor = 'slurm': must be 'local' or 'ray'"),
        (["ray.gpus=2"], "ray.gpus = 2: must be less than or equal to 1"),
        (["executor=ray", "ray.gpus=0.5"], "ray.gpus is 0.5, but model.device is 'cpu'"),
        (["executor=ray", "model.device=cuda"], "no worker gets a GPU: set it to 1"),
    ],
)
def test_what_ray_cannot_do_is_told(change, told):
    with pytest.raises(ParamsError, match=told):
        load_params("smoke", change)


def test_workers_that_share_a_card_each_have_their_part_of_its_memory():
    real = ["executor=ray", "workers=8"]
    with pytest.raises(ParamsError, match="3 workers share one GPU: set model.cache_gb"):
        load_params("qwen", [*real, "ray.gpus=0.33", "model.cache_gb=null"])
    assert on_one_card(load_params("qwen", [*real, "ray.gpus=0.33"])) == 3
    assert on_one_card(load_params("qwen", [*real, "ray.gpus=1", "model.cache_gb=null"])) == 1
    assert on_one_card(load_params("qwen", ["workers=2"])) == 2


def test_a_host_must_have_both_the_cpus_and_the_gpus():
    hosts = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 4.0}]
    _check_offer(ASKED.model_copy(update={"cpus": 8}), hosts)
    _check_offer(ASKED.model_copy(update={"gpus": 1.0}), hosts)
    with pytest.raises(ParamsError, match="ray.cpus is 2 and ray.gpus 1, and no host .* has both"):
        _check_offer(ASKED.model_copy(update={"cpus": 2, "gpus": 1.0}), hosts)
    with pytest.raises(ParamsError, match="a host has at most 8 CPUs, 0 GPUs"):
        _check_offer(ASKED.model_copy(update={"gpus": 0.1}), hosts[:1])
    with pytest.raises(ParamsError, match="a host has at most 0 CPUs, 0 GPUs"):
        _check_offer(ASKED, [])


@needs_ray
def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch, tmp_path):
    before = time.monotonic()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ParamsError, match="cluster RAY_ADDRESS=127.0.0.1:1 cannot be joined"):
        connect(ASKED)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    with pytest.raises(ParamsError, match="127.0.0.1:1, which .*ray_current_cluster names"):
        connect(ASKED)
    assert time.monotonic() - before < 30


def test_a_lock_of_another_host_must_be_seen(tmp_path):
    with FileLock(tmp_path / "held"):
        check_lock(tmp_path / "held")
    with pytest.raises(ParamsError, match="keeps no locks between hosts"):
        check_lock(tmp_path / "held")  # as where a lock is not told to other hosts


@needs_ray
def test_a_worker_that_was_killed_for_memory_is_one_that_was_lost(monkeypatch):
    """Ray's errors of memory, of lost results and of dead hosts are of many kinds."""
    begun = []
    monkeypatch.setattr(_Dealer, "_start", lambda self: begun.append(1))
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    for error in (
        ray.exceptions.OutOfMemoryError("too much"),
        ray.exceptions.ObjectLostError("id", "owner", "site"),
        ray.exceptions.WorkerCrashedError(),
    ):

        def fails(call, error=error):
            raise error

        monkeypatch.setattr(ray, "get", fails)
        dealer = _Dealer(_threads, [(), ()], ASKED, None, None, "")
        dealer.waiting.popleft()
        dealer._take("call", "actor", 0)
        assert list(dealer.waiting) == [0, 1] and dealer.lost == [1, 0] and not dealer.free
    assert len(begun) == 3


@pytest.fixture(scope="module")
def cluster():
    """A head that runs no jobs, and two hosts of one CPU each."""
    before = {name: os.environ.get(name) for name in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = {"object_store_memory": 100 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    for _ in range(2):
        found.add_node(num_cpus=1, **memory)
    os.environ["RAY_ADDRESS"] = found.address
    yield found
    ray.shutdown()
    found.shutdown()
    for name, text in before.items():
        os.environ.pop(name, None)
        if text is not None:
            os.environ[name] = text


class TestOnACluster:
    pytestmark = on_ray

    def test_jobs_keep_their_order_and_their_processes(self, cluster, tmp_path):
        jobs = [(n, str(tmp_path)) for n in range(8)]
        found = run_jobs(_square, jobs, 4, "squares", ray=ASKED)
        assert [square for square, _ in found] == [n * n for n in range(8)]
        # Two of the four have a place; these keep their process from job to job.
        assert len({process for _, process in found}) == 2

    def test_workers_have_one_thread(self, cluster):
        assert run_jobs(_threads, [()], 1, "x", ray=ASKED) == [(1, "1")]

    def test_stages_are_told(self, cluster, capfd):
        run_jobs(_tells, [("dpo",), ("sft",)], 2, "studies", ray=ASKED)
        told = capfd.readouterr().err
        assert "stage 2: " in told and ("dpo" in told or "sft" in told) and "100%" in told

    def test_an_error_of_a_job_is_its_own(self, cluster):
        with pytest.raises(DataError, match="^row 3 of the file$") as told:
            run_jobs(_fails, [()], 1, "x", ray=ASKED)
        assert "in _fails" in str(told.value.__cause__)  # where it was raised is not lost

    def test_what_is_secret_reaches_the_workers_and_no_log(self, cluster, monkeypatch):
        monkeypatch.setenv("JUDGE_API_KEY", "secret-of-the-judge")
        assert run_jobs(_key, [()], 1, "x", ray=ASKED) == ["secret-of-the-judge"]
        logs = Path(ray._private.worker._global_node.get_logs_dir_path())
        assert list(logs.iterdir())
        found = [f for f in logs.rglob("*") if f.is_file() and b"secret-of" in f.read_bytes()]
        assert not found

    def test_a_folder_that_hosts_do_not_share_is_told(self, cluster, monkeypatch):
        @contextmanager
        def elsewhere():
            yield "/nowhere/runs/.lock"

        monkeypatch.setattr("dits_lib.suite.ray_jobs.held_lock", elsewhere)
        with pytest.raises(ParamsError, match="does not see what this one writes to /nowhere/runs"):
            run_jobs(_threads, [()], 1, "x", ray=ASKED)

    def test_workers_that_cannot_start_end_the_run(self, cluster, monkeypatch):
        asked = ASKED.model_copy(update={"retries": 1})
        monkeypatch.setattr("dits_lib.suite.ray_jobs._Worker", _NeverBegins)
        with pytest.raises(WorkerError, match="2 workers could not be started by Ray"):
            run_jobs(_threads, [()], 1, "x", ray=asked)

    def test_a_job_that_ends_its_workers_is_given_up(self, cluster, tmp_path):
        asked = ASKED.model_copy(update={"retries": 1})
        with pytest.raises(WorkerError, match="of one job were lost 2 times"):
            run_jobs(_dies, [(str(tmp_path),)], 1, "x", ray=asked)
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.long
    def test_a_study_is_as_on_local_processes_also_when_a_host_is_lost(
        self, cluster, tmp_path, monkeypatch
    ):
        params = load_params("smoke", ["tasks=[exchange]", "sizes.test_questions=40"])
        jobs = {way: [(str(tmp_path / way), params, n) for n in (0, 1)] for way in ("here", "ray")}
        found = {}
        for way, ray_settings in (("here", None), ("ray", ASKED)):
            monkeypatch.setenv("DITS_OUTPUT", str(tmp_path / f"{way}-output"))
            (tmp_path / way).mkdir()
            if ray_settings:
                losing = {"target": _lose_a_host, "args": (cluster, tmp_path / way)}
                threading.Thread(**losing, daemon=True).start()
            found[way] = run_jobs(_study, jobs[way], 2, "seeds", ray=ray_settings)
        assert repr(found["ray"]) == repr(found["here"])  # where nothing is harmful, AUCs are NaN
        begun = {way: len(list((tmp_path / way).iterdir())) for way in jobs}
        assert begun == {"here": 2, "ray": 3}  # one of the two was done again

    def test_a_cluster_without_hosts_ends_the_run(self, cluster, tmp_path, monkeypatch):
        """The last test: no host is left after it."""
        monkeypatch.setattr("dits_lib.suite.ray_jobs.PATIENCE", 3.0)
        threading.Thread(target=_lose_all, args=(cluster, tmp_path), daemon=True).start()
        with pytest.raises(ParamsError, match="no host of the cluster has both: .* at most 0 CPUs"):
            run_jobs(_waits, [(str(tmp_path),)], 1, "x", ray=ASKED)


def _square(number: int, folder: str) -> tuple[int, int]:
    """Waits until two processes have begun."""
    (Path(folder) / str(os.getpid())).touch()
    deadline = time.monotonic() + 120
    while len(list(Path(folder).iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    return number * number, os.getpid()


def _threads() -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def _tells(stage: str) -> None:
    from dits_lib.suite.store import LISTENERS

    for listener in LISTENERS:
        listener(stage)
    time.sleep(1)


def _key() -> str:
    return os.environ["JUDGE_API_KEY"]


class _NeverBegins:
    def __init__(self, *given):
        os._exit(1)

    def ready(self, held):
        pass


def _fails() -> None:
    raise DataError("row 3 of the file")


def _dies(folder: str) -> None:
    (Path(folder) / secrets.token_hex(4)).touch()
    os._exit(1)


def _study(folder: str, params, seed: int) -> dict:
    """A seed of notebook 06's use, which leaves a mark that names its host when it begins."""
    host = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
    (Path(folder) / f"{host}-{secrets.token_hex(4)}").touch()
    return use_job(params, "exchange", seed)


def _waits(folder: str) -> None:
    (Path(folder) / "begun").touch()
    time.sleep(600)


def _lose_all(cluster, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


def _lose_a_host(cluster, folder: Path) -> None:
    """Take a host away as soon as each has a job and one stage is complete."""
    output, deadline = Path(f"{folder}-output"), time.monotonic() + 300
    while time.monotonic() < deadline and (
        len(list(folder.iterdir())) < 2 or not list(output.glob("runs/*/search-*"))
    ):
        time.sleep(0.2)
    host = next(iter(folder.iterdir())).name.split("-")[0]
    cluster.remove_node(next(n for n in cluster.worker_nodes if n.node_id == host))
