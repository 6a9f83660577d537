"""Where and when numbers were measured: what a report has to name."""

import os
import platform
import subprocess
from datetime import date

from generation.recipes.model_files import PROJECT_ROOT


def commit() -> str:
    """Return the commit of the code that runs, `unknown` outside a repository or where there is no git."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"


def circumstances() -> dict[str, str]:
    """Return commit, machine and day."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {"commit": commit(), "machine": machine, "date": date.today().isoformat()}
