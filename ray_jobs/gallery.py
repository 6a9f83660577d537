"""Show classes and prompts side by side: `python -m ray_jobs.gallery CONFIG --out DIR [section.key=value ...]`.

Rows are classes; columns are the recipe's templates (`--columns templates`) or guidance scales (`--columns
guidance_scale`). `--classes cat,dog` or `--classes 20` selects the classes; `--images 3` sets the number of images per
cell. Each picture is a sample of the recipe and is shown with its index. Writes `gallery.html`, `gallery.png` and
`recipe.json` into DIR.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("gallery")

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from generation.recipes.checks import check_recipe
from generation.recipes.plan import SamplePlan, plan_sample
from generation.recipes.recipe import Recipe, recipe_file_text
from generation.sample import drop_left_out
from generation.stream.stream import fetch_samples
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.job.command import start_pool_alone
from ray_jobs.reports.gallery import Gallery, Picture, write_page, write_png

MAX_PLANS = 1_000_000
"""Maximum number of samples that are searched to fill the cells; this takes about 20 s."""


@dataclass(frozen=True)
class Choice:
    """The rows of the gallery, its kind of columns, and the number of images per cell."""

    labels: tuple[int, ...]
    by_guidance: bool
    num_images: int


def main(config: JobConfig, out: Path, columns: str, classes: str, images: int) -> None:
    """Run the command: choose samples, generate their images, write a page and a picture."""
    with user_errors():
        recipe = config.opened_recipe
        choice = choose(recipe, columns, classes, images)
        for note in check_recipe(recipe, config.recipe):
            print(f"note: {note}")
        cells = fill_cells(recipe, choice)
        service = start_pool_alone(recipe, config.generation)
    with errors_at_work():
        with service:
            indices = [plan.index for plans in cells.values() for plan in plans]
            samples = drop_left_out(fetch_samples(service, config.generation, indices))
        pictures = {
            index: Picture(plan_sample(recipe, index, attempt), image)
            for index, attempt, image in zip(
                samples["index"].tolist(), samples["attempt"].tolist(), samples["image"], strict=True
            )
        }
        gallery = compose(recipe, choice, cells, pictures)
        write_anew(out / "recipe.json", recipe_file_text(recipe))
        write_page(out / "gallery.html", gallery)
        write_png(out / "gallery.png", gallery)
    left_out = f"; {len(indices) - len(pictures)} samples are left out" if len(pictures) < len(indices) else ""
    print(f"{len(pictures)} images are in {out}: gallery.html, gallery.png, recipe.json{left_out}")


def choose(recipe: Recipe, columns: str, classes: str, num_images: int) -> Choice:
    """Return the gallery that the options choose; ValueError for options that the recipe does not allow."""
    if columns == "guidance_scale" and recipe.guidance_draw == "between":
        raise ValueError(
            "--columns guidance_scale needs a list of scales, but recipe.guidance_draw is between. Set "
            "recipe.guidance_draw=one_of and list the scales."
        )
    return Choice(
        labels=choose_labels(recipe, classes),
        by_guidance=columns == "guidance_scale",
        num_images=num_images,
    )


def choose_labels(recipe: Recipe, text: str) -> tuple[int, ...]:
    """Return the labels of the classes in `text`: comma-separated names, or a number of evenly spread classes."""
    space = recipe.label_space
    if not text.isdecimal():
        return tuple(space.label_of(name.strip()) for name in text.split(","))
    if int(text) < 1:
        raise ValueError(f"--classes is '{text}'; use class names, or a number of 1 or more.")
    number = min(int(text), space.num_classes)
    return tuple(space.num_classes * i // number for i in range(number))


def fill_cells(recipe: Recipe, choice: Choice) -> dict[tuple[int, str], list[SamplePlan]]:
    """Return the recipe's first samples for each class and column; ValueError if a cell cannot be filled."""
    cells: dict[tuple[int, str], list[SamplePlan]] = {
        (label, column): [] for label in choice.labels for column in column_names(recipe, choice)
    }
    missing = len(cells) * choice.num_images
    check_weights(recipe, choice)
    for index in range(MAX_PLANS):
        plan = plan_sample(recipe, index)
        cell = cells.get((plan.label, f"{plan.guidance_scale:g}" if choice.by_guidance else plan.template))
        if cell is not None and len(cell) < choice.num_images:
            cell.append(plan)
            missing -= 1
            if not missing:
                return cells
    for (label, column), plans in cells.items():
        if len(plans) < choice.num_images:
            raise ValueError(
                f"Of the first {MAX_PLANS:,} samples, only {len(plans)} are '{recipe.label_space.class_names[label]}' "
                f"with '{column}'. Use fewer --images, or other classes or templates."
            )
    return cells


def check_weights(recipe: Recipe, choice: Choice) -> None:
    """Raise ValueError for a chosen class or template that the recipe never draws."""
    for label in choice.labels:
        if recipe.class_weights and not recipe.class_weights[label]:
            raise ValueError(
                f"Class '{recipe.label_space.class_names[label]}' has weight 0. Choose other classes with --classes."
            )
    for template, weight in zip(recipe.templates, recipe.template_weights, strict=False):
        if not weight and not choice.by_guidance:
            raise ValueError(f"Template '{template}' has weight 0. Leave it out of recipe.templates.")


def column_names(recipe: Recipe, choice: Choice) -> Sequence[str]:
    """Return the names of the columns from left to right."""
    names = [f"{scale:g}" for scale in recipe.guidance_scale] if choice.by_guidance else recipe.templates
    return list(dict.fromkeys(names))


def compose(
    recipe: Recipe, choice: Choice, cells: dict[tuple[int, str], list[SamplePlan]], pictures: dict[int, Picture]
) -> Gallery:
    """Return the gallery with the pictures of each cell, without samples that were left out."""
    columns = column_names(recipe, choice)
    return Gallery(
        title=f"{recipe.model or recipe.generator}, recipe {recipe.sha256[:12]}",
        columns={name: f"guidance {name}" if choice.by_guidance else name for name in columns},
        classes={label: recipe.label_space.classes[label] for label in choice.labels},
        cells={
            cell: [pictures[plan.index] for plan in plans if plan.index in pictures] for cell, plans in cells.items()
        },
    )
