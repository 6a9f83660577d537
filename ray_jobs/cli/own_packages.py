"""Whether Python imports Figment's packages, and not others of their names.

Python looks first in the folder where a command is started: a folder `training` there goes before Figment's. This runs
before a command imports any of them.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("generation", "training", "evaluation")


def other_package(root: Path) -> tuple[str, str] | None:
    """Return the first package that is not the one in `root`, and where it is; None if all are."""
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            continue
        found = os.path.dirname(spec.origin or "") if spec.submodule_search_locations else spec.origin
        found = found or next(iter(spec.submodule_search_locations or []))  # a folder without __init__.py
        if Path(found).resolve() != root / name:
            return name, found
    return None


def check_own_packages() -> None:
    """End a command with one line and status 2 where another package takes the place of one of Figment's."""
    other = other_package(Path(__file__).resolve().parents[2])
    if other:
        name, place = other
        print(
            f"error: '{place}' takes the place of Figment's own package '{name}', since Python looks there first. "
            "Rename it, or start the command in another folder.",
            file=sys.stderr,
        )
        sys.exit(2)
