"""How every command ends: bad input and Ctrl-C are told in one line, never as a traceback."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ..suite.checks import KNOWN_ERRORS
from ..suite.execution import NotebookError

INTERRUPTED = 130
"""The exit status of a command that Ctrl-C stopped: 128 + SIGINT, as shells count it."""

Command = Callable[..., int]


def command(kept: str) -> Callable[[Command], Command]:
    """Decorator of a command's `main(arguments) -> exit status`.

    Exit status 2: bad input, or a machine that cannot do it (one line for each mistake on stderr);
    1: a notebook failed for a reason of its own; 130: stopped.

    Args:
        kept: what stays of a command that was stopped, for the end of the message.
    """

    def decorate(main: Command) -> Command:
        @functools.wraps(main)
        def run(arguments: list[str] | None = None) -> int:
            with _interrupts() as stopped:
                try:
                    return main(arguments)
                except KeyboardInterrupt:
                    return _ended(f"stopped; {kept}", INTERRUPTED)
                except Exception as error:
                    if stopped.is_set():
                        return _ended(f"stopped; {kept}", INTERRUPTED)
                    return _told(error, kept)

        return run

    return decorate


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Tells whether Ctrl-C was pressed: a library that is interrupted while it imports another
    raises an error of its own instead of KeyboardInterrupt."""
    stopped = threading.Event()

    def note(number: int, frame: object) -> None:
        stopped.set()
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield stopped  # which alone may set a handler
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _told(error: Exception, kept: str) -> int:
    """Tell an error in one line, if its message says all; raises any other again."""
    if isinstance(error, NotebookError):
        return _ended(error, 2 if error.bad_input else 1)
    if isinstance(error, KNOWN_ERRORS):
        return _ended(error, 2)
    if isinstance(error, BrokenProcessPool):
        return _ended(f"a process died (out of memory?); {kept}", 2)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return _ended(f"{place}{error.strerror or error}; {kept}", 2)
    raise error


def _ended(message: object, status: int) -> int:
    print(message, file=sys.stderr)
    return status
