"""Check that Python imports Figment's packages, not others with the same names.

Python searches the folder in which a command is started first, so a folder `training` there hides Figment's. The check
runs before a command imports any of the packages.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("generation", "training", "evaluation")


def other_package(root: Path) -> tuple[str, str] | None:
    """Return name and path of the first package that is not imported from `root`; None if all are."""
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
    """Exit with one line and status 2 if another package hides one of Figment's."""
    other = other_package(Path(__file__).resolve().parents[2])
    if other:
        name, place = other
        print(
            f"error: '{place}' hides Figment's package '{name}', because Python searches there first. Rename it, or "
            "start the command in another folder.",
            file=sys.stderr,
        )
        sys.exit(2)
