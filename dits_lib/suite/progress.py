"""How far a notebook's long work has come, told on the command line too.

A notebook runs in a kernel of its own, whose progress bar nobody sees there. So the bar also writes
one line into a file, and the command that started the notebook shows it: on a terminal in place,
elsewhere (a log, nohup) as a line a minute.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

PROGRESS_TO = "DITS_PROGRESS_TO"
"""Environment variable that names the file."""


def tell(line: str) -> None:
    """Leave a line for the command that started this notebook, if there is one."""
    path = os.environ.get(PROGRESS_TO)
    if path:
        # Jobs and stages are told by threads of their own; a reader meets one whole line.
        own = Path(f"{path}.{threading.get_ident()}")
        with suppress(OSError):  # nobody's work ends because a line cannot be told
            own.write_text(line, encoding="utf-8")
            os.replace(own, path)


def minutes_left(done: int, total: int, seconds: float) -> str:
    """What is left of work of which `done` of `total` equal parts took so many seconds; empty
    before the first and after the last."""
    if done in (0, total):
        return ""
    left = seconds * (total - done) / done / 60
    return "under a minute left" if left < 1 else f"about {left:.0f} min left"


class Watch:
    """Shows what a notebook tells for as long as the context lasts.

    Args:
        name: stands before each line.
        stream: where to; None: stderr.
        seconds: between two looks at a terminal.
        log_seconds: between two lines elsewhere.
    """

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        seconds: float = 1.0,
        log_seconds: float = 60.0,
    ):
        self.name, self.stream = name, stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.pause = seconds if self.terminal else log_seconds
        self.shown = ""

    def __enter__(self) -> Watch:
        self._folder = TemporaryDirectory()
        self._file = Path(self._folder.name) / "progress"
        os.environ[PROGRESS_TO] = str(self._file)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(timeout=5)
        os.environ.pop(PROGRESS_TO, None)
        if self.terminal and self.shown:
            self._write("\r" + " " * len(self.shown) + "\r")
        self._folder.cleanup()

    def _run(self) -> None:
        while not self._ended.wait(self.pause):
            with suppress(OSError):
                told = self._file.read_text(encoding="utf-8")
                self._show(f"{self.name}: {told}" if told else "")

    def _show(self, line: str) -> None:
        if not line or line == self.shown:
            return
        if self.terminal:
            line = line[: _width()]
            self._write("\r" + line.ljust(len(self.shown)))
        else:
            self._write(line + "\n")
        self.shown = line

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a closed terminal
            self.stream.write(text)
            self.stream.flush()


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns - 1
    except (OSError, ValueError):
        return 100
