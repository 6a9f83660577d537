"""What Prometheus is told of a run: one table of metrics, and what sets them all at each look.

Ray adds `ray_` to each name, `_total` to a counter's, and tags of its own; docs/watching.md has the same table.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from ray.util.metrics import Counter, Gauge

from ray_jobs.monitor.progress import RunProgress, Stretch

STRETCH_SECONDS = 30.0
"""Rates and shares are those of about so long: the looks are a second apart, and training speaks once a step."""


@dataclass(frozen=True)
class Metric:
    """A number that is watched."""

    kind: type[Counter] | type[Gauge]
    name: str
    description: str
    """With its unit at the end, in brackets."""

    value: Callable[[Stretch], float | Mapping[str, float] | None]
    """A counter's is what it has come to so far, a gauge's None where it is not known; by tag, if it has one."""

    tag: str = ""
    """What its values are told apart by, beside the run."""


counter, gauge = partial(Metric, Counter), partial(Metric, Gauge)

METRICS = (
    counter(
        "figment_images_generated",
        "Images that the pool has made since it started, refused ones included (images)",
        lambda run: run.now.counts.num_images_made,
    ),
    counter(
        "figment_images_refused",
        "Images that the guard refused, by reason (images)",
        lambda run: run.now.counts.num_refused,
        tag="reason",
    ),
    counter(
        "figment_samples_left_out",
        "Samples that are left out, as all their images were refused, by class (samples)",
        lambda run: run.now.counts.num_left_out,
        tag="class",
    ),
    counter(
        "figment_images_delivered",
        "Generated images that have reached training: those of the first worker, times the number of workers (images)",
        lambda run: run.now.training and run.now.training.num_delivered,
    ),
    counter(
        "figment_images_trained",
        "Images trained on, each use of each; what is repeated after the loss of a worker counts again (images)",
        lambda run: run.now.training and run.now.training.num_trained_since_resume,
    ),
    gauge(
        "figment_images_generated_per_second",
        "Images made, over the last 30 s (images a second)",
        lambda run: run.generated_per_second,
    ),
    gauge(
        "figment_images_trained_per_second",
        "Images trained on, over the last 30 s (images a second)",
        lambda run: run.trained_per_second,
    ),
    gauge(
        "figment_trainer_waiting_fraction",
        "Share of the last 30 s, all about held-out images aside, in which the first worker waited for images (0..1)",
        lambda run: run.waiting_fraction if run.learning_seconds > 0 else None,
    ),
    gauge(
        "figment_generator_working_fraction",
        "Share of the last 30 s in which the actors had anything to do; a batch counts when it is done (0..1)",
        lambda run: run.working_fraction,
    ),
    gauge(
        "figment_generator_requests",
        "The queue: batches that each actor was still asked for when it last answered, up to 4; others may wait "
        "(batches)",
        lambda run: sum(run.now.counts.num_requests.values()),
    ),
    gauge(
        "figment_generator_actors",
        "Actors that are up, their models loaded (actors)",
        lambda run: run.now.num_actors,
    ),
    gauge(
        "figment_generator_awaited_actors",
        "Actors that are to come: their nodes are not there yet, or their models not loaded (actors)",
        lambda run: run.now.num_awaited,
    ),
    gauge(
        "figment_generator_batch_images",
        "Images made at once by the actor with the largest batches (images)",
        lambda run: max(run.now.counts.batch_sizes.values(), default=None),
    ),
    gauge(
        "figment_image_uses",
        "How often an image was trained on so far, in the mean: the reuse reached (uses an image)",
        lambda run: run.now.training and run.now.training.reuse,
    ),
    gauge(
        "figment_reservoir_images",
        "Images that the first worker's next batch is drawn from (images)",
        lambda run: run.now.training and run.now.training.num_in_reservoir,
    ),
    gauge(
        "figment_batch_overlap_fraction",
        "Share of a batch whose images were in the batch before too: the mean of the first worker's last 8 (0..1)",
        lambda run: run.now.training and run.now.training.batch_overlap,
    ),
    gauge(
        "figment_window_classes",
        "Classes in the first worker's last 8 batches (classes)",
        lambda run: run.now.training and run.now.training.num_window_classes,
    ),
    counter(
        "figment_model_loads",
        "Models that actors have loaded (models)",
        lambda run: run.now.counts.num_loads.total(),
    ),
    counter(
        "figment_model_load_seconds",
        "What those loads took, added up: imports, weights, compiling, the search for a batch size (seconds)",
        lambda run: run.now.counts.load_seconds,
    ),
)


def values_of(stretch: Stretch) -> Iterator[tuple[Metric, str, float]]:
    """Yield metrics with their tags' values, if they have any, and what is known of them at the end of a stretch."""
    for metric in METRICS:
        value = metric.value(stretch)
        for tag, number in (value if isinstance(value, Mapping) else {"": value}).items():
            if number is not None:
                yield metric, tag, number


def increase(before: float, now: float) -> float:
    """Return how much to add to a counter; what has become less began anew."""
    return now - before if now >= before else now


def as_tag(text: str) -> str:
    """Return a text as a metric's tag: Ray 2.60 takes ASCII alone, and other letters become their escapes."""
    return text.encode("ascii", "backslashreplace").decode()


class LastStretch:
    """Remembers looks for as long as rates are taken over."""

    def __init__(self) -> None:
        self._looks: deque[RunProgress] = deque()

    def until(self, progress: RunProgress) -> Stretch:
        """Return the last `STRETCH_SECONDS`, or as much as there was."""
        self._looks.append(progress)
        while len(self._looks) > 2 and progress.observed_at - self._looks[1].observed_at >= STRETCH_SECONDS:
            self._looks.popleft()
        return Stretch(self._looks[0], progress)


class Exporter:
    """Hands a run's metrics to Ray at each look; a gauge that is not set again is gone after some 25 s."""

    def __init__(self, run: str, recipe_hash: str) -> None:
        self._tags = {"run": as_tag(run), "recipe": recipe_hash}
        self._stretch = LastStretch()
        self._metrics = {metric.name: self._registered(metric) for metric in METRICS}
        self._counted: dict[tuple[str, str], float] = {}

    def look(self, progress: RunProgress) -> None:
        """Set all that is known now."""
        for metric, tag, number in values_of(self._stretch.until(progress)):
            exported, tags = self._metrics[metric.name], {metric.tag: as_tag(tag)} if metric.tag else {}
            if isinstance(exported, Gauge):
                exported.set(number, tags)
            elif more := increase(self._counted.get((metric.name, tag), 0.0), number):
                exported.inc(more, tags)
            self._counted[metric.name, tag] = number

    def _registered(self, metric: Metric) -> Counter | Gauge:
        tag_keys = (*self._tags, *([metric.tag] if metric.tag else []))
        return metric.kind(metric.name, metric.description, tag_keys).set_default_tags(self._tags)
