"""Scaling advice from how long training waited and how long generators worked.

Numbers in, a sentence out.
"""

import math
from collections.abc import Callable

from generation.pool.sizing import actors_needed
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import keep_trace
from ray_jobs.monitor.progress import Interval, RunProgress

LITTLE_WAITING_FRACTION = 0.05
"""Below this waiting fraction training has enough images."""

MAX_WAITING_FRACTION = 0.99
"""Cap on the waiting fraction: at 1 training would need infinitely many generators."""

NOTABLE_REUSE = 1.05
"""Reuse above this multiple of the minimum means that images are reused because new images are missing."""

NO_DATA = "not enough data for advice"


class Adviser:
    """Logs scaling advice after each epoch and for the whole run."""

    _epoch_began: RunProgress

    def __init__(self, config: JobConfig, log: Callable[[str], None]) -> None:
        self.config = config
        self.log = log
        self._run: Interval | None = None

    def observe(self, progress: RunProgress) -> None:
        """Take the run's progress; all counts start at its first step, or where training last resumed."""
        if progress.training is None:
            return
        if self._run is None or Interval(self._run.before, progress).is_interrupted:
            self._run, self._epoch_began = Interval(progress, progress), progress
        self._run, epoch = Interval(self._run.before, progress), Interval(self._epoch_began, progress)
        if epoch.num_epochs:
            self.log(f"epoch {progress.training.epoch}: {advise(epoch, self.config)}{epoch.scores_in_words}")
            self._epoch_began = progress

    def run_advice(self) -> str:
        """Return the advice for the whole run."""
        try:
            return NO_DATA if self._run is None else advise(self._run, self.config)
        except Exception as error:  # a failure here must not lose the trained model
            return f"no advice: an error. {keep_trace(error)}"


class OverdueActors:
    """Warns once when actors are overdue; the run continues without them."""

    def __init__(self, config: JobConfig, log: Callable[[str], None]) -> None:
        self.seconds = config.generation.start_limit_seconds
        self.log = log
        self._awaited_since = 0.0
        self._num_loads = -1
        """Number of model loads at that time."""

        self._has_warned = False

    def observe(self, progress: RunProgress) -> None:
        """Take the run's progress; every newly loaded actor restarts the timeout."""
        num_loads = progress.counts.num_loads.total()
        if not progress.num_pending or num_loads != self._num_loads:
            self._awaited_since, self._num_loads, self._has_warned = progress.observed_at, num_loads, False
        elif not self._has_warned and progress.observed_at - self._awaited_since >= self.seconds:
            self._has_warned = True
            self.log(
                f"{counted(progress.num_pending, 'more generator')} did not start within {self.seconds:g} s; check "
                f"that the cluster has nodes for them. Continuing with {progress.num_actors}"
            )


def advise(interval: Interval, config: JobConfig) -> str:
    """Return the advice for an interval in which training was not resumed."""
    if interval.learning_seconds <= 0:
        return NO_DATA
    waiting, for_pool = interval.waiting_fraction, interval.pool_waiting_fraction
    if config.data.source != "stream":
        return _of_readers(waiting, "shards" if config.data.source == "shards" else "real images")
    if waiting - for_pool >= max(LITTLE_WAITING_FRACTION, for_pool):
        return _of_readers(waiting - for_pool, "real images")
    return _of_enough(interval, config) if for_pool < LITTLE_WAITING_FRACTION else _of_too_few(interval, config)


def actors_at_work(interval: Interval) -> float:
    """Return the mean number of busy actors; validation time does not count, since it needs none."""
    return min(interval.working_seconds / interval.learning_seconds, interval.mean_actors)


def _actors_needed(interval: Interval) -> float:
    """Return the number of always busy actors that would feed training without waiting."""
    return actors_needed(actors_at_work(interval), min(interval.pool_waiting_fraction, MAX_WAITING_FRACTION))


def _of_readers(waiting_fraction: float, images: str) -> str:
    """Return whether to add readers of existing images."""
    remedy = "readers keep up" if waiting_fraction < LITTLE_WAITING_FRACTION else "raise data.num_readers"
    return f"trainer waited {waiting_fraction:.0%} for {images}: {remedy}"


def _of_too_few(interval: Interval, config: JobConfig) -> str:
    """Return what to add when training waited."""
    pool, num_actors = config.generation, interval.now.num_actors
    waited, enough = f"trainer waited {interval.pool_waiting_fraction:.0%}", math.ceil(_actors_needed(interval))
    if _actors_needed(interval) <= interval.mean_actors:
        setting = "data.num_readers" if config.data.replays else "generation.max_buffered_bytes"
        return (
            f"{waited}, but only {actors_at_work(interval):.1f} of {interval.mean_actors:.1f} generators were busy on "
            f"average: images were delayed in transit, so more generators would not help; raise {setting}"
        )
    if enough <= num_actors:
        return f"{waited}: about {counted(enough, 'generator')} would be enough, and {num_actors} are running now"
    if pool.min_actors == pool.max_actors:
        return f"{waited}: add about {counted(enough - num_actors, 'generator')}"
    if enough > pool.max_actors:
        return f"{waited}: raise generation.max_actors from {pool.max_actors} to about {enough}"
    return (
        f"{waited}: about {counted(enough, 'generator')} would be enough; the pool of {num_actors} grows automatically"
    )


def _of_enough(interval: Interval, config: JobConfig) -> str:
    """Return what to add or remove when training hardly waited."""
    num_actors, num_workers = interval.now.num_actors, config.training.num_workers
    needed = _actors_needed(interval)
    enough, fed = max(1, math.ceil(needed)), math.floor(num_workers * num_actors / needed) if needed else num_workers
    remedies = [
        *([f"{enough} of {num_actors} would be enough"] if enough < num_actors else []),
        *([f"add about {counted(fed - num_workers, 'training worker')}"] if fed > num_workers else []),
    ]
    busy = actors_at_work(interval) / max(interval.mean_actors, 1e-9)
    return (
        f"trainer waited {interval.pool_waiting_fraction:.0%}, generators were busy {busy:.0%} of the time: "
        f"{', or '.join(remedies) or _balanced(interval, config)}"
    )


def _balanced(interval: Interval, config: JobConfig) -> str:
    """Return that the run is balanced, and with `training.reuse` auto what would lower the reuse."""
    training, least = interval.now.training, config.training.least_uses
    if training is None or config.training.reuse != "auto" or training.reuse < NOTABLE_REUSE * least:
        return "balanced"
    more = max(1, math.ceil(_actors_needed(interval) * training.reuse / least) - interval.now.num_actors)
    added = counted(more, "more generator")
    return f"balanced, with images used {training.reuse:.1f} times; about {added} would lower that to {least}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
