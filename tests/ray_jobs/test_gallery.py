import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generation.engine.painted_generator import PaintedGenerator
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from ray_jobs import gallery
from ray_jobs.gallery import Choice, choose, compose, fill_cells
from ray_jobs.reports.gallery import Gallery, Picture, write_page, write_png
from tests.support.browser import needs_browser, screenshot


@pytest.fixture
def mixed(painted: Recipe) -> Recipe:
    """A recipe with two templates and two guidance scales."""
    return dataclasses.replace(painted, templates=("{lemmas}", "<b>{lemmas}</b>"), guidance_scale=(1.0, 7.5))


def composed(recipe: Recipe, choice: Choice) -> Gallery:
    cells = fill_cells(recipe, choice)
    plans = [plan for plans in cells.values() for plan in plans]
    return compose(
        recipe, choice, cells, {plan.index: Picture(plan, PaintedGenerator(16, 10).paint(plan)) for plan in plans}
    )


def test_cell_has_the_first_samples_of_its_class_and_template(mixed: Recipe):
    cells = fill_cells(mixed, Choice(labels=(3, 8), by_guidance=False, num_images=2))
    assert list(cells) == [(3, "{lemmas}"), (3, "<b>{lemmas}</b>"), (8, "{lemmas}"), (8, "<b>{lemmas}</b>")]
    for (label, template), plans in cells.items():
        fitting = [
            plan
            for plan in (plan_sample(mixed, index) for index in range(500))
            if (plan.label, plan.template) == (label, template)
        ]
        assert plans == fitting[:2]


def test_columns_can_be_guidance_scales(mixed: Recipe):
    shown = composed(mixed, Choice(labels=(0,), by_guidance=True, num_images=1))
    assert shown.columns == {"1": "guidance 1", "7.5": "guidance 7.5"}
    assert [shown.cells[0, column][0].plan.guidance_scale for column in shown.columns] == [1.0, 7.5]


def test_classes_are_named_or_evenly_spread(mixed: Recipe):
    assert choose(mixed, "templates", "seven, n13742358", 1).labels == (7, 0)
    assert choose(mixed, "templates", "5", 1).labels == (0, 2, 4, 6, 8)
    assert choose(mixed, "templates", "99", 1).labels == tuple(range(10))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("seven,letter", "'letter' is not a class of digits"),
        ("0", "--classes is '0'; use class names"),
    ],
)
def test_unknown_classes_are_refused(classes: str, message: str, mixed: Recipe):
    with pytest.raises(ValueError, match=message):
        choose(mixed, "templates", classes, 1)


def test_range_of_guidance_scales_has_no_columns(mixed: Recipe):
    with pytest.raises(ValueError, match=r"needs a list of scales, .* Set recipe\.guidance_draw=one_of"):
        choose(dataclasses.replace(mixed, guidance_draw="between"), "guidance_scale", "10", 1)


def test_classes_and_templates_that_cannot_fill_the_cells_are_named(mixed: Recipe, monkeypatch):
    monkeypatch.setattr(gallery, "MAX_PLANS", 500)
    never = dataclasses.replace(mixed, template_weights=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"Template '<b>\{lemmas\}</b>' has weight 0"):
        fill_cells(never, Choice(labels=(3,), by_guidance=False, num_images=1))
    never_one = dataclasses.replace(mixed, class_weights=(1.0, 0.0, *[1.0] * 8))
    with pytest.raises(ValueError, match="Class 'one' has weight 0"):
        fill_cells(never_one, Choice(labels=(0, 1), by_guidance=False, num_images=1))
    with pytest.raises(ValueError, match=r"Of the first 500 samples, only \d+ are 'three' with"):
        fill_cells(mixed, Choice(labels=(3,), by_guidance=False, num_images=400))


def test_page_is_self_contained_and_escapes_prompts(mixed: Recipe, tmp_path: Path):
    write_page(tmp_path / "gallery.html", composed(mixed, Choice(labels=(3,), by_guidance=False, num_images=2)))
    page = (tmp_path / "gallery.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    assert "<script" not in page
    assert "&lt;b&gt;three, 3" in page
    assert "<b>" not in page
    assert f"noise seed {plan_sample(mixed, 7).noise_seed}" in page  # sample 7 is a three


def test_png_has_each_image_in_its_cell(painted: Recipe, tmp_path: Path):
    write_png(tmp_path / "gallery.png", composed(painted, Choice(labels=(0, 5), by_guidance=False, num_images=1)))
    sheet = np.asarray(Image.open(tmp_path / "gallery.png"))
    red, cyan = sheet[48 + 20, 130 + 20], sheet[48 + 102 + 20, 130 + 20]  # 20 px into the two cells
    assert red[0] > 150 > red[2]
    assert cyan[2] > 150 > cyan[0]


@pytest.mark.slow
@needs_browser
def test_browser_shows_the_images(painted: Recipe, tmp_path: Path):
    write_page(tmp_path / "gallery.html", composed(painted, Choice(labels=(0, 5), by_guidance=False, num_images=2)))
    seen = screenshot(tmp_path / "gallery.html", 900, 700).astype(int)
    reds = ((seen[..., 0] - seen[..., 2]) > 80).sum()
    cyans = ((seen[..., 2] - seen[..., 0]) > 80).sum()
    assert reds == pytest.approx(2 * 96 * 96, rel=0.2)
    assert cyans == pytest.approx(2 * 96 * 96, rel=0.2)
