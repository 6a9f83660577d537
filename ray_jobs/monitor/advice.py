"""Which side of a run to grow, from how long training waited and how long generators worked.

Numbers in, a sentence out.
"""

import math
from collections.abc import Callable

from generation.pool.sizing import actors_needed
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import keep_trace
from ray_jobs.monitor.progress import Interval, RunProgress

LITTLE_WAITING_FRACTION = 0.05
"""Training that waits less than this has images enough."""

MOST_WAITING_FRACTION = 0.99
"""Training that waited all the time would need generators without end: no more of it is believed than this."""

NOTABLE_REUSE = 1.05
"""Images that are used so many times as often as they have to be are used again for want of new ones."""

NOTHING_TO_GO_BY = "nothing was seen to go by"


class Adviser:
    """Says at each logical epoch's end which side to grow, and knows it of the whole run."""

    _epoch_began: RunProgress

    def __init__(self, config: JobConfig, say: Callable[[str], None]) -> None:
        self.config = config
        self.say = say
        self._run: Interval | None = None

    def look(self, progress: RunProgress) -> None:
        """Take how the run goes; all counts from its first step, or from where it was last taken up."""
        if progress.training is None:
            return
        if self._run is None or Interval(self._run.before, progress).is_interrupted:
            self._run, self._epoch_began = Interval(progress, progress), progress
        self._run, epoch = Interval(self._run.before, progress), Interval(self._epoch_began, progress)
        if epoch.num_epochs:
            self.say(f"epoch {progress.training.epoch}: {advise(epoch, self.config)}")
            self._epoch_began = progress

    def of_whole_run(self) -> str:
        """Return what the run as a whole tells."""
        try:
            return NOTHING_TO_GO_BY if self._run is None else advise(self._run, self.config)
        except Exception as error:  # what was trained is kept, with or without advice
            return f"no advice. {keep_trace(error)}"


class MissingActors:
    """Says it, once, of actors that have not come in the time that they may take: the run goes on without them."""

    def __init__(self, config: JobConfig, say: Callable[[str], None]) -> None:
        self.seconds = config.generation.longest_start_seconds
        self.say = say
        self._awaited_since = 0.0
        self._num_loads = -1
        """How many models were loaded by then."""

        self._is_said = False

    def look(self, progress: RunProgress) -> None:
        """Take how the run goes; one that came ends the time in which none did."""
        num_loads = progress.counts.num_loads.total()
        if not progress.num_awaited or num_loads != self._num_loads:
            self._awaited_since, self._num_loads, self._is_said = progress.observed_at, num_loads, False
        elif not self._is_said and progress.observed_at - self._awaited_since >= self.seconds:
            self._is_said = True
            self.say(
                f"{counted(progress.num_awaited, 'generator')} more did not come within {self.seconds:g} s: has the "
                f"cluster such nodes? The run goes on with {progress.num_actors}"
            )


def advise(stretch: Interval, config: JobConfig) -> str:
    """Return which side to grow, judging by a part of a run in which training was not taken up again."""
    if stretch.learning_seconds <= 0:
        return NOTHING_TO_GO_BY
    waiting, for_pool = stretch.waiting_fraction, stretch.pool_waiting_fraction
    if config.data.source != "stream":
        return _of_readers(waiting, "shards" if config.data.source == "shards" else "real images")
    if waiting - for_pool >= max(LITTLE_WAITING_FRACTION, for_pool):
        return _of_readers(waiting - for_pool, "real images")
    return _of_enough(stretch, config) if for_pool < LITTLE_WAITING_FRACTION else _of_too_few(stretch, config)


def actors_at_work(stretch: Interval) -> float:
    """Return how many actors were at work in the mean; while training judges nobody needs them."""
    return min(stretch.working_seconds / stretch.learning_seconds, stretch.mean_actors)


def _actors_needed(stretch: Interval) -> float:
    """Return how many actors, always at work, make what training would use if it never waited for them."""
    return actors_needed(actors_at_work(stretch), min(stretch.pool_waiting_fraction, MOST_WAITING_FRACTION))


def _of_readers(waiting_fraction: float, images: str) -> str:
    """Return whether those who read images that are there already should be more."""
    remedy = "readers keep up" if waiting_fraction < LITTLE_WAITING_FRACTION else "raise data.num_readers"
    return f"trainer waited {waiting_fraction:.0%} for {images}: {remedy}"


def _of_too_few(stretch: Interval, config: JobConfig) -> str:
    """Return what to grow where training waited."""
    pool, num_actors = config.generation, stretch.now.num_actors
    waited, enough = f"trainer waited {stretch.pool_waiting_fraction:.0%}", math.ceil(_actors_needed(stretch))
    if _actors_needed(stretch) <= stretch.mean_actors:
        setting = "data.num_readers" if config.data.replays else "generation.max_buffered_bytes"
        return (
            f"{waited}, but {actors_at_work(stretch):.1f} of {stretch.mean_actors:.1f} generators were at work in the "
            f"mean: images were held up on their way, and more of them would not help; try a larger {setting}"
        )
    if enough <= num_actors:
        return f"{waited}: about {counted(enough, 'generator')} would do, and {num_actors} are up by now"
    if pool.min_actors == pool.max_actors:
        return f"{waited}: add about {counted(enough - num_actors, 'generator')}"
    if enough > pool.max_actors:
        return f"{waited}: raise generation.max_actors from {pool.max_actors} to about {enough}"
    return f"{waited}: about {counted(enough, 'generator')} would do; the pool of {num_actors} grows by itself"


def _of_enough(stretch: Interval, config: JobConfig) -> str:
    """Return what to grow or to do without where training hardly waited."""
    num_actors, num_workers = stretch.now.num_actors, config.training.num_workers
    needed = _actors_needed(stretch)
    enough, fed = max(1, math.ceil(needed)), math.floor(num_workers * num_actors / needed) if needed else num_workers
    remedies = [
        *([f"{enough} of {num_actors} would do"] if enough < num_actors else []),
        *([f"add about {counted(fed - num_workers, 'training worker')}"] if fed > num_workers else []),
    ]
    busy = actors_at_work(stretch) / max(stretch.mean_actors, 1e-9)
    return (
        f"trainer waited {stretch.pool_waiting_fraction:.0%}, generators were busy {busy:.0%} of the time: "
        f"{', or '.join(remedies) or _balanced(stretch, config)}"
    )


def _balanced(stretch: Interval, config: JobConfig) -> str:
    """Return that nothing need grow, and with `training.reuse` auto what it takes to use images less often."""
    training, least = stretch.now.training, config.training.least_uses
    if training is None or config.training.reuse != "auto" or training.reuse < NOTABLE_REUSE * least:
        return "balanced"
    more = max(1, math.ceil(_actors_needed(stretch) * training.reuse / least) - stretch.now.num_actors)
    used = f"balanced, by using images {training.reuse:.1f} times"
    return f"{used}; {least} would take about {counted(more, 'generator')} more"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
