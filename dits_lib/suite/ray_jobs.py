"""Jobs on a Ray cluster of one host or many.

Ray places the workers and deals out GPUs or shares of one. A worker is an actor: it keeps its
process, so that an engine that is slow to start is there for the next job. All hosts need this
repository and its environment at the same path, and the output folder on a disk that they share,
which keeps locks between hosts (`flock`): a stage that one makes is not made by another meanwhile.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..settings import OUTPUT, ParamsError
from .processes import FIXED, WorkerError, one_thread
from .store import LISTENERS

if TYPE_CHECKING:
    from .sections import Ray
    from .workers import Bar

_TAKEN_ALONG = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_", "VLLM_", "JUDGE_", "SSL_CERT_")
"""How names of environment variables begin that hold for the workers too."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")
PATIENCE = 60.0
"""Seconds without news after which it is asked whether any host could run a worker at all."""


def connect(settings: Ray) -> None:
    """Join the cluster that RAY_ADDRESS names or that runs on this host, or start one of this host
    alone, which ends with this process.

    Raises:
        ParamsError: without Ray, without that cluster, or where no host has what a worker asks for.
    """
    try:
        import ray
    except ImportError:
        raise ParamsError(
            "executor is 'ray', and Ray is not installed: run `make setup RAY=1`, or set executor "
            "to local"
        ) from None
    if not ray.is_initialized():
        _check_answers()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            found = _named_cluster()
            where = found[1] if found else "of this host"
            raise ParamsError(_not_joined(where, _last(error))) from None
    _check_hosts(settings)


def _check_answers() -> None:
    """Raises ParamsError where nothing listens at the address of the cluster to be joined: Ray
    itself would try for minutes."""
    import socket

    found = _named_cluster()
    host, _, port = found[0].rpartition(":") if found else ("", "", "")
    if found and host and port.isdecimal() and "://" not in found[0]:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise ParamsError(_not_joined(found[1], str(error))) from None


def _named_cluster() -> tuple[str, str] | None:
    """The address of the cluster that Ray would join, and what names it; None where it would start
    one."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address, f"RAY_ADDRESS={address}"
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    with suppress(OSError):
        address = file.read_text().strip()
        return address, f"{address}, which {file} names"
    return None


def _not_joined(where: str, reason: str) -> str:
    return (
        f"executor is 'ray', and the cluster {where} cannot be joined ({reason}): start it (`ray "
        "start --head`), correct RAY_ADDRESS, forget it (`ray stop`), or set executor to local"
    )


def _check_hosts(settings: Ray) -> None:
    """Raises ParamsError where no host of the cluster can run a worker."""
    import ray

    _check_offer(settings, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _check_offer(settings: Ray, hosts: list[dict[str, float]]) -> None:
    """Ray would wait for ever for what no host has.

    Raises:
        ParamsError: where none of these hosts has the CPUs and the GPUs of one worker.
    """
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    if any(all(host.get(kind, 0) >= much for kind, much in wanted.items()) for host in hosts):
        return
    most = ", ".join(
        f"{max((host.get(kind, 0) for host in hosts), default=0):g} {kind}s" for kind in wanted
    )
    raise ParamsError(
        f"ray.cpus is {settings.cpus:g} and ray.gpus {settings.gpus:g}, and no host of the cluster "
        f"has both: a host has at most {most}; lower them, or start Ray on other hosts"
    )


class _Worker:
    """What Ray makes an actor of."""

    def __init__(self, stages, environment: dict[str, str]):
        # What is secret of it would stand in Ray's logs, were it part of the runtime environment.
        os.environ.update(environment)
        one_thread()
        LISTENERS.append(stages.put)

    def ready(self, held: str) -> None:
        """Returns once this worker has a place, on a host that knows of the driver's locks."""
        check_lock(Path(held))

    def run(self, function: Callable, job: tuple) -> Any:
        """Do one job."""
        return function(*job)


@contextmanager
def held_lock() -> Iterator[str]:
    """Hold a lock in the output folder; gives its file."""
    (OUTPUT / "runs").mkdir(parents=True, exist_ok=True)
    file = OUTPUT / "runs" / f".{secrets.token_hex(4)}.lock"
    try:
        with FileLock(file):
            yield str(file)
    finally:
        file.unlink(missing_ok=True)


def check_lock(file: Path) -> None:
    """Raises ParamsError where a lock that another host holds is not seen here."""
    import socket

    folder, host = file.parent, socket.gethostname()
    if not file.exists():
        raise ParamsError(
            f"executor is 'ray', and host {host} does not see what this one writes to {folder}: "
            "set DITS_OUTPUT to a folder that all hosts share"
        )
    with suppress(Timeout), FileLock(file, timeout=0):
        raise ParamsError(
            f"executor is 'ray', and {folder} keeps no locks between hosts (seen on {host}): mount "
            "it with flock, or set DITS_OUTPUT to a folder on another disk"
        )


def run_on_ray(
    function: Callable, jobs: list[tuple], workers: int, settings: Ray, bar: Bar
) -> list:
    """`[function(*job) for job in jobs]`, in that order, on up to `workers` actors. A job whose
    worker is lost is done again by another.

    Args:
        function: importable on every host (a library function).
        bar: hears of stages and of jobs that are done.

    Raises:
        ParamsError: as `connect`; where the output folder is not shared, or keeps no locks; or
            where no host is left that could run a worker.
        WorkerError: for a job whose workers were lost more than `ray.retries` times, or where so
            many could not be started, one after another.
        Exception: what a job raised; the other jobs are ended then.
    """
    connect(settings)
    stages = _stage_queue()
    with held_lock() as lock, bar.reading(stages):
        dealer = _Dealer(function, jobs, settings, bar, stages, lock)
        try:
            return dealer.results(min(workers, len(jobs)))
        finally:
            dealer.end()


def _stage_queue():
    """A queue for the names of stages on this host, which is there as long as the run is."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _actor(settings: Ray, stages):
    import ray

    own = {name: text for name, text in os.environ.items() if name.startswith("DITS_")}
    # What this process imports, from a checkout that is not installed too, its workers can.
    own["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    along = {
        name: text
        for name, text in os.environ.items()
        if name.startswith(_TAKEN_ALONG) or name.upper() in _PROXIES
    }
    options = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    options["runtime_env"] = {"env_vars": own | FIXED}
    return ray.remote(_Worker).options(**options).remote(stages, along)


class _Dealer:
    """Deals jobs to actors that are free. (`ray.util.ActorPool` would give the first jobs to actors
    that wait for a place, and keep a lost one's job for it.)"""

    def __init__(
        self,
        function: Callable,
        jobs: list[tuple],
        settings: Ray,
        bar: Bar,
        stages,
        lock: str,
    ):
        self.function, self.jobs, self.settings, self.bar = function, jobs, settings, bar
        self.stages, self.lock = stages, lock
        self.waiting, self.lost = deque(range(len(jobs))), [0] * len(jobs)
        self.found: list = [None] * len(jobs)
        self.done = 0
        self.failed_starts = 0
        self.running: dict = {}
        """By reference of a call: its actor, and the number of its job, None for `ready`."""
        self.free: list = []

    def results(self, workers: int) -> list:
        """The results of all jobs, in their order."""
        import ray

        for _ in range(workers):
            self._start()
        while self.done < len(self.jobs):
            ended, _ = ray.wait(list(self.running), num_returns=1, timeout=PATIENCE)
            for call in ended:
                self._take(call, *self.running.pop(call))
            if not ended and all(number is None for _, number in self.running.values()):
                _check_hosts(self.settings)
            while self.free and self.waiting:
                self._give(self.free.pop())
        return self.found

    def end(self) -> None:
        """End all actors."""
        import ray

        for actor in [*self.free, *(actor for actor, _ in self.running.values())]:
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def _start(self) -> None:
        """Have an actor begin, wherever Ray finds a place for it."""
        actor = _actor(self.settings, self.stages)
        self.running[actor.ready.remote(self.lock)] = actor, None

    def _give(self, actor) -> None:
        number = self.waiting.popleft()
        self.running[actor.run.remote(self.function, self.jobs[number])] = actor, number

    def _take(self, call, actor, number: int | None) -> None:
        """What a call brought: a place, a result, an error of the job, or the loss of its actor."""
        import ray

        try:
            found = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            self.free.append(actor)
            raise error.cause from error
        except ray.exceptions.UnserializableException:  # an error of the job that cannot travel
            self.free.append(actor)
            raise
        except ray.exceptions.RayError as error:  # of process, host, memory, or a lost result
            self._lose(actor, number, error)
            return
        self.free.append(actor)
        if number is None:
            self.failed_starts = 0
            return
        self.found[number] = found
        self.done += 1
        self.bar.done()

    def _lose(self, actor, number: int | None, error: Exception) -> None:
        """A job whose actor is gone is the next to be given away; another actor begins."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.kill(actor)  # its result alone may have been lost
        if number is None:
            self.failed_starts += 1
            if self.failed_starts > self.settings.retries:
                raise WorkerError(
                    f"{self.failed_starts} workers could not be started by Ray ({_last(error)}); "
                    "all hosts need this repository and its environment at the same path"
                ) from None
        else:
            self.lost[number] += 1
            if self.lost[number] > self.settings.retries:
                raise WorkerError(
                    f"the workers of one job were lost {self.lost[number]} times ({_last(error)}): "
                    "most likely for want of memory; finished stages are kept, lower workers or "
                    "raise ray.retries, and run again"
                ) from None
            self.waiting.appendleft(number)
        self._start()


def _last(error: Exception) -> str:
    """The last line of what Ray tells: before it stand ids and advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
