"""Untrained classifiers for tests."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from evaluation.inference.trained_model import EvaluatedModel, build_classifier, crop_of
from evaluation.result import ModelFacts
from generation.indices import IndexSet
from generation.recipes.labels import ClassEntry, LabelSpace
from generation.recipes.recipe import Recipe
from training.config import TrainingConfig
from training.data.consumption import Consumption
from training.job import SET_SIZE
from training.model.classifier import Classifier

THREE = LabelSpace("three", (ClassEntry("one"), ClassEntry("two"), ClassEntry("three")))


def untrained() -> EvaluatedModel:
    """Return a classifier that nothing has trained, the same each time, and not of one opinion."""
    build = partial(build_classifier, untrained_checkpoint())
    return EvaluatedModel(cast(ModelFacts, {}), "0" * 64, Path(), THREE, crop_of(32), build)


def untrained_checkpoint() -> dict[str, Any]:
    """Return a checkpoint in the format of `load_classifier`."""
    torch.manual_seed(0)
    config = TrainingConfig(architecture="resnet18", gpus_per_worker=0)
    classifier = Classifier(config, num_classes=3, image_size=32).eval()
    checkpoint: dict[str, Any] = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(checkpoint)
    return checkpoint


def save_checkpoint(path: Path, recipe: Recipe) -> Classifier:
    """Write a run's checkpoint with an untrained classifier of the recipe's classes, and return the classifier."""
    torch.manual_seed(0)
    config = TrainingConfig(architecture="resnet18", gpus_per_worker=0)
    classifier = Classifier(config, recipe.label_space.num_classes, recipe.image_size).eval()
    consumption = Consumption(IndexSet.of_ranges([]), np.zeros(0, np.int64), np.zeros(0, np.int32))
    checkpoint: dict[str, Any] = {
        "state_dict": classifier.state_dict(),
        "recipe": {"json": recipe.to_json(), "sha256": recipe.sha256},
        "run": {"consumption": {"synthetic": consumption.to_checkpoint()}, "sets": {SET_SIZE: 1}},
        "global_step": 0,
    }
    classifier.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return classifier
