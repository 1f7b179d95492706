"""What the command line shows of a notebook's progress."""

import io
import os
import subprocess
import sys
import time

from dits_lib.suite.progress import PROGRESS_TO, Watch, minutes_left, tell
from dits_lib.suite.workers import run_jobs


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_within(stream, text, seconds=10.0):
    end = time.monotonic() + seconds
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    return text in stream.getvalue()


def test_minutes_left_are_those_of_equal_parts():
    assert minutes_left(0, 4, 60.0) == minutes_left(4, 4, 60.0) == ""
    assert minutes_left(1, 4, 60.0) == "about 3 min left"
    assert minutes_left(3, 4, 60.0) == "under a minute left"


def test_a_log_gets_a_line_each_time_that_something_changed():
    stream = io.StringIO()
    with Watch("03", stream, log_seconds=0.01):
        tell("first")
        assert shown_within(stream, "03: first\n")
        tell("second")
        assert shown_within(stream, "03: second\n")
        time.sleep(0.1)
    assert stream.getvalue() == "03: first\n03: second\n"
    assert PROGRESS_TO not in os.environ


def test_a_terminal_is_written_over_and_left_clean():
    stream = Terminal()
    with Watch("03", stream, seconds=0.01):
        tell("a long line")
        assert shown_within(stream, "\r03: a long line")
        tell("short")
        assert shown_within(stream, "\r03: short" + " " * 6)
    assert stream.getvalue().endswith("\r")


def test_jobs_tell_how_many_are_done_and_what_is_being_made():
    stream = io.StringIO()
    with Watch("03", stream, log_seconds=0.005):
        run_jobs(time.sleep, [(0.05,), (0.05,), (0.3,)], 1, "seed")
    assert "03: seed, 2 of 3 jobs done, under a minute left" in stream.getvalue()


def test_a_notebook_in_another_process_is_heard_and_none_is_needed():
    code = "from dits_lib.suite.progress import tell; tell('from a kernel')"
    subprocess.run([sys.executable, "-c", code], check=True)  # nobody listens
    stream = io.StringIO()
    with Watch("03", stream, log_seconds=0.01):
        subprocess.run([sys.executable, "-c", code], check=True)
        assert shown_within(stream, "03: from a kernel\n")
