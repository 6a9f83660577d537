"""Find and kill child processes."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from generation.recipes.model_files import PROJECT_ROOT
from tests.support.waits import repeated_meanwhile


def command_of(process: psutil.Process) -> str:
    """Return a process's command line; empty if it has ended or is a zombie."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def processes_of(name: str) -> list[psutil.Process]:
    """Return the descendants of this process with `name` in their command line."""
    return [process for process in psutil.Process().children(recursive=True) if name in command_of(process)]


@contextmanager
def in_own_group(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the project folder with piped streams, in a process group that is killed at the end."""
    process = subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def killing(process_name: str, at: Callable[[], bool]) -> Iterator[list[int]]:
    """Kill one process with this name as soon as a condition holds; yield the list of killed pids."""
    killed: list[int] = []

    def kill_if_due() -> bool:
        if at() and (found := processes_of(process_name)):
            killed.append(found[-1].pid)
            os.kill(found[-1].pid, signal.SIGKILL)
        return bool(killed)

    with repeated_meanwhile(kill_if_due, every_seconds=0.02):
        yield killed
