"""Floors of the ratios that benchmarks measure, from the one file that holds them. Knows no benchmark.

The file lies beside the nightly runner in `benchmarks`, which this package may not import.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from generation.recipes.model_files import PROJECT_ROOT

FLOORS_FILE = PROJECT_ROOT / "benchmarks" / "floors.toml"


def read_floors(file: Path | None = None) -> dict[str, dict[str, float]]:
    """Return the floor of each ratio by benchmark and name; ValueError for a floor that is no positive number."""
    file = file or FLOORS_FILE
    try:
        sections = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"'{file}' is no TOML: {error}.") from error
    return {benchmark: _checked(benchmark, floors) for benchmark, floors in sections.items()}


def floors_of(benchmark: str) -> dict[str, float]:
    """Return the floors of one benchmark; ValueError if the file has none."""
    floors = read_floors()
    if benchmark not in floors:
        raise ValueError(f"'{FLOORS_FILE}' has no section [{benchmark}]. It has {', '.join(floors)}.")
    return floors[benchmark]


def below_floor(ratios: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """Return the names of ratios below their floors, NaN included; ValueError unless each ratio has a floor."""
    check_names("ratio", ratios, floors)
    return [name for name, floor in floors.items() if not ratios[name] >= floor]


def check_names(kind: str, measured: Mapping[str, object], floors: Mapping[str, object]) -> None:
    """Raise ValueError unless what was measured and what has floors are the same names."""
    without = [f"the {kind} '{name}' has no floor" for name in measured if name not in floors]
    unknown = [f"there is no {kind} '{name}'" for name in floors if name not in measured]
    if without or unknown:
        raise ValueError(f"Floors do not match: {'; '.join(without + unknown)}. Correct '{FLOORS_FILE}'.")


def _checked(benchmark: str, floors: object) -> dict[str, float]:
    if not isinstance(floors, dict):
        raise ValueError(f"The floor of '{benchmark}' is in no section. Put it below the [benchmark] that measures it.")
    for name, floor in floors.items():
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not floor > 0:
            raise ValueError(f"The floor of '{name}' in [{benchmark}] is {floor}; give a number above 0.")
    return {name: float(floor) for name, floor in floors.items()}
