"""Evaluate a classifier on real images: `python -m ray_jobs.evaluate CONFIG checkpoint=FILE [section.key=value]`."""

import json
import sys
from pathlib import Path
from typing import Any

from evaluation.classify import count_hits
from evaluation.config import EvaluationConfig
from evaluation.real_images import real_images
from evaluation.report import evaluation_json, print_evaluation
from ray_jobs.cluster import connect
from ray_jobs.config import JobConfig, load_config
from ray_jobs.run_directory import new_path, write_json
from ray_jobs.user_errors import user_errors
from training.checkpoint import read_checkpoint


def main() -> None:
    """Compose the job: a checkpoint, real images, numbers."""
    with user_errors():
        config = load_config(JobConfig, sys.argv[1:])
        if not config.checkpoint:
            raise ValueError("No checkpoint given. Add checkpoint=runs/NAME/checkpoint.ckpt.")
        path = Path(config.checkpoint).resolve()
        checkpoint = read_checkpoint(path)
        connect()
        evaluation = evaluate_checkpoint(checkpoint, config.evaluation)
    print_evaluation(evaluation)
    report = new_path(path.parent, "evaluation", ".json")
    write_json(report, evaluation)
    print(f"Written to {report}")


def evaluate_checkpoint(checkpoint: dict[str, Any], config: EvaluationConfig) -> dict[str, Any]:
    """Return the accuracies of a checkpoint's classifier on the configured real images."""
    label_space = json.loads(checkpoint["recipe"]["json"])["label_space"]
    images = real_images(config.dataset, label_space["name"], checkpoint["classifier"]["image_size"])
    counts = count_hits(images, checkpoint, config)
    class_names = tuple(entry["lemmas"][0] for entry in label_space["classes"])
    return evaluation_json(counts, class_names, config.dataset)


if __name__ == "__main__":
    main()
