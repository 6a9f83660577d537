"""Evaluation within a job: its plan, files and table. `ray_jobs.evaluate` is the command."""

import dataclasses
from pathlib import Path
from typing import cast

from evaluation.config import EvaluationConfig
from evaluation.evaluate import EvaluationPlan, evaluate, open_transfer
from evaluation.images.decoding import Crop
from evaluation.images.real_sets import open_set
from evaluation.inference.reading import crop_for
from evaluation.inference.trained_model import EvaluatedModel, open_model
from evaluation.result import Evaluation, EvaluationEnvironment
from generation.files import new_path
from generation.recipes.labels import LabelSpace
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JobConfig, to_yaml
from ray_jobs.cli.run_folder import check_writable, resolve, resolve_input, write_anew, write_json
from ray_jobs.cluster.room import evaluation_demand, wait_for_resources
from ray_jobs.job.environment import environment
from ray_jobs.job.tables import print_table
from training.model.network import check_features


def open_checkpoint(checkpoint: str) -> EvaluatedModel:
    """Return the model of the checkpoint in the settings."""
    if not checkpoint:
        raise ValueError("No checkpoint given. Add checkpoint=runs/NAME/checkpoint.ckpt.")
    return open_model(resolve(checkpoint))


def plan(config: EvaluationConfig, label_space: LabelSpace) -> EvaluationPlan:
    """Return the real images in the settings, for a classifier of these classes; ValueError if they cannot be used.

    Relative paths are resolved by `resolve_input`.
    """
    paths = {name: str(resolve_input(path)) for name, path in config.paths.items() if path}
    config = dataclasses.replace(config, paths=paths)
    return EvaluationPlan(
        [open_set(name, config, label_space) for name in config.sets],
        [open_transfer(name, config, label_space) for name in config.transfer],
    )


def check_evaluation(
    planned: EvaluationPlan, config: EvaluationConfig, run_dir: Path, own: Crop, architecture: str
) -> None:
    """Raise ValueError if a network of this architecture cannot be evaluated so, or the results not be written."""
    for images in planned.sets:
        crop_for(own, config, images.center_crop)
    if config.representation or planned.transfers:
        check_features(architecture)
    outputs = outputs_folder(config, run_dir)
    check_writable(next(path for path in (outputs, *outputs.parents) if path.exists()))
    if run_dir.exists():
        check_writable(run_dir)


def write_evaluation(model: EvaluatedModel, planned: EvaluationPlan, config: JobConfig) -> Evaluation:
    """Evaluate, print a table and write a new folder within the run's; return the content of evaluation.json.

    ValueError if its nodes do not join within the time in the settings.
    """
    from evaluation.pages.model_page import csv_text, model_page  # imports matplotlib

    run_dir = model.run_dir
    wait_for_resources(evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds))
    evaluation: Evaluation = {
        "model": model.facts,
        "circumstances": cast(EvaluationEnvironment, environment()),
        "settings": to_yaml(config),
        **evaluate(model, planned, config.evaluation, outputs_folder(config.evaluation, run_dir), announce),
    }
    print_evaluation(evaluation)
    folder = new_path(run_dir, "evaluation", "")
    folder.mkdir(parents=True)
    write_json(folder / "evaluation.json", evaluation)
    write_anew(folder / "evaluation.csv", csv_text([evaluation]))
    write_anew(folder / "report.html", model_page(evaluation))
    announce(f"evaluated: {folder}/report.html, evaluation.json, evaluation.csv")
    return evaluation


def outputs_folder(config: EvaluationConfig, run_dir: Path) -> Path:
    """Return the folder for cached outputs of a run's model."""
    return resolve(config.outputs) if config.outputs else run_dir / "outputs"


def print_evaluation(evaluation: Evaluation) -> None:
    """Print a table with one row per set."""
    columns = ("set", "images", "classes", "top-1", "95%", "top-5", "mean per class", "ECE")
    rows = []
    for name, of_set in evaluation["sets"].items():
        low, high = of_set["top1_interval"]
        counts = [f"{of_set['num_images']:,}", f"{of_set['num_shared_classes']}"]
        fractions = (of_set["top5"], of_set["mean_per_class_top1"], of_set["ece"])
        rows.append(
            [name, *counts, f"{of_set['top1']:.2%}", f"{low:.2%} - {high:.2%}", *(f"{each:.2%}" for each in fractions)]
        )
    print_table("Real images", columns, rows)


RESUME_HINT = "The model's outputs so far are saved; run the same command to continue."
