"""Commit, machine and date of a measurement, for reports."""

import os
import platform
import subprocess
from datetime import date

from generation.recipes.model_files import PROJECT_ROOT


def commit() -> str:
    """Return the commit of the running code; `unknown` outside a repository or without git."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"


def environment() -> dict[str, str]:
    """Return commit, machine and date."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {"commit": commit(), "machine": machine, "date": date.today().isoformat()}
