"""Jobs on a Ray cluster of one host or many.

Ray places the workers, deals out GPUs or shares of one, and starts a worker again elsewhere when
its process or its host is gone. A worker is an actor: it keeps its process, so that an engine that
is slow to start is there for the next job. All hosts need this repository and its environment at
the same path, and the output folder on a disk that they share.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..settings import ParamsError
from .processes import FIXED, WorkerError, one_thread
from .store import LISTENERS

if TYPE_CHECKING:
    from .sections import Ray
    from .workers import Bar

_TAKEN_ALONG = ("DITS_", "HF_", "VLLM_")
"""How names of environment variables begin that hold for the workers too."""


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
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = os.environ.get("RAY_ADDRESS", "of this host")
            raise ParamsError(
                f"executor is 'ray', and the cluster {where} cannot be joined "
                f"({' '.join(str(error).split())[:200]}); start one (`ray start --head`), correct "
                "RAY_ADDRESS, or set executor to local"
            ) from None
    _check_offer(settings, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _check_offer(settings: Ray, hosts: list[dict[str, float]]) -> None:
    """Ray would wait for ever for what no host has.

    Raises:
        ParamsError: where none of these hosts has the CPUs and the GPUs of one worker.
    """
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    if any(all(host.get(kind, 0) >= much for kind, much in wanted.items()) for host in hosts):
        return
    most = ", ".join(f"{max(host.get(kind, 0) for host in hosts):g} {kind}s" for kind in wanted)
    raise ParamsError(
        f"ray.cpus is {settings.cpus:g} and ray.gpus {settings.gpus:g}, and no host of the cluster "
        f"has both: a host has at most {most}; lower them, or start Ray on other hosts"
    )


class _Worker:
    """What Ray makes an actor of."""

    def __init__(self, stages):
        one_thread()
        LISTENERS.append(stages.put)

    def ready(self) -> None:
        """Returns once this worker has a place."""

    def run(self, function: Callable, job: tuple) -> Any:
        """Do one job."""
        return function(*job)


def run_on_ray(
    function: Callable, jobs: list[tuple], workers: int, settings: Ray, bar: Bar
) -> list:
    """`[function(*job) for job in jobs]`, in that order, on up to `workers` actors. A job whose
    worker is lost is done again by one that is free.

    Args:
        function: importable on every host (a library function).
        bar: hears of stages and of jobs that are done.

    Raises:
        ParamsError: as `connect`.
        WorkerError: for a job whose workers were lost more than `ray.retries` times.
        Exception: what a job raised; the other jobs are ended then.
    """
    connect(settings)
    stages = _stage_queue()
    actors = [_actor(settings, stages) for _ in range(min(workers, len(jobs)))]
    with bar.reading(stages):
        try:
            return _Dealer(function, jobs, settings.retries, bar).results_of(actors)
        finally:
            _end(actors)
    # The queue ends with its last reference.


def _stage_queue():
    """A queue for the names of stages on this host, which is there as long as the run is."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _actor(settings: Ray, stages):
    import ray

    # Ray puts a worker that is lost somewhere else, as often as it takes.
    options = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "max_restarts": -1}
    along = {name: text for name, text in os.environ.items() if name.startswith(_TAKEN_ALONG)}
    # What this process imports, from a checkout that is not installed too, its workers can.
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"env_vars": {**along, **FIXED, "PYTHONPATH": paths}}
    return ray.remote(_Worker).options(**options, runtime_env=environment).remote(stages)


def _end(actors: list) -> None:
    import ray

    for actor in actors:
        with suppress(ray.exceptions.RayError):
            ray.kill(actor)


class _Dealer:
    """Deals jobs to actors that are free. (`ray.util.ActorPool` would give the first jobs to actors
    that wait for a place, and keep a lost one's job for it.)"""

    def __init__(self, function: Callable, jobs: list[tuple], retries: int, bar: Bar):
        self.function, self.jobs, self.retries, self.bar = function, jobs, retries, bar
        self.waiting, self.lost = deque(range(len(jobs))), [0] * len(jobs)
        self.results: list = [None] * len(jobs)
        self.done = 0
        self.running: dict = {}
        """By reference of a call: its actor, and the number of its job, None for `ready`."""
        self.free: list = []

    def results_of(self, actors: list) -> list:
        """The results of all jobs, in their order."""
        import ray

        for actor in actors:
            self._await_place(actor)
        while self.done < len(self.jobs):
            [call], _ = ray.wait(list(self.running), num_returns=1)
            actor, number = self.running.pop(call)
            self._take(call, actor, number)
            while self.free and self.waiting:
                self._give(self.free.pop())
        return self.results

    def _await_place(self, actor) -> None:
        """Have an actor begin, or begin again elsewhere."""
        call = actor.ready.options(max_task_retries=-1).remote()
        self.running[call] = actor, None

    def _give(self, actor) -> None:
        number = self.waiting.popleft()
        self.running[actor.run.remote(self.function, self.jobs[number])] = actor, number

    def _take(self, call, actor, number: int | None) -> None:
        """What a call brought: a place, a result, an error of the job, or the loss of its actor."""
        import ray

        try:
            found = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.RayActorError, ray.exceptions.RaySystemError) as error:
            self._lose(actor, number, error)
            return
        if number is not None:
            self.results[number] = found
            self.done += 1
            self.bar.done()
        self.free.append(actor)

    def _lose(self, actor, number: int | None, error: Exception) -> None:
        """A job whose actor is gone is the next to be given away."""
        if number is None:
            raise WorkerError(f"a worker could not be started by Ray ({_line(error)})") from None
        self.lost[number] += 1
        if self.lost[number] > self.retries:
            raise WorkerError(
                f"the workers of one job were lost {self.lost[number]} times ({_line(error)}): "
                "most likely for want of memory; finished stages are kept, lower workers or raise "
                "ray.retries, and run again"
            ) from None
        self.waiting.appendleft(number)
        self._await_place(actor)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
