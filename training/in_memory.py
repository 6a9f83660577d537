"""Training in one process on images in memory, for many small experiments. Uses neither Ray nor a stream."""

from collections.abc import Iterator

import lightning
import numpy as np
import torch

from training.config import TrainingConfig
from training.model.classifier import Classifier


def train_in_memory(images: np.ndarray, labels: np.ndarray, config: TrainingConfig, num_classes: int) -> Classifier:
    """Return a classifier trained on uint8 images [N, H, W, 3] and int64 labels [N], in evaluation mode.

    Trains for `config.num_steps` steps, whatever the number of images, in passes that are each reshuffled by the seed.
    """
    torch.set_num_threads(config.threads_per_worker)
    lightning.seed_everything(config.seed, verbose=False)
    classifier = Classifier(config, num_classes, images.shape[1])
    trainer = lightning.Trainer(
        max_steps=config.num_steps,
        accelerator="gpu" if config.gpus_per_worker else "cpu",
        devices=1,
        precision=config.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(classifier, batches(images, labels, config))
    return classifier.eval()


def batches(images: np.ndarray, labels: np.ndarray, config: TrainingConfig) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of a run with the columns that `Classifier` expects; each is copied when it is requested."""
    size, num_images = config.global_batch_size, len(images)
    random = np.random.default_rng(config.seed)
    num_passes = -(-config.num_steps * size // num_images)
    order = np.concatenate([random.permutation(num_images) for _ in range(num_passes)])
    uses = np.repeat(np.arange(num_passes), num_images)
    for start in range(0, config.num_steps * size, size):
        chosen = order[start : start + size]
        yield {
            "image": torch.from_numpy(images[chosen]),
            "label": torch.from_numpy(labels[chosen]),
            "serial": torch.from_numpy(chosen),
            "use": torch.from_numpy(uses[start : start + size]),
            "is_real": torch.zeros(size, dtype=torch.bool),
            "extent": torch.tensor(images.shape[1:3]).expand(size, 2),
        }
