"""A classifier's guesses on real images, by actors that each load it once."""

from typing import Any, cast

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, Dataset

from evaluation.config import EvaluationConfig
from evaluation.metrics import HitCounts


def count_hits(images: Dataset, checkpoint: dict[str, Any], config: EvaluationConfig) -> HitCounts:
    """Return the hits of a checkpoint's classifier on rows of `real_images`."""
    guesses = images.map_batches(
        Guess,
        fn_constructor_args=[ray.put(checkpoint), config],
        batch_size=config.batch_size,
        compute=ActorPoolStrategy(size=config.num_actors),
        num_gpus=config.gpus_per_actor,
    )
    num_classes = checkpoint["classifier"]["num_classes"]
    counts = HitCounts.none(num_classes)
    for batch in guesses.iter_batches(batch_size=None, batch_format="numpy"):
        columns = cast(dict[str, np.ndarray], batch)
        counts += HitCounts.of(columns["label"], columns["prediction"], num_classes)
    return counts


class Guess:
    """Maps images to the five most likely labels."""

    def __init__(self, checkpoint: ray.ObjectRef, config: EvaluationConfig) -> None:
        """Load the classifier; Lightning is imported here alone, since the driver does without it."""
        from training.classifier import load_classifier

        torch.set_num_threads(config.threads_per_actor)
        self.device = "cuda" if config.gpus_per_actor else "cpu"
        self.classifier = load_classifier(ray.get(checkpoint)).to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `label` int64 [N] and `prediction` int64 [N, 5 or fewer], the best guess first."""
        logits = self.classifier(torch.tensor(batch["image"]).to(self.device))
        if not logits.isfinite().all():
            raise ValueError("The classifier's output has NaN or infinite values; this checkpoint cannot be evaluated.")
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        return {"label": batch["label"], "prediction": best.cpu().numpy()}
