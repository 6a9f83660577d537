"""A classifier for tests of what is asked of one."""

from pathlib import Path
from typing import Any

import torch

from evaluation.inference.trained_model import Model
from training.config import TrainingConfig
from training.model.classifier import Classifier


def untrained(image_size: int = 32, crop_size: int = 0) -> Model:
    """Return a classifier that nothing has trained, the same each time, and not of one opinion."""
    torch.manual_seed(0)
    config = TrainingConfig(architecture="resnet18", crop_size=crop_size, gpus_per_worker=0)
    classifier = Classifier(config, num_classes=3, image_size=image_size).eval()
    checkpoint: dict[str, Any] = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(checkpoint)
    return Model(Path("checkpoint.ckpt"), "0" * 64, checkpoint)
