"""A contact sheet: generated samples with their prompts."""

import textwrap
from typing import BinaryIO

from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL, SampleBatch

COLUMNS = 5


def write_contact_sheet(file: BinaryIO, recipe: Recipe, samples: SampleBatch) -> None:
    """Write a PNG with one sample per cell, its index and class above and its prompt below."""
    from matplotlib.figure import Figure

    rows = -(-len(samples["index"]) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 3.2 * rows))
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    columns = (samples[name] for name in ("index", "label", "image"))
    for axis, index, label, image in zip(axes.flat, *columns, strict=False):
        plan = plan_sample(recipe, int(index))
        axis.imshow(image)
        left_out = ", left out" if label == NO_LABEL else ""
        title = " ".join(f"{index}: {recipe.label_space.class_names[plan.label]}{left_out}".split())
        axis.set_title(title, fontsize=9, parse_math=False)
        caption = textwrap.fill(plan.prompt, width=38)
        axis.text(0.5, -0.04, caption, transform=axis.transAxes, ha="center", va="top", fontsize=6, parse_math=False)
    model = recipe.model or recipe.generator
    above = figure.subplotpars.top + 0.35 / figure.get_figheight()  # inches, for the titles of the first row
    title = f"{model}, recipe {recipe.sha256[:12]}"
    figure.suptitle(title, y=above, va="bottom", fontsize=9, parse_math=False)
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
