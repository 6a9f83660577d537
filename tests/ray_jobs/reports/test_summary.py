"""The summary of a run and its table in the terminal."""

import dataclasses
import time
from typing import Any

import pytest

from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig
from ray_jobs.job.evaluation import print_evaluation
from ray_jobs.reports.summary import print_summary, summarize
from tests.support.progress import pool_counts, progress_at


def test_brackets_and_colons_are_printed_verbatim(capsys):
    numbers = dict.fromkeys(("top1", "top5", "mean_per_class_top1", "ece"), 0.5)
    of_set: Any = {"num_images": 10, "num_shared_classes": 2, "top1_interval": [0.4, 0.6], **numbers}
    print_summary({"output": "runs/[/red] :smile:", "mean_scores": {"class of many": 0.5}})
    evaluation: Any = {"sets": {"birds/[/b]": of_set}}
    print_evaluation(evaluation)
    shown = capsys.readouterr().out
    assert "runs/[/red] :smile:" in shown
    assert "birds/[/b]" in shown
    assert "class of many" not in shown


@pytest.mark.parametrize(("num_made", "expected"), [(400, 0.0125), (0, 0.0)])
def test_device_seconds_per_image_are_of_the_generators_work(num_made: int, expected: float, painted: Recipe):
    config = JobConfig(generation=GenerationConfig(gpus_per_actor=0.5))
    # 400 images in 10 s of work are 40 a second; an actor is half a device
    progress = progress_at(110.0, counts=pool_counts(10.0 if num_made else 0.0, num_made), num_trained=256)
    progress = dataclasses.replace(progress, num_generated=num_made)
    found = summarize(config, painted, progress, None, time.time())
    assert found["generation_device_seconds_per_image"] == pytest.approx(expected)
