"""What Prometheus is told of a run: one table of metrics, and what sets them all at each look.

Ray adds `ray_` to each name, `_total` to a counter's, and tags of its own; docs/watching.md has the same table.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge

from ray_jobs.monitor.progress import RunProgress, Stretch

STRETCH_SECONDS = 30.0
"""Rates and shares are those of about so long: the looks are a second apart, and training speaks once a step."""


@dataclass(frozen=True)
class Metric:
    """A number that is watched."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    value: Callable[[Stretch], float | Mapping[str, float] | None]
    """A counter's is what it has come to so far, a gauge's None where it is not known; by tag, if it has one."""

    tag: str = ""
    """What its values are told apart by, beside the run."""

    @property
    def prometheus_name(self) -> str:
        """The name under which Prometheus finds it."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


METRICS = (
    Metric(
        "figment_images_generated",
        "counter",
        "images",
        "Images that the pool has made since it started, refused ones included",
        lambda run: run.now.counts.num_images_made,
    ),
    Metric(
        "figment_images_refused",
        "counter",
        "images",
        "Images that the guard refused, by reason",
        lambda run: run.now.counts.num_refused,
        tag="reason",
    ),
    Metric(
        "figment_samples_left_out",
        "counter",
        "samples",
        "Samples that are left out, as all their images were refused, by class",
        lambda run: run.now.counts.num_left_out,
        tag="class",
    ),
    Metric(
        "figment_images_delivered",
        "counter",
        "images",
        "Generated images that have reached training: those of the first worker, times the number of workers",
        lambda run: run.now.training and run.now.training.num_delivered,
    ),
    Metric(
        "figment_images_trained",
        "counter",
        "images",
        "Images trained on, each use of each; what is repeated after the loss of a worker counts again",
        lambda run: run.now.training and run.now.training.num_learnt,
    ),
    Metric(
        "figment_images_generated_per_second",
        "gauge",
        "images a second",
        "Images made, over the last 30 s",
        lambda run: run.generated_per_second,
    ),
    Metric(
        "figment_images_trained_per_second",
        "gauge",
        "images a second",
        "Images trained on, over the last 30 s",
        lambda run: run.trained_per_second,
    ),
    Metric(
        "figment_trainer_waiting_fraction",
        "gauge",
        "0..1",
        "Share of the last 30 s, all about held-out images aside, in which the first worker waited for images",
        lambda run: run.waiting_fraction if run.learning_seconds > 0 else None,
    ),
    Metric(
        "figment_generator_working_fraction",
        "gauge",
        "0..1",
        "Share of the last 30 s in which the actors had anything to do; a batch counts when it is done",
        lambda run: run.working_fraction,
    ),
    Metric(
        "figment_generator_requests",
        "gauge",
        "batches",
        "The queue: batches that each actor was still asked for when it last answered, up to 4; others may wait",
        lambda run: sum(run.now.counts.num_requests.values()),
    ),
    Metric(
        "figment_generator_actors",
        "gauge",
        "actors",
        "Actors that are up, their models loaded",
        lambda run: run.now.num_actors,
    ),
    Metric(
        "figment_generator_awaited_actors",
        "gauge",
        "actors",
        "Actors that are to come: their nodes are not there yet, or their models not loaded",
        lambda run: run.now.num_awaited,
    ),
    Metric(
        "figment_generator_batch_images",
        "gauge",
        "images",
        "Images made at once by the actor with the largest batches",
        lambda run: max(run.now.counts.batch_sizes.values(), default=None),
    ),
    Metric(
        "figment_image_uses",
        "gauge",
        "uses an image",
        "How often an image was trained on so far, in the mean: the reuse reached",
        lambda run: run.now.training and run.now.training.reuse,
    ),
    Metric(
        "figment_reservoir_images",
        "gauge",
        "images",
        "Images that the first worker's next batch is drawn from",
        lambda run: run.now.training and run.now.training.num_in_reservoir,
    ),
    Metric(
        "figment_batch_overlap_fraction",
        "gauge",
        "0..1",
        "Share of a batch whose images were in the batch before too: the mean of the first worker's last 8",
        lambda run: run.now.training and run.now.training.batch_overlap,
    ),
    Metric(
        "figment_window_classes",
        "gauge",
        "classes",
        "Classes in the first worker's last 8 batches",
        lambda run: run.now.training and run.now.training.num_window_classes,
    ),
    Metric(
        "figment_model_loads",
        "counter",
        "models",
        "Models that actors have loaded",
        lambda run: run.now.counts.num_loads.total(),
    ),
    Metric(
        "figment_model_load_seconds",
        "counter",
        "seconds",
        "What those loads took, added up: imports, weights, compiling, the search for a batch size",
        lambda run: run.now.counts.load_seconds,
    ),
)


@dataclass(frozen=True)
class MetricValue:
    """A metric's value at one moment."""

    metric: Metric
    tags: Mapping[str, str]
    value: float


def values_of(stretch: Stretch) -> Iterator[MetricValue]:
    """Yield all that is known at the end of a stretch."""
    for metric in METRICS:
        value = metric.value(stretch)
        values = value if isinstance(value, Mapping) else {"": value}
        for tag, number in values.items():
            if number is not None:
                yield MetricValue(metric, {metric.tag: tag} if metric.tag else {}, number)


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
        for reading in values_of(self._stretch.until(progress)):
            metric = self._metrics[reading.metric.name]
            if isinstance(metric, Gauge):
                metric.set(reading.value, {name: as_tag(tag) for name, tag in reading.tags.items()})
            elif more := self._increase(reading):
                metric.inc(more, {name: as_tag(tag) for name, tag in reading.tags.items()})

    def _registered(self, metric: Metric) -> Counter | Gauge:
        tag_keys = (*self._tags, *([metric.tag] if metric.tag else []))
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, f"{metric.description} ({metric.unit})", tag_keys).set_default_tags(self._tags)

    def _increase(self, reading: MetricValue) -> float:
        """Return how much a counter has grown since it was last told."""
        key = reading.metric.name, "".join(reading.tags.values())
        before, self._counted[key] = self._counted.get(key, 0.0), reading.value
        return increase(before, reading.value)
