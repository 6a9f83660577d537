"""Prometheus metrics of a run: their table, and an exporter that sets them for each snapshot.

Ray adds `ray_` to each name, `_total` to a counter's, and its own tags; docs/watching.md has the same table.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from ray.util.metrics import Counter, Gauge

from ray_jobs.monitor.progress import Interval, RunProgress

RATE_WINDOW_SECONDS = 30.0
"""Window of rates and fractions: snapshots are a second apart, and training reports once per step."""


@dataclass(frozen=True)
class Metric:
    """An exported metric."""

    kind: type[Counter] | type[Gauge]
    name: str
    description: str
    """Ends with the unit, in parentheses."""

    value: Callable[[Interval], float | Mapping[str, float] | None]
    """A counter's total so far, or a gauge's value, None if unknown; a mapping by tag value if the metric has a tag."""

    tag: str = ""
    """Name of a tag besides the run's; empty without one."""


counter, gauge = partial(Metric, Counter), partial(Metric, Gauge)

METRICS = (
    counter(
        "figment_images_generated",
        "Images generated since the pool started, including refused ones (images)",
        lambda run: run.now.counts.num_images_made,
    ),
    counter(
        "figment_images_refused",
        "Images refused by the guard, by reason (images)",
        lambda run: run.now.counts.num_refused,
        tag="reason",
    ),
    counter(
        "figment_samples_left_out",
        "Samples left out because all their images were refused, by class (samples)",
        lambda run: run.now.counts.num_left_out,
        tag="class",
    ),
    counter(
        "figment_images_delivered",
        "Generated images delivered to training: the first worker's, times the number of workers (images)",
        lambda run: run.now.training and run.now.training.num_delivered,
    ),
    counter(
        "figment_images_trained",
        "Images trained on, counting every use; steps repeated after a lost worker count again (images)",
        lambda run: run.now.training and run.now.training.num_trained_since_resume,
    ),
    gauge(
        "figment_images_generated_per_second",
        "Images generated, over the last 30 s (images per second)",
        lambda run: run.generated_per_second,
    ),
    gauge(
        "figment_images_trained_per_second",
        "Images trained on, over the last 30 s (images per second)",
        lambda run: run.trained_per_second,
    ),
    gauge(
        "figment_trainer_waiting_fraction",
        "Share of the last 30 s, without validation, in which the first worker waited for images (0..1)",
        lambda run: run.waiting_fraction if run.learning_seconds > 0 else None,
    ),
    gauge(
        "figment_generator_working_fraction",
        "Share of the last 30 s in which actors were busy; a batch counts when it is finished (0..1)",
        lambda run: run.working_fraction,
    ),
    gauge(
        "figment_generator_requests",
        "Queue: batches pending at actors when each last reported, up to 4 per actor; more may be waiting (batches)",
        lambda run: sum(run.now.counts.num_requests.values()),
    ),
    gauge(
        "figment_generator_actors",
        "Running actors with a loaded model (actors)",
        lambda run: run.now.num_actors,
    ),
    gauge(
        "figment_generator_awaited_actors",
        "Pending actors: waiting for a node or loading their model (actors)",
        lambda run: run.now.num_pending,
    ),
    gauge(
        "figment_generator_batch_images",
        "Largest batch size among the actors (images)",
        lambda run: max(run.now.counts.batch_sizes.values(), default=None),
    ),
    gauge(
        "figment_image_uses",
        "Mean number of times an image was trained on so far (uses per image)",
        lambda run: run.now.training and run.now.training.reuse,
    ),
    gauge(
        "figment_reservoir_images",
        "Images that the first worker's next batch is drawn from (images)",
        lambda run: run.now.training and run.now.training.num_in_reservoir,
    ),
    gauge(
        "figment_batch_overlap_fraction",
        "Share of a batch's images that were also in the previous batch: mean of the first worker's last 8 (0..1)",
        lambda run: run.now.training and run.now.training.batch_overlap,
    ),
    gauge(
        "figment_window_classes",
        "Classes in the first worker's last 8 batches (classes)",
        lambda run: run.now.training and run.now.training.num_window_classes,
    ),
    counter(
        "figment_model_loads",
        "Model loads of all actors (models)",
        lambda run: run.now.counts.num_loads.total(),
    ),
    counter(
        "figment_model_load_seconds",
        "Total time of these loads: imports, weights, compilation, batch size search (seconds)",
        lambda run: run.now.counts.load_seconds,
    ),
)


def values_of(interval: Interval) -> Iterator[tuple[Metric, str, float]]:
    """Yield each metric with its tag value ("" without a tag) and its value at the end of an interval, if known."""
    for metric in METRICS:
        value = metric.value(interval)
        for tag, number in (value if isinstance(value, Mapping) else {"": value}).items():
            if number is not None:
                yield metric, tag, number


def increase(before: float, now: float) -> float:
    """Return the increment of a counter; a smaller value means that the count restarted."""
    return now - before if now >= before else now


def as_tag(text: str) -> str:
    """Return a text as a metric's tag: Ray 2.60 accepts ASCII only, so other characters are escaped."""
    return text.encode("ascii", "backslashreplace").decode()


class RateWindow:
    """Stores snapshots for the window of the rates."""

    def __init__(self) -> None:
        self._snapshots: deque[RunProgress] = deque()

    def until(self, progress: RunProgress) -> Interval:
        """Return the last `RATE_WINDOW_SECONDS`, or less if the run is younger."""
        self._snapshots.append(progress)
        while len(self._snapshots) > 2 and progress.observed_at - self._snapshots[1].observed_at >= RATE_WINDOW_SECONDS:
            self._snapshots.popleft()
        return Interval(self._snapshots[0], progress)


class Exporter:
    """Exports a run's metrics through Ray; a gauge disappears about 25 s after it was last set."""

    def __init__(self, run: str, recipe_hash: str) -> None:
        self._tags = {"run": as_tag(run), "recipe": recipe_hash}
        self._stretch = RateWindow()
        self._metrics = {metric.name: self._registered(metric) for metric in METRICS}
        self._counted: dict[tuple[str, str], float] = {}

    def observe(self, progress: RunProgress) -> None:
        """Set all metrics that are known."""
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
