"""How a job ends at a signal, in processes of their own without Ray."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.processes import in_own_group

JOB = """
import ctypes, signal, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN if "background" in sys.argv else signal.default_int_handler)
from ray_jobs.cli import termination
from ray_jobs.cli.termination import TERMINATION
termination.LONGEST_END_SECONDS, termination.END_WITHOUT_RAY_SECONDS = 60.0, float(sys.argv[2])
TERMINATION.handle(head=sys.argv[1])
with TERMINATION.keeping("The checkpoints stay."), TERMINATION.keeping(""):
    try:
        if "deaf" in sys.argv:  # as in a call of Ray's: no signal interrupts it, and Python runs no handler
            ctypes.CDLL(None).system(b"echo at work; exec sleep 60 >&- 2>&-")
        print("at work", flush=True)
        threading.Event().wait()
    except SystemExit:
        if "other" in sys.argv:
            sys.exit(1)
        raise
    finally:
        print("cleaning up", flush=True)
        if "stuck" in sys.argv:
            threading.Event().wait()
        sys.stdin.readline()
        print("clean", flush=True)
"""


@contextmanager
def job(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A job at work that waits for a signal, in a process group of its own."""
    with in_own_group(sys.executable, "-c", JOB, *arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process


@pytest.fixture
def head() -> Iterator[str]:
    """A head that takes connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("first", "second", "status", "word"),
    [
        (signal.SIGTERM, signal.SIGTERM, 143, "terminated"),
        (signal.SIGINT, signal.SIGINT, 130, "interrupted"),
        (signal.SIGINT, signal.SIGTERM, 130, "interrupted"),
    ],
)
def test_a_signal_is_told_in_one_line_with_what_stays_and_a_second_one_does_not_cut_the_clean_up_short(
    head: str, first: signal.Signals, second: signal.Signals, status: int, word: str
):
    with job(head, "60") as process:
        os.killpg(process.pid, first)
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning up\n"
        os.killpg(process.pid, second)
        out, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, out, errors) == (status, "clean\n", f"{word}. The checkpoints stay.\n")


@pytest.fixture
def gone() -> str:
    """Where a head took connections once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_clean_up_that_waits_for_a_ray_that_is_gone_is_given_up(gone: str):
    with job(gone, "0.1", "stuck") as process:
        process.terminate()
        assert process.communicate(timeout=60) == ("cleaning up\n", "terminated. The checkpoints stay.\n")
    assert process.returncode == 143


def test_a_main_thread_that_waits_in_a_call_of_rays_is_ended_too(gone: str):
    with job(gone, "0.1", "deaf") as process:
        process.terminate()
        assert process.communicate(timeout=60) == ("", "terminated. The checkpoints stay.\n")
    assert process.returncode == 143


def test_the_status_is_the_signals_also_where_a_call_of_rays_has_put_its_own_in_its_place(head: str):
    with job(head, "60", "other") as process:
        process.send_signal(signal.SIGINT)
        process.communicate("go on\n", timeout=60)
    assert process.returncode == 130


def test_ctrl_c_while_a_command_imports_is_told_in_one_line():
    job = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv = ['-m']; "
        "import ray_jobs; signal.raise_signal(signal.SIGINT); print('went on')"
    )
    ended = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted.\n")


def test_ctrl_c_does_not_end_what_a_script_started_in_the_background(head: str):
    with job(head, "60", "background") as process:
        process.send_signal(signal.SIGINT)
        process.terminate()
        assert process.communicate("go on\n", timeout=60) == (
            "cleaning up\nclean\n",
            "terminated. The checkpoints stay.\n",
        )
    assert process.returncode == 143
