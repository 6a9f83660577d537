"""docs/architecture.md matches the file tree."""

import re

from generation.recipes.model_files import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "architecture.md").read_text()
MOST_FILES = 35


def exists(path: str) -> bool:
    """Return whether a path of the page is a file; the page omits folders named before."""
    above = ("", "generation", "training", "evaluation", "ray_jobs")
    return any((PROJECT_ROOT / folder / path).is_file() for folder in above)


def test_every_file_on_the_page_exists():
    paths = re.findall(r"`([a-z_/]+\.py)`", PAGE)
    assert len(paths) > MOST_FILES
    assert [path for path in paths if not exists(path)] == []


def test_walk_of_a_sample_numbers_35_files():
    numbers = [int(number) for number in re.findall(r"\.py` \((\d+)\)", PAGE)]
    assert numbers == list(range(1, MOST_FILES + 1))


def test_files_in_ray_jobs_are_commands():
    entries = [path for path in (PROJECT_ROOT / "ray_jobs").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 22
    others = {path.name for path in entries if path.is_file()} - {"__init__.py"}
    assert [name for name in sorted(others) if "def main(" not in (PROJECT_ROOT / "ray_jobs" / name).read_text()] == []
