"""The process behind a notebook that is run by a command."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from .workers import deaf_to_interrupts

if TYPE_CHECKING:
    from jupyter_client import AsyncKernelManager


def kernel_manager(errors: IO[bytes]) -> type[AsyncKernelManager]:
    """A manager whose kernels never see Ctrl-C: the command hears of it, and ends them.

    Args:
        errors: a file that takes what a kernel prints before it listens and when it crashes; what
            its cells print comes back as their output.
    """
    from jupyter_client import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options: object) -> None:
            with deaf_to_interrupts():
                await super().start_kernel(stderr=errors, **options)

    return Manager


def last_words(errors: IO[bytes]) -> str:
    """The last line that a kernel printed of itself, but for warnings; empty if there is none."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line and "WARNING" not in line), "")
