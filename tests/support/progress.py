"""Made-up progress snapshots of a run."""

from collections import Counter
from typing import Any

from ray.util import metrics

from generation.pool.keeper import GenerationCounts
from ray_jobs.monitor.progress import RunProgress
from ray_jobs.monitor.prometheus import Metric
from training.progress import TrainingProgress


def progress_at(at: float, num_actors: int = 4, counts: GenerationCounts | None = None, **training: Any) -> RunProgress:
    """Return a run's progress at a time; training began at second 100, or not yet without training values."""
    training = {"pool_waiting_seconds": training.get("waiting_seconds", 0.0), **training} if training else {}
    of_training = TrainingProgress(**{**BEGUN, "training_seconds": at - 100.0, **training}) if training else None
    return RunProgress(at, of_training, num_actors, at * num_actors, 0, counts or GenerationCounts(), 0, 0.0)


BEGUN: dict[str, Any] = {
    "num_trained": 0,
    "num_trained_before": 0,
    "epoch": 0,
    "requested_at": 5000.0,
    "first_batch_at": 5001.0,
    "waiting_seconds": 0.0,
    "held_out_waiting_seconds": 0.0,
    "validation_seconds": 0.0,
    "num_delivered": 0,
    "reuse": 1.0,
    "loss": 0.5,
    "held_out_top1": None,
}


def pool_counts(seconds: float, num_made: int = 0, **refused: int) -> GenerationCounts:
    """Return the counts of a pool."""
    return GenerationCounts(num_images_made=num_made, num_refused=Counter(refused), working_seconds=seconds)


def prometheus_name(metric: Metric) -> str:
    """Return the name of a metric exported by Ray, as seen in Prometheus."""
    return f"ray_{metric.name}{'_total' if metric.kind is metrics.Counter else ''}"
