"""What all processes that run jobs have in common, wherever they run."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

FIXED = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment of every worker, set before torch is imported there: results then depend on no
machine's core count."""


class WorkerError(BrokenProcessPool):
    """A worker process that was killed, in one line with the likely cause."""


def fix_threads() -> None:
    """What `FIXED` says, for processes that this one starts."""
    os.environ.update(FIXED)


def one_thread() -> None:
    """Let torch compute on one thread in this process."""
    import torch

    torch.set_num_threads(1)
