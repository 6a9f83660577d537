"""Inference on batches of images by actors on a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from evaluation.config import EvaluationConfig
from evaluation.inference.output_cache import Columns
from evaluation.inference.trained_model import EvaluationError

Kinds = tuple[Literal["guesses", "features"], ...]
"""Kinds of output. `guesses`: `prediction` int32 [N, up to 5], best first, and `confidence` float32 [N] of the first.
`features`: `feature` float32 [N, D], the last layer's inputs.
"""

KINDS: Kinds = ("guesses", "features")


@dataclass(frozen=True)
class Request:
    """Outputs to compute from images."""

    kinds: Kinds
    among: Sequence[int] = ()
    """Labels that predictions are restricted to; empty for all."""


@dataclass(frozen=True)
class Network:
    """A classifier and the outputs to compute."""

    build: Callable[[], Any]
    """Builds the classifier in evaluation mode: a callable from uint8 [N, H, W, 3] to logits [N, num_classes], with
    `features_and_logits`."""

    config: EvaluationConfig
    requests: Sequence[Request]
    """One request per set, indexed by set number."""

    def load(self) -> Callable[[int, np.ndarray], Columns]:
        """Return a function from a set's number and a batch of images, uint8 [N, H, W, 3], to the set's outputs."""
        torch.set_num_threads(self.config.threads_per_actor)
        device = "cuda" if self.config.gpus_per_actor else "cpu"
        classifier = self.build().to(device)

        @torch.inference_mode()
        def compute(number: int, images: np.ndarray) -> Columns:
            pixels, request = torch.tensor(images).to(device), self.requests[number]
            if "features" not in request.kinds:
                return best_guesses(finite(classifier(pixels)), request.among)
            features, logits = (finite(output) for output in classifier.features_and_logits(pixels))
            guesses = best_guesses(logits, request.among) if "guesses" in request.kinds else {}
            return guesses | {"feature": features.cpu().numpy()}

        return compute


def finite(output: torch.Tensor) -> torch.Tensor:
    """Return `output` in single precision; EvaluationError if a value is NaN or infinite."""
    if not output.isfinite().all():
        raise EvaluationError("The network's output has NaN or infinite values; this checkpoint cannot be evaluated.")
    return output.float()


def best_guesses(logits: torch.Tensor, shared_labels: Sequence[int]) -> Columns:
    """Return the best predictions among `shared_labels` (all if empty) for logits [N, num_classes]; see `Kinds`."""
    among = (
        torch.tensor(shared_labels, device=logits.device)
        if shared_labels
        else torch.arange(logits.shape[1], device=logits.device)
    )
    probabilities = logits[:, among].softmax(dim=1)
    best = probabilities.topk(min(5, len(among)), dim=1)
    return {
        "prediction": among[best.indices].cpu().numpy().astype(np.int32),
        "confidence": best.values[:, 0].cpu().numpy(),
    }


class NetworkActor:
    """Ray actor that holds a network on its device."""

    def __init__(self, network: list[ray.ObjectRef]) -> None:
        loaded: Network = ray.get(network[0])
        self.batch_size = loaded.config.batch_size
        self.compute = loaded.load()

    def __call__(self, unit: Columns) -> Iterator[Columns]:
        """Yield the outputs for a unit, computed in batches on the device."""
        images, number = unit.pop("image"), int(unit["set"][0])
        starts = range(0, len(images), self.batch_size)
        parts = [self.compute(number, images[start : start + self.batch_size]) for start in starts]
        yield unit | {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def infer(images: ray.data.Dataset, network: Network) -> Iterator[Columns]:
    """Yield a network's outputs for blocks with `set` and `image`, with their other columns, in no fixed order."""
    computed = images.map_batches(
        NetworkActor,
        fn_constructor_args=[[ray.put(network)]],
        batch_size=None,
        compute=ActorPoolStrategy(size=network.config.num_actors),
        num_gpus=network.config.gpus_per_actor,
        label_selector=network.config.label_selector,
        zero_copy_batch=True,
    )
    for batch in computed.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        yield cast(Columns, batch)
