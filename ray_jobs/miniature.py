"""The paper's experiments in miniature: `python -m ray_jobs.miniature CONFIG output=DIR [section.key=value]`.

Generates one set of digits with the embedded model. Trains one classifier per combination of prompt form, guidance
scale, number of images and augmentation, each on a subset of that set, and four more on real digits. Tests all
classifiers on real digits, clean and shifted. Writes `README.md`, `results.json` and plots.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("miniature")

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray

from evaluation.config import EvaluationConfig
from evaluation.images.digits import DIGITS
from evaluation.images.real_sets import RealSet
from evaluation.inference.check import build_scorer, check_scorer
from generation.config import GenerationConfig
from generation.digits.real_digits import IMAGE_SIZE, training_digits
from generation.pool.service import start_generation
from generation.recipes.checks import check_recipe
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch
from generation.stream.stream import request_samples
from ray_jobs.cli.announce import STARTED_AT, announce
from ray_jobs.cli.config import MiniatureConfig
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.run_folder import resolve, unlock, write_anew, write_json
from ray_jobs.cluster.room import generation_demand
from ray_jobs.job.command import begin
from ray_jobs.job.environment import environment
from ray_jobs.job.evaluation import plan
from ray_jobs.reports.findings import FORMS, Cell
from ray_jobs.reports.miniature import markdown, write_plots
from training.config import TrainingConfig
from training.model.network import check_architecture

PROGRESS_SECONDS = 15.0
"""Minimum interval of progress lines."""

WITHOUT_EFFECT = (
    "ema_decay reuse num_workers accumulate_batches real_images compile deterministic checkpoint_every_steps "
    "early_stop_epochs keep_best loggers journal max_restarts min_reuse max_reuse label_selector "
    "weight_by_score soft_labels"
).split()
"""Settings of `training` that do not affect training in memory; refused if they differ from their defaults."""

EVALUATION_WITHOUT_EFFECT = ("transfer", "every_images", "representation")
"""Settings of `evaluation` that do not affect top-1 after training; refused if they differ from their defaults."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A classifier to train and test."""

    cell: Cell
    """Cell of the results table, without accuracies yet."""

    rows: np.ndarray
    """Rows of the training images in their set, int64 [N]."""

    config: TrainingConfig


class Images(NamedTuple):
    """Labelled images in memory: `images` uint8 [N, H, W, 3], `labels` int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


def main(config: MiniatureConfig) -> None:
    """Run the command: generate images, train and test the classifiers, write the findings."""
    with user_errors():
        recipe, run_dir, sets = prepare(config)
        for note in check_recipe(recipe, config.recipe):
            announce(note)
        chosen = choose_indices(recipe, config.images_per_class * max(config.multiples))
        experiments, test_sets = plan_experiments(config, recipe, chosen), read_sets(sets)
        run_lock = begin(config, [generation_demand(config.generation)])
    with errors_at_work("Nothing is stored; the same command starts again from the beginning."):
        num_images = sum(map(len, chosen.values()))
        announce(f"generating {num_images:,} images of {len(chosen)} kinds")
        generated = generate(recipe, config.generation, in_order(chosen))
        announce(f"training {len(experiments)} classifiers")
        cells = run_experiments(experiments, generated, test_sets)
        write_results(run_dir, config, cells, time.time() - STARTED_AT)
        unlock(run_lock)
    announce(f"README.md, results.json and plots are in {run_dir}")


def prepare(config: MiniatureConfig) -> tuple[Recipe, Path, list[RealSet]]:
    """Check the settings; return recipe, output folder and real sets."""
    run_dir = resolve(config.output)
    check_images(config)
    check_training(config.training)
    check_sets(config.evaluation.sets)
    check_effect("evaluation", config.evaluation, EVALUATION_WITHOUT_EFFECT)
    recipe = config.opened_recipe
    check_kinds(recipe)
    check_scorer(recipe)
    return recipe, run_dir, plan(config.evaluation, recipe.label_space).sets


def check_images(config: MiniatureConfig) -> None:
    """Raise ValueError for a recipe that does not suit the experiments.

    Refuses a recipe file, images unlike the real digits, samples that may be left out, a missing prompt form, and more
    images per class than there are real digits.
    """
    if config.recipe_file:
        raise ValueError(
            f"'{config.recipe_file}' is a recipe file, which does not record the templates' prompt forms. Use a config "
            "with recipe.templates."
        )
    for name, wanted in (("label_space", DIGITS), ("image_size", IMAGE_SIZE)):
        if (given := getattr(config.recipe, name)) != wanted:
            raise ValueError(f"recipe.{name} is {given}, but the real digits need {wanted}. Use {wanted}.")
    if config.recipe.leave_out_after:
        raise ValueError(
            f"recipe.leave_out_after is {config.recipe.leave_out_after}, but the comparison needs equal numbers of "
            "images. Leave it out."
        )
    if missing := [form for form in FORMS if form not in config.recipe.templates]:
        raise ValueError(
            f"recipe.templates is {', '.join(config.recipe.templates)}, but the findings also need "
            f"{', '.join(missing)}. Add the missing forms."
        )
    if config.images_per_class > (fewest := np.bincount(training_digits()[1]).min()):
        raise ValueError(
            f"images_per_class is {config.images_per_class}, but a class has only {fewest} real digits. Use {fewest} "
            "or fewer."
        )


def check_training(training: TrainingConfig) -> None:
    """Raise ValueError for GPUs, changed settings without effect, and an unknown architecture."""
    if training.gpus_per_worker:
        raise ValueError(
            f"training.gpus_per_worker is {training.gpus_per_worker:g}; these classifiers train on CPUs. Use 0."
        )
    check_effect("training", training, WITHOUT_EFFECT)
    check_architecture(training.architecture)


def check_effect(section: str, given: TrainingConfig | EvaluationConfig, ineffective: Sequence[str]) -> None:
    """Raise ValueError if one of the `ineffective` settings of a section differs from its default."""
    defaults = type(given)()
    for name in ineffective:
        if (value := getattr(given, name)) != getattr(defaults, name):
            raise ValueError(
                f"{section}.{name} is {value}, but has no effect in miniature, which trains in memory and measures "
                "only top-1 after training. Leave it out."
            )


def check_sets(names: Sequence[str]) -> None:
    """Raise ValueError unless the first set is the digits and the others, at least one, are shifts of the digits."""
    shifts = [name.partition("/") for name in names[1:]]
    if names[:1] != (DIGITS,) or not shifts or not all(place == DIGITS and shift for place, _, shift in shifts):
        raise ValueError(
            f"evaluation.sets is {', '.join(names) or 'empty'}; use digits followed by shifts of digits, such as "
            "[digits,digits/noisy]."
        )


def check_kinds(recipe: Recipe) -> None:
    """Raise ValueError unless the recipe draws two or more kinds of images equally often in all classes.

    It must draw one of two or more different guidance scales, and have no repeated template and no weights. With a
    weight of 0, `choose_indices` would not end.
    """
    scales = recipe.guidance_scale
    if len(set(scales)) < max(2, len(scales)) or recipe.guidance_draw != "one_of":
        raise ValueError(
            f"recipe.guidance_scale is {', '.join(f'{scale:g}' for scale in scales)} and guidance_draw "
            f"{recipe.guidance_draw}; use two or more different scales with guidance_draw one_of."
        )
    if twice := {text for text in recipe.templates if recipe.templates.count(text) > 1}:
        raise ValueError(f"recipe.templates has '{min(twice)}' twice. Use each form once.")
    for name in ("class_weights", "template_weights"):
        if weights := getattr(recipe, name):
            raise ValueError(
                f"recipe.{name} is {', '.join(f'{weight:g}' for weight in weights)}, but the grid needs equal numbers "
                "of images per class and prompt form. Leave it out."
            )


Kind = tuple[str, float]
"""A template's text and a guidance scale."""


def choose_indices(recipe: Recipe, per_class: int) -> dict[Kind, np.ndarray]:
    """Return, for each kind, the lowest indices that give `per_class` images of each class, int64.

    Each group of `num_classes` consecutive entries has every class once, so the first groups are a balanced subset.
    """
    num_classes = recipe.label_space.num_classes
    found: dict[Kind, list[list[int]]] = defaultdict(lambda: [[] for _ in range(num_classes)])
    num_kinds, num_full, index = len(recipe.templates) * len(recipe.guidance_scale), 0, 0
    while num_full < num_kinds * num_classes:
        sample = plan_sample(recipe, index)
        of_class = found[sample.template, sample.guidance_scale][sample.label]
        if len(of_class) < per_class:
            of_class.append(index)
            num_full += len(of_class) == per_class
        index += 1
    return {kind: np.array(of_classes).T.reshape(-1) for kind, of_classes in found.items()}


def generate(recipe: Recipe, generation: GenerationConfig, indices: np.ndarray) -> Images:
    """Generate and return the images with these indices, in this order."""
    batches: list[SampleBatch] = []
    num_images, announced_at = 0, time.monotonic()
    with start_generation(recipe, generation, build_scorer) as service:
        for batch in request_samples(service, generation, indices.tolist()):
            batches.append(batch)
            num_images += len(batch["index"])
            if time.monotonic() - announced_at > PROGRESS_SECONDS:
                announce(f"{num_images:,} of {len(indices):,} images are generated")
                announced_at = time.monotonic()
    images, labels = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label"))
    return Images(images, labels)


def plan_experiments(config: MiniatureConfig, recipe: Recipe, chosen: dict[Kind, np.ndarray]) -> list[Experiment]:
    """Return the experiments on generated images, then the experiments on real digits.

    `Experiment.rows` refers to the generated images in ascending order of their indices, or to the real digits.
    """
    forms = dict(zip(recipe.templates, config.recipe.templates, strict=True))
    num_smallest = config.images_per_class * recipe.label_space.num_classes
    ordered = in_order(chosen)
    experiments = []
    for (template, guidance), indices in sorted(chosen.items()):
        rows = np.searchsorted(ordered, indices)
        for multiple in config.multiples:
            cell = Cell("generated", forms[template], guidance, f"{multiple}x", "", multiple * num_smallest, {})
            experiments += with_both_augmentations(cell, rows[: multiple * num_smallest], config)
    by_class = rows_by_class(training_digits()[1])
    for size, rows in (("1x", by_class[:num_smallest]), ("all", by_class)):
        experiments += with_both_augmentations(Cell("real", "", 0.0, size, "", len(rows), {}), rows, config)
    return experiments


def in_order(chosen: dict[Kind, np.ndarray]) -> np.ndarray:
    """Return the indices of all kinds, ascending."""
    return np.sort(np.concatenate(list(chosen.values())))


def with_both_augmentations(cell: Cell, rows: np.ndarray, config: MiniatureConfig) -> Iterator[Experiment]:
    """Yield an experiment with plain augmentation and one with strong augmentation."""
    augmentations = (("plain", config.training.augmentation), ("strong", config.strong_augmentation))
    for name, augmentation in augmentations:
        training = dataclasses.replace(config.training, augmentation=augmentation)
        yield Experiment(dataclasses.replace(cell, augmentation=name), rows, training)


def rows_by_class(labels: np.ndarray) -> np.ndarray:
    """Return all rows in rounds of one row per class, int64 [N]; later rounds lack classes that have no rows left."""
    order = np.argsort(labels, kind="stable")
    rank = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return order[np.lexsort((labels[order], rank))]


def read_sets(sets: Sequence[RealSet]) -> dict[str, Images]:
    """Return the images of each real set, by the set's name."""
    found = {}
    for each in sets:
        read = each.source.opener()
        images = np.stack([np.asarray(read(position)) for position in each.positions.tolist()])
        found[each.name] = Images(images, each.labels)
    return found


def run_experiments(experiments: Sequence[Experiment], generated: Images, test_sets: dict[str, Images]) -> list[Cell]:
    """Train and test all classifiers, one per core at a time; return their cells in the order of the experiments."""
    training_sets = {"generated": ray.put(generated), "real": ray.put(Images(*training_digits()))}
    test_sets_ref = ray.put(test_sets)
    running = {
        run_experiment.remote(each, training_sets[each.cell.data], test_sets_ref): number
        for number, each in enumerate(experiments)
    }
    cells: dict[int, Cell] = {}
    announced_at = time.monotonic()
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        cells[running.pop(done)] = ray.get(done)
        if time.monotonic() - announced_at > PROGRESS_SECONDS or not running:
            announce(f"{len(cells)} of {len(experiments)} classifiers are trained")
            announced_at = time.monotonic()
    return [cells[number] for number in range(len(experiments))]


@ray.remote(num_cpus=1)
def run_experiment(experiment: Experiment, training_set: Images, test_sets: dict[str, Images]) -> Cell:
    """Train a classifier, and return its cell with its top-1 accuracy on each real set."""
    import torch

    from training.in_memory import train_in_memory

    rows = experiment.rows
    images, labels = training_set.images[rows], training_set.labels[rows]
    classifier = train_in_memory(images, labels, experiment.config, int(training_set.labels.max()) + 1)

    @torch.inference_mode()
    def top1(test_set: Images) -> float:
        predictions = classifier(torch.tensor(test_set.images)).argmax(dim=1).numpy()
        return float(np.mean(predictions == test_set.labels))

    return dataclasses.replace(experiment.cell, top1={name: top1(each) for name, each in test_sets.items()})


def write_results(run_dir: Path, config: MiniatureConfig, cells: Sequence[Cell], seconds: float) -> None:
    """Write `results.json`, the plots, and `README.md` with the table and the findings."""
    facts = {**environment(), "seconds": f"{seconds:.0f}", "config": "config.yaml"}
    results = {"circumstances": facts, "cells": [dataclasses.asdict(cell) for cell in cells]}
    write_json(run_dir / "results.json", results)
    plots = write_plots(run_dir, cells)
    write_anew(run_dir / "README.md", markdown(cells, facts, plots))
