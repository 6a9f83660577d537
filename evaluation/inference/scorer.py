"""The model in `recipe.check`, which scores images in a generator actor: a classifier, or CLIP with a prompt per class.

Images are resized whole to the model's input size on its device. Knows neither pools nor thresholds.
"""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from evaluation.images.class_names import NOT_SHARED, matching_labels
from evaluation.inference.external_models import is_external, open_external
from evaluation.inference.trained_model import open_model
from generation.config import GenerationConfig
from generation.engine.batch_size import is_out_of_memory
from generation.engine.generator import GenerationFailedError
from generation.recipes.labels import LabelSpace
from generation.recipes.model_files import find_local, local_path
from generation.recipes.recipe import Recipe
from training.config import TrainingConfig

CLIP = "clip:"

CLIP_PROMPT = "a photo of a {}."
"""The prompt of each class, from CLIP's paper (arXiv 2103.00020)."""

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""The normalization of pixel values in 0..1 that all CLIP models share."""

SCORED_AT_ONCE = 64
"""Images per call of the model, which bounds its memory beside the generator's; fewer after running out of it."""


class CheckScorer:
    """The recipe's check on one device; a `generation.engine.actor.Scorer`."""

    def __init__(self, recipe: Recipe, config: GenerationConfig, gives_soft_labels: bool) -> None:
        """Load the model; ValueError with the remedy if that fails."""
        self.gives_soft_labels = gives_soft_labels
        self.num_at_once = SCORED_AT_ONCE
        if config.gpus_per_actor:
            from generation.engine.diffusers_generator import prepare_gpu

            prepare_gpu(recipe, config)
        else:
            torch.set_num_threads(config.threads_per_actor)
        self.device = torch.device("cuda" if config.gpus_per_actor else "cpu")
        network, self.input_size, self.columns = open_check(recipe)
        self.network = network.to(self.device)

    @torch.inference_mode()
    def probabilities(self, images_nhwc: np.ndarray) -> np.ndarray:
        """Return the probability of each of the recipe's classes, float32 [N, num_classes]."""
        left, made = torch.from_numpy(images_nhwc), list[torch.Tensor]()
        while len(left):
            part = left[: self.num_at_once]
            logits = self._logits(part)
            if logits is None:
                self._halve(len(part))
            else:
                made.append(logits)
                left = left[len(part) :]
        return torch.cat(made).float().softmax(dim=1).cpu().numpy()[:, self.columns]

    def _logits(self, images_nhwc: torch.Tensor) -> torch.Tensor | None:
        """Return the network's logits; None if the device has too little memory."""
        try:
            return self.network(resized(images_nhwc.to(self.device), self.input_size))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, num_images: int) -> None:
        """Score half as many images at once as did not fit; GenerationFailedError if that was one."""
        if num_images == 1:
            raise GenerationFailedError(
                "Not even one image fits into memory for the model in recipe.check. Use a smaller one, lower "
                "generation.batch_size, or use a device with more memory."
            )
        self.num_at_once = num_images // 2
        logging.getLogger(__name__).warning("Out of memory: %d images are scored at once now.", self.num_at_once)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def open_check(recipe: Recipe) -> tuple[torch.nn.Module, int, np.ndarray]:
    """Return the recipe's check, from uint8 [N, H, W, 3] to logits, its input size, and each label's logit, int64."""
    if recipe.check.startswith(CLIP):
        network = open_clip(recipe)
        return network, network.input_size, np.arange(recipe.label_space.num_classes)
    try:
        if is_external(recipe.check):
            model = open_external(recipe.check, TrainingConfig(), recipe.label_space, Path())
        else:
            model = open_model(local_path(recipe.check))
        return model.build(), model.crop.crop_size, logits_of_labels(recipe, model.label_space)
    except ValueError as error:
        raise ValueError(f"recipe.check: {error}") from error


def logits_of_labels(recipe: Recipe, known: LabelSpace) -> np.ndarray:
    """Return the model's label of each of the recipe's classes, int64; ValueError for a class that it does not know."""
    labels = matching_labels(recipe.label_space, known)
    unknown = np.flatnonzero(labels == NOT_SHARED)
    if len(unknown):
        raise ValueError(
            f"'{recipe.check}' knows {known.num_classes} classes ({known.name}), but not "
            f"'{recipe.label_space.class_names[unknown[0]]}' and {len(unknown) - 1} others of "
            f"{recipe.label_space.name}. Use a model that knows all of them, or {CLIP}NAME."
        )
    return labels


def resized(images_nhwc: torch.Tensor, size: int) -> torch.Tensor:
    """Return square uint8 images [N, H, H, 3] at another size, antialiased."""
    if images_nhwc.shape[1] == size:
        return images_nhwc
    images = images_nhwc.permute(0, 3, 1, 2).float()
    images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class ClipClassifier(torch.nn.Module):
    """CLIP as a classifier: logits are the scaled cosine similarities of images and class prompts."""

    mean: torch.Tensor
    std: torch.Tensor
    directions: torch.Tensor

    def __init__(self, model: Any, directions: torch.Tensor) -> None:
        """Take a CLIPModel, and the unit text features of each class, [num_classes, D]."""
        super().__init__()
        self.vision, self.projection = model.vision_model, model.visual_projection
        self.scale = float(model.logit_scale.exp())
        self.input_size = model.config.vision_config.image_size
        self.register_buffer("directions", directions)
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1))

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """Return logits [N, num_classes] for uint8 images [N, H, W, 3]."""
        pixels = (images_nhwc.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        features = self.projection(self.vision(pixel_values=pixels).pooler_output)
        return self.scale * functional.normalize(features, dim=1) @ self.directions.T


def class_prompts(space: LabelSpace) -> list[str]:
    """Return CLIP's prompt of each class, with definitions where names repeat; ValueError if prompts still repeat."""
    num_named = Counter(space.class_names)
    definitions = [each.definition if num_named[each.class_name] > 1 else "" for each in space.classes]
    words = [", ".join(filter(None, each)) for each in zip(space.class_names, definitions, strict=True)]
    prompts = [CLIP_PROMPT.format(each) for each in words]
    prompt, number = Counter(prompts).most_common(1)[0]
    if number > 1:
        raise ValueError(
            f"recipe.check is a CLIP model, for which {number} classes of {space.name} have the prompt '{prompt}'. "
            "Give them different names or definitions."
        )
    return prompts


@torch.inference_mode()
def open_clip(recipe: Recipe) -> ClipClassifier:
    """Return a CLIP model that knows the recipe's classes; ValueError if the folder or hub id is none."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    name = recipe.check.removeprefix(CLIP)
    source, revision = find_local(name) or name, recipe.check_revision  # a folder's is its hash, and not read
    try:
        kind = CLIPConfig.get_config_dict(source, revision=revision)[0].get("model_type")
        if kind != "clip":  # else transformers would draw missing weights at random
            raise ValueError(f"its model_type is {kind}")
        model: Any = CLIPModel.from_pretrained(
            source, revision=revision, use_safetensors=True, dtype=torch.float32
        ).eval()
        tokenize: Any = CLIPTokenizer.from_pretrained(source, revision=revision)
    except Exception as error:  # damaged files and foreign models raise errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"recipe.check is '{recipe.check}', which cannot be loaded as a CLIP model: {reason}. Use one in "
            "transformers' layout with safetensors, as save_pretrained writes it."
        ) from error
    prompts = class_prompts(recipe.label_space)
    limit = model.config.text_config.max_position_embeddings
    tokens = tokenize(prompts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    features = model.text_projection(model.text_model(**tokens).pooler_output)
    return ClipClassifier(model, functional.normalize(features, dim=1))
