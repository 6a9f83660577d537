"""The journal of a training run: the samples used in each step of each start."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from training.config import TrainingConfig


def steps_in(journal: Path) -> dict[int, dict[float, list[list[str]]]]:
    """Return the journal's rows by step and start; starts are in time order."""
    steps: dict[int, dict[float, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for path in journal.glob("rank-*.csv"):
        with path.open(newline="") as file:
            for row in list(csv.reader(file))[1:]:
                if len(row) == 5:  # not truncated by a kill
                    steps[int(row[1])][float(row[0])].append(row)
    return {step: dict(sorted(starts.items())) for step, starts in steps.items()}


def steps_by_start(journal: Path) -> list[list[int]]:
    """Return the steps done by each start of a run; starts are in time order."""
    steps: dict[float, list[int]] = defaultdict(list)
    for step, starts in sorted(steps_in(journal).items()):
        for start in starts:
            steps[start].append(step)
    return [steps[start] for start in sorted(steps)]


def uses_of(journal: Path) -> Counter[int]:
    """Return the number of uses of each sample; of repeated steps only the last repetition counts."""
    return Counter(int(row[3]) for starts in steps_in(journal).values() for row in list(starts.values())[-1])


def expected_uses(config: TrainingConfig) -> Counter[int]:
    """Return the number of uses of each sample in an uninterrupted run; the last has fewer if the steps end early."""
    uses = Counter(dict.fromkeys(range(config.num_samples), config.least_uses))
    uses[config.num_samples - 1] -= config.num_samples * config.least_uses - config.num_trained
    return uses


def has_done(journal: Path, step: int) -> Callable[[], bool]:
    """Return a function for `wait_until` that is true once a run has done a step."""
    return lambda: any(done >= step for done in steps_in(journal))
