"""Evaluate a classifier on real images: `python -m ray_jobs.evaluate CONFIG checkpoint=FILE [section.key=value]`.

Writes a new folder beside the checkpoint: `evaluation.json`, `evaluation.csv` and `report.html`. What the classifier
says of each image is kept, so that a job that was stopped goes on where it ended when it is started again.

With the folder of a run, `checkpoint=DIR`, each checkpoint that `evaluation.every_images` kept is evaluated on
`evaluation.sets`, also those that come while the run is at work. `curve` in it has accuracy over images and device
time.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from evaluation.config import EvaluationConfig
from evaluation.decoding import Crop
from evaluation.evaluate import Planned, check_shown, evaluate, plan_evaluation
from evaluation.external_models import is_external, open_external
from evaluation.model import Looked, Model, open_model
from evaluation.pages import csv_text, model_page
from generation.labels import LabelSpace
from generation.recipe import find_label_space
from ray_jobs.accuracy_curve import first_kept, follow
from ray_jobs.circumstances import circumstances
from ray_jobs.cluster import check_placement, connect, evaluation_demand, wait_for_room
from ray_jobs.config import JobConfig, load_config, to_yaml
from ray_jobs.progress_display import announce
from ray_jobs.run_directory import check_writable, new_path, resolve, resolve_input, write_anew, write_json
from ray_jobs.user_errors import user_errors
from training.network import check_features

GOES_ON = "The model's outputs so far are kept; the same command goes on."


def main() -> None:
    """Compose the job: a checkpoint, real images, numbers."""
    started_at = psutil.Process().create_time()
    say = partial(announce, started_at)
    with user_errors():
        config = load_config(JobConfig, sys.argv[1:])
        check_asked(config.evaluation)
        run_dir = folder_of_run(config)
        model = open_model(first_kept(run_dir)) if run_dir else open_classifier(config)
        planned = plan(config.evaluation, model.label_space)
        check_evaluation(planned, config.evaluation, model.run_dir, model.crop, model.architecture)
        connect()
        check_placement([evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds)])
    with user_errors(GOES_ON, model.run_dir):
        if run_dir:
            folder = follow(run_dir, lambda kept: sets_of(kept, planned, config, say), say)
            print(f"Everything is in {folder}")
        else:
            write_evaluation(model, planned, config, say)


def folder_of_run(config: JobConfig) -> Path | None:
    """Return the folder if the settings name a run, and not one checkpoint; ValueError without sets for it."""
    if not config.checkpoint or is_external(config.checkpoint):
        return None
    place = resolve(config.checkpoint)
    if not place.is_dir():
        return None
    if not config.evaluation.sets:
        raise ValueError(f"'{place}' is a run's folder, and evaluation.sets is empty. Add evaluation.sets=NAME.")
    return place


def sets_of(model: Model, planned: Planned, config: JobConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Return how one of a run's checkpoints classifies the sets."""
    wait_for_room(evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds))
    alone = dataclasses.replace(config.evaluation, representation=False)
    return evaluate(model, Planned(planned.sets, []), alone, outputs_folder(alone, model.run_dir), say)["sets"]


def open_classifier(config: JobConfig) -> Looked:
    """Return the classifier that the settings name: of a run, or one that Figment did not train."""
    if not is_external(config.checkpoint):
        return open_checkpoint(config.checkpoint)
    found = config.checkpoint if ":" in config.checkpoint else str(resolve(config.checkpoint))
    run_dir = resolve(config.output)
    return open_external(found, config.training, find_label_space(config.recipe.label_space), run_dir)


def open_checkpoint(checkpoint: str) -> Model:
    """Return the checkpoint that the settings name."""
    if not checkpoint:
        raise ValueError("No checkpoint given. Add checkpoint=runs/NAME/checkpoint.ckpt.")
    return open_model(resolve(checkpoint))


def check_asked(config: EvaluationConfig) -> None:
    """Raise ValueError if there is nothing to evaluate on."""
    if not (config.sets or config.transfer):
        raise ValueError(
            "evaluation.sets and evaluation.transfer name nothing to evaluate on. Add evaluation.sets=NAME."
        )


def plan(config: EvaluationConfig, label_space: LabelSpace) -> Planned:
    """Return the images that the settings name; relative paths are those of `resolve_input`."""
    paths = {name: str(resolve_input(path)) for name, path in config.paths.items() if path}
    return plan_evaluation(dataclasses.replace(config, paths=paths), label_space)


def check_evaluation(planned: Planned, config: EvaluationConfig, run_dir: Path, own: Crop, architecture: str) -> None:
    """Raise ValueError if a network of this kind cannot be evaluated so, or its numbers cannot be written."""
    check_shown(planned, config, own)
    if config.representation or planned.transfers:
        check_features(architecture)
    outputs = outputs_folder(config, run_dir)
    check_writable(next(path for path in (outputs, *outputs.parents) if path.exists()))
    if run_dir.exists():
        check_writable(run_dir)


def write_evaluation(model: Looked, planned: Planned, config: JobConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Evaluate, print a table, and write a new folder in the run's; return what evaluation.json holds.

    ValueError if nodes for it do not come in the time that the settings give them.
    """
    run_dir = model.run_dir
    wait_for_room(evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds))
    evaluation = {
        "model": model.facts(model.name),
        "circumstances": circumstances(),
        "settings": to_yaml(config),
        **evaluate(model, planned, config.evaluation, outputs_folder(config.evaluation, run_dir), say),
    }
    print_evaluation(evaluation)
    folder = new_path(run_dir, "evaluation", "")
    folder.mkdir(parents=True)
    write_json(folder / "evaluation.json", evaluation)
    write_anew(folder / "evaluation.csv", csv_text([evaluation]))
    write_anew(folder / "report.html", model_page(evaluation))
    say(f"evaluated: {folder}/report.html, evaluation.json, evaluation.csv")
    return evaluation


def outputs_folder(config: EvaluationConfig, run_dir: Path) -> Path:
    """Return where what a run's model says of images is kept."""
    return resolve(config.outputs) if config.outputs else run_dir / "outputs"


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Print a row a set."""
    table = Table(title="Real images")
    for column in ("set", "images", "classes", "top-1", "95%", "top-5", "mean per class", "ECE"):
        table.add_column(column, justify="left" if column == "set" else "right", no_wrap=True)
    for name, told in evaluation["sets"].items():
        low, high = told["top1_interval"]
        fractions = (told[key] for key in ("top5", "mean_per_class_top1", "ece"))
        table.add_row(
            name,
            f"{told['num_images']:,}",
            f"{told['num_shared_classes']}",
            f"{told['top1']:.2%}",
            f"{low:.2%} - {high:.2%}",
            *(f"{fraction:.2%}" for fraction in fractions),
        )
    Console(width=120, markup=False, emoji=False).print(table)


if __name__ == "__main__":
    main()
