"""Floors of the benchmarks' ratios, read from `benchmarks/floors.toml`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from generation.recipes.model_files import PROJECT_ROOT

FLOORS_FILE = PROJECT_ROOT / "benchmarks" / "floors.toml"


def read_floors(file: Path | None = None) -> dict[str, dict[str, float]]:
    """Return the floor of each ratio by benchmark and name; ValueError for a floor that is not a positive number."""
    file = file or FLOORS_FILE
    try:
        sections = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"'{file}' is not valid TOML: {error}.") from error
    return {benchmark: _checked(benchmark, floors) for benchmark, floors in sections.items()}


def floors_of(benchmark: str) -> dict[str, float]:
    """Return the floors of one benchmark; ValueError if the file has none for it."""
    floors = read_floors()
    if benchmark not in floors:
        raise ValueError(f"'{FLOORS_FILE}' has no section [{benchmark}]. Its sections are {', '.join(floors)}.")
    return floors[benchmark]


def below_floor(ratios: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """Return the names of ratios below their floor, or NaN; ValueError unless ratios and floors match."""
    check_names("ratio", ratios, floors)
    return [name for name, floor in floors.items() if not ratios[name] >= floor]


def check_names(kind: str, measured: Mapping[str, object], floors: Mapping[str, object]) -> None:
    """Raise ValueError unless measurements and floors have the same names."""
    missing = [f"the {kind} '{name}' has no floor" for name in measured if name not in floors]
    unknown = [f"there is no {kind} '{name}'" for name in floors if name not in measured]
    if missing or unknown:
        raise ValueError(f"Floors and benchmarks do not match: {'; '.join(missing + unknown)}. Edit '{FLOORS_FILE}'.")


def _checked(benchmark: str, floors: object) -> dict[str, float]:
    if not isinstance(floors, dict):
        raise ValueError(f"The floor of '{benchmark}' is outside a section. Move it below its [benchmark] header.")
    for name, floor in floors.items():
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not floor > 0:
            raise ValueError(f"The floor of '{name}' in [{benchmark}] is {floor}; use a number above 0.")
    return {name: float(floor) for name, floor in floors.items()}
