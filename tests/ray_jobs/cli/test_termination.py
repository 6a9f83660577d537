"""How a job ends at a signal, tested in separate processes without Ray."""

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
with TERMINATION.with_hint("The checkpoints are stored."), TERMINATION.with_hint(""):
    try:
        if "deaf" in sys.argv:  # like a Ray call: no signal interrupts it, and Python runs no handler
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
    """Run a job that waits for a signal, in its own process group."""
    with in_own_group(sys.executable, "-c", JOB, *arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process


@pytest.fixture
def head() -> Iterator[str]:
    """Address of a head that accepts connections."""
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
def test_signal_prints_one_line_and_a_second_one_does_not_cut_the_clean_up_short(
    head: str, first: signal.Signals, second: signal.Signals, status: int, word: str
):
    with job(head, "60") as process:
        os.killpg(process.pid, first)
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning up\n"
        os.killpg(process.pid, second)
        out, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, out, errors) == (status, "clean\n", f"{word}. The checkpoints are stored.\n")


@pytest.fixture
def ended_head() -> str:
    """Address of a head that no longer accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_clean_up_that_waits_for_an_ended_ray_is_abandoned(ended_head: str):
    with job(ended_head, "0.1", "stuck") as process:
        process.terminate()
        assert process.communicate(timeout=60) == ("cleaning up\n", "terminated. The checkpoints are stored.\n")
    assert process.returncode == 143


def test_main_thread_in_a_ray_call_is_ended(ended_head: str):
    with job(ended_head, "0.1", "deaf") as process:
        process.terminate()
        assert process.communicate(timeout=60) == ("", "terminated. The checkpoints are stored.\n")
    assert process.returncode == 143


def test_exit_status_is_the_signals_after_an_interrupted_ray_call(head: str):
    with job(head, "60", "other") as process:
        process.send_signal(signal.SIGINT)
        process.communicate("go on\n", timeout=60)
    assert process.returncode == 130


def test_ctrl_c_during_imports_is_one_line():
    job = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv = ['-m']; "
        "import ray_jobs; signal.raise_signal(signal.SIGINT); print('continued')"
    )
    ended = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted.\n")


def test_ctrl_c_does_not_end_a_background_job(head: str):
    with job(head, "60", "background") as process:
        process.send_signal(signal.SIGINT)
        process.terminate()
        assert process.communicate("go on\n", timeout=60) == (
            "cleaning up\nclean\n",
            "terminated. The checkpoints are stored.\n",
        )
    assert process.returncode == 143
