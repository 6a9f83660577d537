"""Run `ray_jobs` commands in this process."""

import sys
from types import ModuleType
from typing import Any

import pytest
import ray

from ray_jobs.cli import command_line
from ray_jobs.cluster.connect import connect


def call(command: ModuleType, *arguments: str) -> None:
    """Run a command with these arguments."""
    command_line.run([_name(command), *arguments])


def settings(command: ModuleType, *arguments: str) -> Any:
    """Return the settings that a command's arguments mean."""
    work = command_line.read([_name(command), *arguments])
    assert work is not None
    return work.parameters["config"]


def prepared(command: ModuleType, *arguments: str) -> Any:
    """Return what a command's `prepare` makes of its arguments."""
    return command.prepare(settings(command, *arguments))


def _name(command: ModuleType) -> str:
    return command.__name__.rpartition(".")[2]


def printed(command: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the standard output of a command."""
    capsys.readouterr()
    call(command, *arguments)
    return capsys.readouterr().out


def error_line(command: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error line of a command that exits with status 2, without `error: `.

    It must be the only line on stderr, unless a cluster is running, whose log may be there too.
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
    """Return the lines of a log that start with `error: `."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def forbid_cluster(patch: pytest.MonkeyPatch) -> None:
    """Fail the test if a command connects to a cluster, from any module of `ray_jobs`."""
    users = [module for name, module in sys.modules.items() if name.startswith("ray_jobs.")]
    for module in users:
        if getattr(module, "connect", None) is connect:
            patch.setattr(module, "connect", lambda: pytest.fail("The command connected to a cluster."))
