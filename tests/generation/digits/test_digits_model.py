import ast
import json

import numpy as np
import pytest
from sklearn.svm import SVC

from generation.config import GenerationConfig
from generation.digits.backgrounds import BACKGROUNDS
from generation.digits.pool import training_digest
from generation.digits.real_digits import evaluation_digits, split_positions, training_digits
from generation.engine.actor import GeneratorActor
from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import PROJECT_ROOT
from generation.recipes.recipe import build_recipe

MODEL = PROJECT_ROOT / "generation" / "digits" / "model"


def generate(num_samples: int, **settings) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of the embedded model at eight steps."""
    recipe = build_recipe(RecipeConfig(image_size=32, num_inference_steps=8, **settings))
    batch = GeneratorActor(recipe, GenerationConfig(gpus_per_actor=0, batch_size=50)).generate(range(num_samples))
    return batch["image"], batch["label"]


def features(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=3).reshape(len(images), -1) / 255


def test_split_is_1257_to_540_stratified_and_disjoint():
    train, test = split_positions()
    assert (len(train), len(test)) == (1257, 540)
    assert sorted([*train, *test]) == list(range(1797))
    assert np.bincount(evaluation_digits()[1]).tolist() == [54, 55, 53, 55, 54, 55, 54, 54, 52, 54]


def test_committed_model_was_trained_on_the_training_split_alone():
    start = json.loads((MODEL / "training_log.jsonl").read_text().splitlines()[0])
    assert start["training_digest"] == training_digest()


@pytest.mark.parametrize("script", ["train.py", "pool.py", "tokenizer.py", "backgrounds.py"])
def test_training_scripts_do_not_import_the_evaluation_digits(script: str):
    tree = ast.parse((PROJECT_ROOT / "generation" / "digits" / script).read_text())
    imported = {
        f"{node.module if isinstance(node, ast.ImportFrom) else ''}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    names = {part for name in imported for part in name.split(".")}
    assert not names & {"evaluation_digits", "split_positions", "load_digits", "sklearn", "import_module", "*"}


@pytest.mark.parametrize("form", ["class_name", "hypernym", "definition"])
def test_model_draws_the_prompted_digit(form: str):
    real_images, real_labels = training_digits()
    reference = SVC(C=10).fit(features(real_images), real_labels)
    images, labels = generate(100, templates=(form,))
    assert (reference.predict(features(images)) == labels).mean() >= 0.97


def test_backgrounds_are_visible():
    corner = {
        background: generate(20, templates=("background",), backgrounds=(background,))[0][:, :4, :4]
        for background in BACKGROUNDS
    }
    assert corner["plain"].mean() < 10
    assert corner["inverted"].mean() > 200
    for background in set(BACKGROUNDS) - {"plain", "inverted"}:
        assert 20 < corner[background].mean() < 200
    contrast = {background: images.std(axis=(1, 2)).mean() for background, images in corner.items()}
    assert min(contrast["stripes"], contrast["checkerboard"]) > 2 * contrast["gradient"]
