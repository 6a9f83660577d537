"""The classifier and its optimization. Gets batches, from any source."""

import dataclasses
from typing import Any

import lightning
import numpy as np
import torch
from torch.nn import functional
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from generation.random_streams import draws
from generation.sample import NO_LABEL
from training.augmentation.augmentation import Normalize, build_augmentation
from training.augmentation.operations import center_crop, to_float
from training.config import TrainingConfig
from training.model.batch_norm import synchronized
from training.model.domains import split_by_domain
from training.model.network import build_network, features_and_logits, parameter_groups
from training.model.schedule import learning_rate


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


class Classifier(lightning.LightningModule):
    """Classifier trained by cross-entropy on augmented images; batches are `SampleBatch` as tensors."""

    def __init__(self, config: TrainingConfig, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.image_size = image_size
        self.network = build_network(config.architecture, num_classes, config.head, config.temperature)
        self.domains = split_by_domain(self.network) if config.separate_batch_norm else None
        self.augment = build_augmentation(config, image_size)
        self.normalize = Normalize()
        self.loss = torch.nn.CrossEntropyLoss(ignore_index=NO_LABEL, reduction="sum")
        self.held_out_is_real = False
        """Whether validation samples are real, which selects their statistics in `self.domains`."""

        self.held_out_top1 = MulticlassAccuracy(num_classes, average="micro", ignore_index=NO_LABEL)
        self.held_out_loss = MeanMetric()

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """Return logits [N, num_classes] for uint8 images [N, H, W, 3], without augmentation."""
        return self._logits(to_float(images_nhwc))

    def features_and_logits(self, images_nhwc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last layer's input, float [N, D], and logits, for uint8 images [N, H, W, 3]."""
        return features_and_logits(self.network, self.num_classes, self._input(to_float(images_nhwc)))

    def _logits(self, images: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [N, num_classes] for float [N, 3, H, W] in 0..1.

        `is_real`, bool [N], selects each row's batch statistics; None uses those of real images.
        """
        inputs = self._input(images)
        if self.domains is None or is_real is None:
            return self.network(inputs)
        return self.domains.forward(self.network, inputs, is_real)

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return self.normalize(images).contiguous(memory_format=layout)

    def transfer_batch_to_device(
        self, batch: dict[str, torch.Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, torch.Tensor]:
        """Move images and labels; the inputs of augmentation draws stay on the CPU, which computes the draws."""
        names = batch.keys() & {"image", "label", "score", "soft_label"}
        moved = {name: batch[name].to(device, non_blocking=True) for name in names}
        return batch | moved

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the mean loss over all crops. NonFiniteLossError names the step and the samples."""
        crops = self.augment(batch["image"], self._draws(batch), batch["extent"].numpy())
        logits = [self._logits(each, batch["is_real"].repeat(len(each) // len(batch["label"]))) for each in crops]
        loss = torch.stack([self._loss_of(each, batch) for each in logits]).sum() / self.augment.num_crops
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss is {loss.item()} at step {self.global_step}, on samples {batch['serial'].tolist()}. Lower "
                "training.base_learning_rate, or inspect these samples."
            )
        self.log("train/loss", loss, sync_dist=True)
        self.log("train/top1", top1_of(logits[0].detach(), batch["label"]), sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's learning rate, and the gradient norm over all weights."""
        gradients = [each.grad for each in self.network.parameters() if each.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def _draws(self, batch: dict[str, torch.Tensor]) -> np.ndarray:
        """Return the random numbers of augmentation, float64 [N, num_draws], different for each use of a sample."""
        serials, uses, is_real = (batch[name].numpy() for name in ("serial", "use", "is_real"))
        return draws(self.config.seed, serials, uses, self.augment.num_draws, domains=is_real)

    def _loss_of(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of k crops of N images, times k; excluded samples count as 0."""
        labels = batch["label"]
        num_crops, is_labeled = len(logits) // len(labels), labels != NO_LABEL
        if not (self.config.weight_by_score or self.config.soft_labels):
            return self.loss(logits, labels.repeat(num_crops)) / len(labels)
        losses = functional.cross_entropy(logits, labels.repeat(num_crops), ignore_index=NO_LABEL, reduction="none")
        if self.config.soft_labels:
            soft = batch["soft_label"].float().repeat(num_crops, 1)
            losses = losses - self.config.soft_labels * (soft * logits.log_softmax(dim=1)).sum(dim=1)
        weights = scores_as_weights(batch["score"], is_labeled) if self.config.weight_by_score else is_labeled
        return (losses * weights.repeat(num_crops)).sum() / len(labels)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Update accuracy and loss on held-out samples: whole images, or center crops if the crop size differs."""
        images, size = to_float(batch["image"]), self.config.crop_size
        if size and size != self.image_size:
            images = center_crop(images, size)
        logits = self._logits(images, torch.full((len(images),), self.held_out_is_real))
        self.held_out_top1.update(logits, batch["label"])
        self.log("held_out/top1", self.held_out_top1)
        num_labeled = int((batch["label"] != NO_LABEL).sum())
        self.held_out_loss.update(self.loss(logits, batch["label"]) / max(1, num_labeled), num_labeled)
        self.log("held_out/loss", self.held_out_loss)

    def configure_optimizers(self) -> Any:
        """Return SGD with a learning rate schedule by images seen."""
        config = self.config
        groups = parameter_groups(self.network, config.weight_decay)
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate((step + 1) * config.global_batch_size, config)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings that rebuild the classifier."""
        checkpoint["classifier"] = {
            "config": dataclasses.asdict(self.config),
            "num_classes": self.num_classes,
            "image_size": self.image_size,
        }


def scores_as_weights(scores: torch.Tensor, is_labeled: torch.Tensor) -> torch.Tensor:
    """Return scores [N] scaled to a mean of 1 over labeled samples, and 0 for the others."""
    scores = scores * is_labeled
    return scores * is_labeled.sum() / scores.sum().clamp(min=torch.finfo(scores.dtype).tiny)


def top1_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the top-1 accuracy of the first crop of each image, 0..1.

    `logits` are [k * N, num_classes], crop by crop, `labels` [N]; excluded samples (`NO_LABEL`) do not count.
    """
    hits = (logits[: len(labels)].argmax(dim=1) == labels).sum()
    return hits / (labels != NO_LABEL).sum().clamp(min=1)


def prepare_network(classifier: Classifier, config: TrainingConfig) -> None:
    """Prepare for training: synchronized batch statistics, memory format, compilation. Weights keep their names."""
    if config.num_workers > 1:
        classifier.network = synchronized(classifier.network, on_gpu=config.gpus_per_worker > 0)
    if config.channels_last:
        classifier.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.compile:
        classifier.network.compile()


def load_classifier(checkpoint: dict[str, Any]) -> Classifier:
    """Return the classifier of a loaded checkpoint, in evaluation mode."""
    saved = checkpoint["classifier"]
    try:
        config = TrainingConfig(**saved["config"])
    except TypeError as error:
        raise ValueError(f"The checkpoint was written by another version of Figment: {error}.") from error
    classifier = Classifier(config, saved["num_classes"], saved["image_size"])
    classifier.load_state_dict(checkpoint["state_dict"])
    return classifier.eval()
