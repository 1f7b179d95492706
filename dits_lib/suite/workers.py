"""Independent jobs on several processes, one thread each: on small models that beats threads by
far. With `executor: ray` the processes are those of a Ray cluster (`ray_jobs`)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from .processes import WorkerError, fix_threads, one_thread
from .progress import minutes_left, tell
from .ray_jobs import run_on_ray
from .store import LISTENERS

if TYPE_CHECKING:
    from .sections import Ray


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them; asking does
    not occupy them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        named.split(",")
        if named is not None
        else [str(number) for number in range(torch.cuda.device_count())]
    )


def _start_worker(parent: int, stages, places) -> None:
    gpu = places.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA starts in this process
    one_thread()
    LISTENERS.append(stages.put)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this process when its parent has gone: a killed run must not leave workers behind that
    compute on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    for child in multiprocessing.active_children():  # vLLM's server on a CPU
        child.terminate()
    os._exit(1)


class Bar:
    """A progress bar that ticks once a job and tells, between two ticks, which stages are being
    computed; what it shows is told on the command line too (`progress.tell`)."""

    def __init__(self, total: int, label: str):
        self.bar, self.stages, self.now = tqdm(total=total, desc=label), 0, ""

    def stage(self, name: str) -> None:
        self.stages += 1
        self.now = f"stage {self.stages}: {name}"
        self.bar.set_postfix_str(self.now)
        self._tell()

    def done(self) -> None:
        """A job is done."""
        self.bar.update()
        self._tell()

    def _tell(self) -> None:
        done, total = self.bar.n, self.bar.total
        left = minutes_left(done, total, self.bar.format_dict["elapsed"])
        told = f"{self.bar.desc}, {done} of {total} jobs done"
        tell(", ".join(filter(None, [told, self.now, left])))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear of the stages of this process."""
        LISTENERS.append(self.stage)
        try:
            yield
        finally:
            LISTENERS.remove(self.stage)

    @contextlib.contextmanager
    def reading(self, stages) -> Iterator[None]:
        """Hear of the stages that workers put into a queue."""
        thread = threading.Thread(
            target=lambda: [self.stage(name) for name in iter(stages.get, None)], daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stages.put(None)
            thread.join(timeout=5)


def run_jobs(
    function: Callable,
    jobs: list[tuple],
    workers: int,
    label: str,
    apart: bool = False,
    ray: Ray | None = None,
) -> list:
    """`[function(*job) for job in jobs]`, in that order, on `workers` processes, with a progress
    bar.

    Args:
        function: importable (a library function), since processes are started afresh.
        label: of the progress bar.
        apart: a process of its own for a single worker too, which takes what it holds (a model on a
            GPU) with it when it ends.
        ray: what a worker asks a Ray cluster for; None: processes of this host.

    Raises:
        WorkerError: when a worker was killed; the other workers are ended then. On a Ray cluster,
            when that happened to one job too often.
    """
    bar = Bar(len(jobs), label)
    results: list = [None] * len(jobs)
    with bar.bar:
        if ray is not None:
            return run_on_ray(function, jobs, workers, ray, bar)
        if workers == 1 and not apart:
            one_thread()
            with bar.listening():
                for index, job in enumerate(jobs):
                    results[index] = function(*job)
                    bar.done()
            return results
        context = multiprocessing.get_context("spawn")
        stages, places, gpus = context.SimpleQueue(), context.SimpleQueue(), visible_gpus()
        for number in range(workers):  # several GPUs are dealt out in turn
            places.put(gpus[number % len(gpus)] if len(gpus) > 1 else None)
        fix_threads()
        with (
            bar.reading(stages),
            ProcessPoolExecutor(
                workers,
                mp_context=context,
                initializer=_start_worker,
                initargs=(os.getpid(), stages, places),
            ) as pool,
        ):
            with deaf_to_interrupts():
                waiting = {pool.submit(function, *job): index for index, job in enumerate(jobs)}
            processes = list((pool._processes or {}).values())
            try:
                for done in as_completed(waiting):
                    results[waiting[done]] = done.result()
                    bar.done()
            except BrokenProcessPool:
                pool.shutdown()  # the exit codes are known when all have ended
                raise WorkerError(_cause(processes, workers)) from None
            except BaseException:
                # A pool on its way out would do all that is left first.
                for process in processes:
                    process.terminate()
                raise
    return results


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which reaches them with their parent: it ends
    them, and none shows a traceback of its own. This process hears of it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(processes: list, workers: int) -> str:
    """Why a pool broke, as its processes' exit codes tell: the system kills what takes too much
    memory by SIGKILL; the pool ends the rest by SIGTERM."""
    codes = {process.exitcode for process in processes}
    if -signal.SIGKILL in codes:
        fewer = f"; lower workers (now {workers})" if workers > 1 else ""
        cause = f"killed by the system, most likely for want of memory{fewer}"
    else:
        other = sorted(codes - {None, 0, -signal.SIGTERM})
        cause = "ended by SIGTERM" if not other else _ended_by(other[0])
    return f"a worker process was {cause}; finished stages are kept, run again"


def _ended_by(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
