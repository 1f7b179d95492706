"""Independent jobs on several processes, one thread each: on small models that beats threads by far."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

from tqdm.auto import tqdm


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _start_worker(parent: int) -> None:
    _one_thread()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this process when its parent has gone: a killed run must not leave workers behind that compute on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def run_jobs(function: Callable, jobs: list[tuple], workers: int, label: str) -> list:
    """`[function(*job) for job in jobs]`, in that order, on `workers` processes, with a progress bar.

    Args:
        function: importable (a library function), since processes are started afresh.
        label: of the progress bar.
    """
    if workers == 1:
        _one_thread()
        return [function(*job) for job in tqdm(jobs, desc=label)]
    results: list = [None] * len(jobs)
    context = multiprocessing.get_context("spawn")
    # Threads are fixed by the environment before torch is imported: results then depend on no machine's core count.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
        waiting = {pool.submit(function, *job): index for index, job in enumerate(jobs)}
        try:
            for done in tqdm(as_completed(waiting), total=len(jobs), desc=label):
                results[waiting[done]] = done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
