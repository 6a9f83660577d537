"""The models that a recipe's check may name, each compared with its own library."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from evaluation.inference.check import build_scorer, check_scorer
from evaluation.inference.scorer import CheckScorer, class_prompts, resized
from generation.engine.actor import GeneratorActor
from generation.engine.generator import GenerationFailedError
from generation.pool.service import start_generation
from generation.recipes.config import RecipeConfig
from generation.recipes.labels import ClassEntry, LabelSpace, load_label_space
from generation.recipes.recipe import Recipe, build_recipe, read_recipe, recipe_file_text
from generation.stream.stream import fetch_samples
from tests.support.fits import FORTY_STEPS, train_here
from tests.support.models import save_checkpoint
from tests.support.settings import ON_CPU, TWO_ACTORS
from tests.support.tiny_models import save_tiny_clip, tiny_tokenizer


def recipe_with(check: str, **others: Any) -> Recipe:
    return build_recipe(RecipeConfig(generator="painted", image_size=16, check=check, **others))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A tiny CLIP's name and model."""
    folder = tmp_path_factory.mktemp("clip")
    model = save_tiny_clip(folder)
    return f"clip:{folder}", model


def painted_images(recipe: Recipe, num_images: int) -> np.ndarray:
    unchecked = dataclasses.replace(recipe, check="", keep_above=0.0)
    return GeneratorActor(unchecked, ON_CPU).generate(range(num_images))["image"]


def test_clip_scores_match_transformers(clip: tuple[str, Any]):
    name, model = clip
    recipe = recipe_with(name)
    images = painted_images(recipe, 70)  # more than are scored at once
    probabilities = build_scorer(recipe, ON_CPU).probabilities(images)
    texts = tiny_tokenizer()(
        [f"a photo of a {each}." for each in recipe.label_space.class_names], padding=True, return_tensors="pt"
    )
    mean, std = (
        torch.tensor(values) for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    pixels = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model(**texts, pixel_values=pixels).logits_per_image.softmax(dim=1)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


def test_clip_in_half_precision_is_loaded_in_full(clip: tuple[str, Any], tmp_path: Path):
    save_tiny_clip(tmp_path).half().save_pretrained(tmp_path)
    recipe = recipe_with(f"clip:{tmp_path}")
    images = painted_images(recipe, 3)
    expected = build_scorer(recipe_with(clip[0]), ON_CPU).probabilities(images)
    np.testing.assert_allclose(build_scorer(recipe, ON_CPU).probabilities(images), expected, atol=0.01)


def test_repeated_class_names_get_their_definition():
    prompts = class_prompts(load_label_space("imagenet1k"))
    assert len(set(prompts)) == 1000
    assert [each for each in prompts if each.startswith("a photo of a crane")] == [
        "a photo of a crane, large long-necked wading bird of marshes and plains in many parts of the world.",
        "a photo of a crane, lifts and moves heavy objects; lifting tackle is suspended from a pivoted boom that "
        "rotates around a vertical axis.",
    ]
    twins = LabelSpace("twins", (ClassEntry("crane"), ClassEntry("crane")))
    with pytest.raises(ValueError, match=r"2 classes of twins have the prompt 'a photo of a crane\.'\. Give them"):
        class_prompts(twins)


class SmallNetwork(torch.nn.Module):
    """Has memory for some images at once, whose mean color it returns."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images_nhwc))
        if len(images_nhwc) > self.most:
            raise torch.OutOfMemoryError
        return images_nhwc.float().mean(dim=(1, 2)).repeat(1, 4)


def test_fewer_images_are_scored_at_once_after_running_out_of_memory(clip: tuple[str, Any]):
    recipe = recipe_with(clip[0])
    images = painted_images(recipe, 100)
    scorer = CheckScorer(recipe, ON_CPU, gives_soft_labels=False)
    scorer.network = SmallNetwork(most=100)
    expected = scorer.probabilities(images)
    assert scorer.network.sizes == [64, 36]
    scorer.network = SmallNetwork(most=20)
    np.testing.assert_allclose(scorer.probabilities(images), expected, rtol=1e-6)
    assert scorer.network.sizes == [64, 32, *[16] * 6, 4]
    scorer.network = SmallNetwork(most=0)
    with pytest.raises(
        GenerationFailedError, match=r"Not even one image fits into memory for the model in recipe\.check"
    ):
        scorer.probabilities(images)


def test_scorer_without_its_gpu_names_the_remedy(clip: tuple[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_gpu = dataclasses.replace(ON_CPU, gpus_per_actor=1)
    with pytest.raises(ValueError, match=r"^generation\.gpus_per_actor is 1, but torch finds no GPU here"):
        GeneratorActor(recipe_with(clip[0]), on_gpu, build_scorer)


def test_actor_scores_each_image_by_its_own_class(clip: tuple[str, Any]):
    recipe = recipe_with(clip[0])
    batch = GeneratorActor(recipe, ON_CPU, build_scorer).generate(range(6))
    probabilities = build_scorer(recipe, ON_CPU).probabilities(batch["image"])
    expected = probabilities[np.arange(6), batch["label"]].round(3)
    np.testing.assert_allclose(batch["score"], expected, atol=1e-6)  # pyright: ignore[reportTypedDictNotRequiredAccess]


def test_checkpoint_scores_match_its_classifier(painted: Recipe, tmp_path: Path):
    path = tmp_path / "checkpoint.ckpt"
    classifier = save_checkpoint(path, painted)
    recipe = recipe_with(str(path))
    images = painted_images(recipe, 3)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).softmax(dim=1)
    np.testing.assert_allclose(build_scorer(recipe, ON_CPU).probabilities(images), expected.numpy(), atol=1e-5)


def test_changed_check_is_refused(painted: Recipe, tmp_path: Path):
    path = tmp_path / "checkpoint.ckpt"
    save_checkpoint(path, painted)
    recipe = recipe_with(str(path), keep_above=0.25)
    (tmp_path / "recipe.json").write_text(recipe_file_text(recipe))
    assert read_recipe(tmp_path / "recipe.json") == recipe
    path.write_bytes(b"another")
    with pytest.raises(ValueError, match="has changed since the recipe was written"):
        read_recipe(tmp_path / "recipe.json")
    with pytest.raises(ValueError, match=r"recipe\.check: checkpoint '.*' cannot be read"):
        check_scorer(recipe_with(str(path)))


def test_torchvision_scores_are_of_the_recipes_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "torchvision:resnet18/IMAGENET1K_V1"
    recipe = recipe_with(name, label_space="imagenet100")
    probabilities = build_scorer(recipe, ON_CPU).probabilities(painted_images(recipe, 2))
    assert probabilities.shape == (2, 100)
    assert 0 < probabilities.sum() < 2 * 0.9  # the other 900 classes have their share
    with pytest.raises(ValueError, match=r"knows 1000 classes \(imagenet1k\), but not 'zero' and 9 others of digits"):
        check_scorer(recipe_with(name))


def test_images_are_resized_whole():
    images = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    images[0, :2] = 200
    assert resized(images, 2)[0, :, :, 0].tolist() == [[171, 171], [29, 29]]  # weights 3, 3, 1 of 7
    assert resized(images, 4) is images


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("no/such.ckpt", "recipe.check is 'no/such.ckpt', which is no file"),
        ("resnet:50", "is no file. Use a run's checkpoint.ckpt, torchvision:NAME/WEIGHTS"),
        ("clip:", "is no file"),
        (
            "generation/digits/model/vae/diffusion_pytorch_model.safetensors",
            "model.safetensors', weights without their classes and preprocessing",
        ),
        (
            "torchvision:resnet51/X",
            "recipe.check: checkpoint is 'torchvision:resnet51/X', but torchvision has no model",
        ),
        ("timm:no_such_model", "timm has no pretrained model 'no_such_model'"),
        (
            "clip:generation/digits/model/text_encoder",
            "not be loaded as a CLIP model: its model_type is clip_text_model",
        ),
    ],
)
def test_missing_check_is_one_line(check: str, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        check_scorer(recipe_with(check))
    assert "\n" not in str(refused.value)


def test_check_of_several_recipes_is_opened_once(clip: tuple[str, Any], monkeypatch: pytest.MonkeyPatch):
    opened: list[Recipe] = []
    monkeypatch.setattr("evaluation.inference.check.OPENED", set())
    monkeypatch.setattr("evaluation.inference.scorer.open_check", opened.append)
    first, other, imagenet = (
        recipe_with(clip[0], **settings) for settings in ({}, {"seed": 1}, {"label_space": "imagenet100"})
    )
    for recipe in (first, other, imagenet):
        check_scorer(recipe)
    assert opened == [first, imagenet]


def test_threshold_needs_a_check():
    with pytest.raises(ValueError, match=r"recipe\.keep_above is 0\.5, but recipe\.check is empty"):
        RecipeConfig(keep_above=0.5)
    with pytest.raises(ValueError, match=r"recipe\.keep_above is 1; use 0 to below 1"):
        RecipeConfig(check="timm:resnet18", keep_above=1)


def test_recipe_without_a_check_keeps_its_old_hash(painted: Recipe):
    assert painted.sha256 == "8103cd345e2a0142f340c75a5bfbcbf5b94bad1969ca3abc83a20b452754efdc"  # of 8b7519c
    assert recipe_with("timm:resnet18").sha256 != recipe_with("timm:resnet18", keep_above=0.1).sha256


def test_soft_labels_are_the_probabilities_of_the_recipes_classes(clip: tuple[str, Any]):
    recipe = recipe_with(clip[0])
    batch = GeneratorActor(recipe, ON_CPU, partial(build_scorer, gives_soft_labels=True)).generate(range(6))
    soft = batch["soft_label"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert soft.dtype == np.float16
    np.testing.assert_allclose(soft, build_scorer(recipe, ON_CPU).probabilities(batch["image"]), atol=1e-3)
    np.testing.assert_allclose(soft.sum(axis=1, dtype=np.float32), 1, atol=5e-3)


@pytest.mark.ray
def test_checked_pool_replaces_refused_images_and_trains(clip: tuple[str, Any], ray_cluster, tmp_path: Path):
    scorer = partial(build_scorer, gives_soft_labels=True)
    rows: Any = GeneratorActor(recipe_with(clip[0]), ON_CPU, scorer).generate(range(100))
    medians = [np.median(rows["score"][rows["label"] == label]) for label in range(10)]
    recipe = recipe_with(clip[0], keep_above=float(min(medians)))  # refuses half of one class
    pool = dataclasses.replace(TWO_ACTORS, max_attempts=100)
    alone = GeneratorActor(recipe, pool, scorer)
    batches: list[Any] = [alone.generate(range(start, start + 16)) for start in range(0, 64, 16)]
    training = dataclasses.replace(
        FORTY_STEPS, weight_by_score=True, soft_labels=0.5, num_images=64, num_epochs=1, reuse=1
    )
    with start_generation(recipe, pool, scorer) as service:
        samples: Any = fetch_samples(service, pool, range(64))
        for name in ("label", "image", "attempt", "score", "soft_label"):
            np.testing.assert_array_equal(samples[name], np.concatenate([batch[name] for batch in batches]))
        assert samples["score"].min() >= np.float32(recipe.keep_above)
        num_refused = service.counts().num_refused["off_class"]
        assert num_refused == samples["attempt"].sum() > 0
        checkpoint = train_here(service, recipe, training, tmp_path)
    assert checkpoint["global_step"] == 2
