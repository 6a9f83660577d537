"""The classifier: a torchvision ResNet and how it learns. Knows batches, not where they come from."""

import dataclasses
from typing import Any

import lightning
import torch
import torchvision
from torchmetrics.classification import MulticlassAccuracy

from training.augment import build_augmentation, normalize, to_float
from training.config import TrainingConfig
from training.schedule import learning_rate_factor


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


class Classifier(lightning.LightningModule):
    """Cross-entropy on augmented images; batches are `SampleBatch` as tensors."""

    def __init__(self, config: TrainingConfig, num_classes: int, image_size: int) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.image_size = image_size
        self.network = torchvision.models.get_model(config.architecture, num_classes=num_classes)
        self.augment = build_augmentation(config.augmentation, image_size)
        self.normalize = normalize()
        self.loss = torch.nn.CrossEntropyLoss()
        self.held_out_top1 = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """Return logits [N, num_classes] for uint8 images [N, H, W, 3], without augmentation."""
        return self.network(self.normalize(to_float(images_nhwc)))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the mean cross-entropy over the batch; NonFiniteLossError names the step and the samples."""
        images = self.augment(to_float(batch["image"]))
        loss = self.loss(self.network(self.normalize(images)), batch["label"])
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss is {loss.item()} at step {self.global_step}, on samples {batch['index'].tolist()}. Lower "
                "training.peak_learning_rate, or look at these samples."
            )
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Count hits on held-out generated samples."""
        self.held_out_top1.update(self(batch["image"]), batch["label"])
        self.log("held_out/top1", self.held_out_top1)

    def configure_optimizers(self) -> Any:
        """Return SGD and its schedule by step."""
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=self.config.peak_learning_rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.config.num_steps, self.config.warmup_fraction)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what rebuilds the classifier, beside its weights."""
        checkpoint["classifier"] = {
            "config": dataclasses.asdict(self.config),
            "num_classes": self.num_classes,
            "image_size": self.image_size,
        }


def load_classifier(checkpoint: dict[str, Any]) -> Classifier:
    """Return the classifier of a checkpoint that `torch.load` has read, in evaluation mode."""
    saved = checkpoint["classifier"]
    classifier = Classifier(TrainingConfig(**saved["config"]), saved["num_classes"], saved["image_size"])
    classifier.load_state_dict(checkpoint["state_dict"])
    return classifier.eval()
