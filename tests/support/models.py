"""An untrained classifier for tests."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from evaluation.inference.trained_model import EvaluatedModel, build_classifier, crop_of
from evaluation.result import ModelFacts
from generation.recipes.labels import ClassEntry, LabelSpace
from training.config import TrainingConfig
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
