"""Which messages reach the console of a command."""

import subprocess
import sys
from pathlib import Path

import pytest

from generation.recipes.model_files import PROJECT_ROOT

SCRIPT = """
import os, sys
from pathlib import Path
from ray_jobs.cli.console import CONSOLE

if "keep" in sys.argv:
    CONSOLE.detach_stderr()
CONSOLE.shows_libraries = "debug" in sys.argv
CONSOLE.send_native_messages_to(Path(sys.argv[1]))
print("own line", file=sys.stderr)
os.write(2, b"native line\\n")
if "crash" in sys.argv:
    os.abort()
"""


def console_and_log(folder: Path, *words: str) -> tuple[str, str]:
    """Run the script; return its stderr, and the log or an empty text."""
    log = folder / "native.err"
    command = [sys.executable, "-c", SCRIPT, str(log), *words]
    ended = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    return ended.stderr, log.read_text() if log.exists() else ""


@pytest.mark.parametrize(
    ("words", "console", "log"),
    [
        (["keep"], "own line\n", "native line\n"),
        (["keep", "debug"], "own line\nnative line\n", ""),
        ([], "own line\nnative line\n", ""),
    ],
)
def test_native_messages_go_to_the_log_unless_libraries_are_shown(
    words: list[str], console: str, log: str, tmp_path: Path
):
    assert console_and_log(tmp_path, *words) == (console, log)


def test_trace_of_a_crash_reaches_the_console(tmp_path: Path):
    console, _ = console_and_log(tmp_path, "keep", "crash")
    assert "Fatal Python error: Aborted" in console
