"""The journal of a training run: which sample each step used, start by start."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from training.config import TrainingConfig


def steps_in(journal: Path) -> dict[int, dict[float, list[list[str]]]]:
    """Return the rows of each step of each start of a run, by step and start, the starts in order of time."""
    steps: dict[int, dict[float, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for path in journal.glob("rank-*.csv"):
        with path.open(newline="") as file:
            for row in list(csv.reader(file))[1:]:
                if len(row) == 5:  # not cut short by a kill
                    steps[int(row[1])][float(row[0])].append(row)
    return {step: dict(sorted(starts.items())) for step, starts in steps.items()}


def steps_by_start(journal: Path) -> list[list[int]]:
    """Return the steps that each start of a run has done, the starts in order of time."""
    steps: dict[float, list[int]] = defaultdict(list)
    for step, starts in sorted(steps_in(journal).items()):
        for start in starts:
            steps[start].append(step)
    return [steps[start] for start in sorted(steps)]


def uses_of(journal: Path) -> Counter[int]:
    """Return how often each sample was used by the steps that count: each step as it was done the last time."""
    return Counter(int(row[3]) for starts in steps_in(journal).values() for row in list(starts.values())[-1])


def expected_uses(config: TrainingConfig) -> Counter[int]:
    """Return how often an undisturbed run uses each sample: the last one less often, where steps end before."""
    uses = Counter(dict.fromkeys(range(config.num_samples), config.least_uses))
    uses[config.num_samples - 1] -= config.num_samples * config.least_uses - config.num_trained
    return uses


def has_done(journal: Path, step: int) -> Callable[[], bool]:
    """Return whether a run has done a step, as a function to wait for."""
    return lambda: any(done >= step for done in steps_in(journal))
