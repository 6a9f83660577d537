"""An evaluation within a job: which one is asked for, its files and its table. `ray_jobs.evaluate` is the command."""

import dataclasses
from pathlib import Path
from typing import cast

from evaluation.config import EvaluationConfig
from evaluation.evaluate import EvaluationSets, evaluate, open_transfer
from evaluation.images.decoding import Crop
from evaluation.images.real_sets import open_set
from evaluation.inference.reading import crop_for
from evaluation.inference.trained_model import EvaluatedModel, open_model
from evaluation.pages.model_page import csv_text, model_page
from evaluation.result import Evaluation, EvaluationEnvironment
from generation.files import new_path
from generation.recipes.labels import LabelSpace
from ray_jobs.cli.config import JobConfig, to_yaml
from ray_jobs.cluster.room import evaluation_demand, wait_for_room
from ray_jobs.job.command import announce
from ray_jobs.job.environment import circumstances
from ray_jobs.job.run_folder import check_writable, resolve, resolve_input, write_anew, write_json
from ray_jobs.job.tables import print_table
from training.model.network import check_features


def open_checkpoint(checkpoint: str) -> EvaluatedModel:
    """Return the checkpoint that the settings name."""
    if not checkpoint:
        raise ValueError("No checkpoint given. Add checkpoint=runs/NAME/checkpoint.ckpt.")
    return open_model(resolve(checkpoint))


def plan(config: EvaluationConfig, label_space: LabelSpace) -> EvaluationSets:
    """Return the images that the settings name, for a classifier of these classes; ValueError for what cannot be.

    Relative paths are those of `resolve_input`.
    """
    paths = {name: str(resolve_input(path)) for name, path in config.paths.items() if path}
    config = dataclasses.replace(config, paths=paths)
    return EvaluationSets(
        [open_set(name, config, label_space) for name in config.sets],
        [open_transfer(name, config, label_space) for name in config.transfer],
    )


def check_evaluation(
    planned: EvaluationSets, config: EvaluationConfig, run_dir: Path, own: Crop, architecture: str
) -> None:
    """Raise ValueError if a network of this kind cannot be evaluated so, or its numbers cannot be written."""
    for images in planned.sets:
        crop_for(own, config, images.center_crop)
    if config.representation or planned.transfers:
        check_features(architecture)
    outputs = outputs_folder(config, run_dir)
    check_writable(next(path for path in (outputs, *outputs.parents) if path.exists()))
    if run_dir.exists():
        check_writable(run_dir)


def write_evaluation(model: EvaluatedModel, planned: EvaluationSets, config: JobConfig) -> Evaluation:
    """Evaluate, print a table, and write a new folder in the run's; return what evaluation.json holds.

    ValueError if nodes for it do not come in the time that the settings give them.
    """
    run_dir = model.run_dir
    wait_for_room(evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds))
    evaluation: Evaluation = {
        "model": model.facts,
        "circumstances": cast(EvaluationEnvironment, circumstances()),
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
    """Return where what a run's model says of images is kept."""
    return resolve(config.outputs) if config.outputs else run_dir / "outputs"


def print_evaluation(evaluation: Evaluation) -> None:
    """Print a row a set."""
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


GOES_ON = "The model's outputs so far are kept; the same command goes on."
