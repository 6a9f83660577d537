"""Commands of `ray_jobs`, run in this process as the command line runs them."""

import sys
from types import ModuleType

import pytest
import ray

from ray_jobs.cluster.connect import connect


def call(command: ModuleType, *arguments: str) -> None:
    """Run a command's `main` with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command.__name__, *arguments])
        command.main()


def printed(command: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a command prints."""
    capsys.readouterr()
    call(command, *arguments)
    return capsys.readouterr().out


def error_line(command: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line in which a command refuses, without its `error: `; its exit status is 2.

    It is all that the command writes to stderr, unless a cluster is up, whose log may be there too.
    """
    with pytest.raises(SystemExit) as ended:
        call(command, *arguments)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (line,) = error_lines(errors) if ray.is_initialized() else errors.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def error_lines(text: str) -> list[str]:
    """Return the lines of a log that are a command's errors."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def forbid_cluster(patch: pytest.MonkeyPatch) -> None:
    """Fail a test in which a command connects to a cluster, by whichever module it does."""
    users = [module for name, module in sys.modules.items() if name.startswith("ray_jobs.")]
    for module in users:
        if getattr(module, "connect", None) is connect:
            patch.setattr(module, "connect", lambda: pytest.fail("It connected to a cluster."))
