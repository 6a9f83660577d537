import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from generation.recipes.config import RecipeConfig
from generation.recipes.pipeline_traits import KINDS
from generation.recipes.recipe import Recipe, build_recipe
from generation.recipes.tokens import open_token_counter
from tests.support.tiny_models import save_tiny_flux, save_tiny_pixart, save_tiny_sd3


def test_tokens_are_counted_with_start_and_end(digits: Recipe):
    counter = open_token_counter(digits)
    assert counter is not None
    assert counter.limits == {"tokenizer": 64}
    counts = counter.count(["", "seven", "seven, seven"])["tokenizer"]
    assert counts.tolist() == [2, 3, 5]


def test_tokens_beyond_the_limit_are_counted(digits: Recipe):
    counter = open_token_counter(digits)
    assert counter is not None
    assert counter.count(["seven " * 100])["tokenizer"].tolist() == [102]


def test_no_counter_without_a_tokenizer(painted: Recipe):
    assert open_token_counter(painted) is None
    assert open_token_counter(dataclasses.replace(painted, model="no/such-model", revision="0" * 40)) is None


@pytest.mark.parametrize(
    ("save", "limits"),
    [
        (save_tiny_pixart, {"tokenizer": 120}),
        (save_tiny_sd3, {"tokenizer": 64, "tokenizer_2": 64, "tokenizer_3": 256}),
        (save_tiny_flux, {"tokenizer": 64, "tokenizer_2": 512}),
        (lambda folder: save_tiny_flux(folder, takes_scale=False), {"tokenizer": 64, "tokenizer_2": 256}),
    ],
)
def test_limits_are_the_pipelines(save: Callable[[Path], None], limits: dict[str, int], tmp_path: Path):
    save(tmp_path)
    counter = open_token_counter(build_recipe(RecipeConfig(model=str(tmp_path), image_size=32)))
    assert counter is not None
    assert counter.limits == limits


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.tokens_read])
def test_limits_are_diffusers_defaults(name: str):
    call = getattr(importlib.import_module("diffusers"), name).__call__
    default = inspect.signature(call).parameters["max_sequence_length"].default
    assert KINDS[name].tokens_read in (("tokenizer", default), ("tokenizer_2", default), ("tokenizer_3", default))
