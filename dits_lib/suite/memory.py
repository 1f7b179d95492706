"""Peak memory: of this process, and of the GPU."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from pathlib import Path


def reset_peak_memory() -> None:
    """Start counting the peak anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> int:
    """Largest resident set of this process since the last reset, in MiB (elsewhere than on Linux:
    since its start)."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class GPUMemoryWatch:
    """The most memory in use on the GPU, by all processes together, sampled while the context
    lasts.

    Attributes:
        peak_mb: MiB; 0 as long as this process has not used a GPU.
    """

    def __init__(self, every: float = 0.25):
        self.every, self.peak_mb, self._ended = every, 0, threading.Event()

    def __enter__(self) -> GPUMemoryWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(self.every):
            self.sample()

    def sample(self) -> None:
        # Whoever computes loads torch; this thread must not, and may meet it half loaded.
        cuda = sys.modules.get("torch.cuda")
        with contextlib.suppress(AttributeError):
            if cuda is not None and cuda.is_initialized():
                free, total = cuda.mem_get_info()
                self.peak_mb = max(self.peak_mb, (total - free) // 2**20)

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
