"""A picture of what the run teaches: generated samples with their prompts."""

import textwrap
from typing import BinaryIO

from matplotlib.figure import Figure

from generation.plan import plan_sample
from generation.recipe import Recipe
from generation.sample import SampleBatch

COLUMNS = 5


def write_contact_sheet(file: BinaryIO, recipe: Recipe, samples: SampleBatch) -> None:
    """Write a PNG with a sample a cell, its index and class above and its prompt below."""
    rows = -(-len(samples["index"]) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 3.2 * rows))
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, index, image in zip(axes.flat, samples["index"], samples["image"], strict=False):
        plan = plan_sample(recipe, int(index))
        axis.imshow(image)
        axis.set_title(f"{index}: {recipe.label_space.class_names[plan.label]}", fontsize=9)
        caption = textwrap.fill(plan.prompt.replace("$", r"\$"), width=38)
        axis.text(0.5, -0.04, caption, transform=axis.transAxes, ha="center", va="top", fontsize=6)
    figure.suptitle(f"{recipe.model or recipe.generator}, recipe {recipe.sha256[:12]}", fontsize=9)
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
