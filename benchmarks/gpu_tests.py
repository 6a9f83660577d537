"""Run the tests marked `gpu` in a separate process. Only their files are collected, since others may need Ray."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.device_report import OUT_OF_TIME, Line, not_measured
from generation.recipes.model_files import PROJECT_ROOT

MARK = "@pytest.mark." + "gpu"
"""Text that identifies a file with such tests."""

ALL = "pytest -m gpu"

RAN = (0, 1)
"""pytest's exit statuses if tests ran: all passed, or some failed."""


def run_gpu_tests(results: Path, timeout_seconds: float) -> list[Line]:
    """Return a line for each test; pytest writes JUnit XML to `results`. RuntimeError if pytest could not run."""
    files = files_with_gpu_tests(PROJECT_ROOT / "tests")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={results}", *map(str, files)]
    try:
        ran = subprocess.run(
            command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return [not_measured(ALL, OUT_OF_TIME)]
    if ran.returncode not in RAN:
        raise RuntimeError(f"pytest failed with exit status {ran.returncode}: {(ran.stdout + ran.stderr)[-300:]}")
    return read_junit(results.read_text())


def files_with_gpu_tests(folder: Path) -> list[Path]:
    """Return the test files below a folder that contain tests marked `gpu`."""
    return sorted(path for path in folder.rglob("test_*.py") if MARK in path.read_text())


def read_junit(text: str) -> list[Line]:
    """Return a line for each test in a JUnit file."""
    return [_line(case) for case in ElementTree.fromstring(text).iter("testcase")]


def _line(case: ElementTree.Element) -> Line:
    name, seconds = case.get("name", ""), {"_seconds": float(case.get("time", "0"))}
    for kind in ("failure", "error"):
        if (found := case.find(kind)) is not None:
            reason = f"{found.get('message', '')} {found.text or ''}"
            return Line(name, values=seconds, outcome="failed", reason=" ".join(reason.split())[:300])
    if (skipped := case.find("skipped")) is not None:
        return not_measured(name, skipped.get("message", ""))
    return Line(name, values=seconds, outcome="passed")
