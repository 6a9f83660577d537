"""Evaluate a classifier on real images: `python -m ray_jobs.evaluate CONFIG checkpoint=FILE [section.key=value]`."""

import sys
from pathlib import Path
from typing import Any

from evaluation.classify import count_hits
from evaluation.config import EvaluationConfig
from evaluation.real_images import check_real_images, real_images
from evaluation.report import evaluation_json, print_evaluation
from ray_jobs.cluster import check_placement, connect, evaluation_demand
from ray_jobs.config import JobConfig, load_config
from ray_jobs.run_directory import check_writable, new_path, resolve, write_json
from ray_jobs.user_errors import user_errors
from training.checkpoint import read_checkpoint, recipe_of


def main() -> None:
    """Compose the job: a checkpoint, real images, numbers."""
    with user_errors():
        config = load_config(JobConfig, sys.argv[1:])
        path, checkpoint = open_checkpoint(config.checkpoint)
        check_writable(path.parent)
        check_real_images(config.evaluation.dataset, recipe_of(checkpoint).label_space.name, must_have_images=True)
        connect()
        check_placement([evaluation_demand(config.evaluation)])
    evaluation = evaluate_checkpoint(checkpoint, config.evaluation)
    print_evaluation(evaluation)
    report = new_path(path.parent, "evaluation", ".json")
    write_json(report, evaluation)
    print(f"Written to {report}")


def open_checkpoint(checkpoint: str) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint's absolute path and content."""
    if not checkpoint:
        raise ValueError("No checkpoint given. Add checkpoint=runs/NAME/checkpoint.ckpt.")
    path = resolve(checkpoint)
    return path, read_checkpoint(path)


def evaluate_checkpoint(checkpoint: dict[str, Any], config: EvaluationConfig) -> dict[str, Any]:
    """Return the accuracies of a checkpoint's classifier on the configured real images."""
    images = real_images(config.dataset, checkpoint["classifier"]["image_size"])
    counts = count_hits(images, checkpoint, config)
    return evaluation_json(counts, recipe_of(checkpoint).label_space.class_names, config.dataset)


if __name__ == "__main__":
    main()
