"""Grid of generated images as one self-contained HTML page and as a PNG, from plans and pixels."""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.pages.html import page
from generation.files import write_whole
from generation.recipes.labels import ClassEntry
from generation.recipes.plan import SamplePlan
from ray_jobs.cli.run_folder import write_anew

STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
th, td { padding: .5rem .75rem; vertical-align: top; border-bottom: 1px solid #8884; text-align: left; }
thead th { position: sticky; top: 0; z-index: 1; background: Canvas; max-width: 22rem; }
tbody th { position: sticky; left: 0; background: Canvas; font-weight: 600; min-width: 10rem; max-width: 14rem; }
tbody td { white-space: nowrap; }
tbody th small { display: block; font-weight: 400; opacity: .7; }
figure { display: inline-block; margin: 0 .5rem .5rem 0; }
img { display: block; image-rendering: pixelated; height: auto; }
figcaption { font-size: 11px; opacity: .7; }
"""
NOTE = """<p>Hover over a picture for its prompt and seed. The number below is its index: python -m ray_jobs.regenerate
recipe.json --index INDEX generates it again.</p>"""

MIN_SHOWN_PX = 96
"""Minimum width of a displayed image; smaller images are enlarged."""

LABEL_PX, MARGIN_PX, HEADER_PX = 130, 6, 48
"""Width of class names, space between pictures and height of column names in the PNG."""

TALLEST_PX = 256
"""Maximum height of an image in the PNG; larger images are shrunk."""


FONT = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size=10)
"""Font shipped with matplotlib; covers more characters than Pillow's default."""


@dataclass(frozen=True)
class Picture:
    """One sample: its plan and its image."""

    plan: SamplePlan
    image: np.ndarray
    """uint8 [H, W, 3]."""

    @property
    def caption(self) -> str:
        """Index, noise seed, guidance scale, steps, attempt and prompt as text."""
        plan = self.plan
        return (
            f"index {plan.index}, noise seed {plan.noise_seed}, guidance {plan.guidance_scale:g}, "
            f"{plan.num_inference_steps} steps, attempt {plan.attempt}\n{plan.prompt}"
        )


@dataclass(frozen=True)
class Gallery:
    """A table with one row per class and one column per template or guidance scale."""

    title: str
    columns: Mapping[str, str]
    """Column titles by key."""

    classes: Mapping[int, ClassEntry]
    """Classes by label."""

    cells: Mapping[tuple[int, str], Sequence[Picture]]
    """Pictures by label and column key."""


def write_page(path: Path, gallery: Gallery) -> None:
    """Write one self-contained HTML file: images are inlined, no scripts, no network."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in gallery.columns.values())
    body = "\n".join(_row_html(gallery, label) for label in gallery.classes)
    table = f"<table><thead><tr><th>class</th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    write_anew(path, page(gallery.title, f"{NOTE}\n{table}", STYLE))


def _row_html(gallery: Gallery, label: int) -> str:
    cells = ("".join(map(_figure_html, gallery.cells[label, column])) for column in gallery.columns)
    entry = gallery.classes[label]
    name = f"{escape(entry.class_name)}<small>{escape(entry.definition)}</small>"
    return f"<tr><th scope=row>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _figure_html(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    width = max(MIN_SHOWN_PX, picture.image.shape[1])
    return (
        f'<figure title="{escape(picture.caption)}"><img width={width} alt="{escape(picture.plan.prompt)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{picture.plan.index}</figcaption></figure>'
    )


def write_png(path: Path, gallery: Gallery) -> None:
    """Write the grid as a PNG: class names on the left, column names on top, indices on the pictures."""
    heights = [picture.image.shape[0] for cell in gallery.cells.values() for picture in cell]
    size = min(TALLEST_PX, max([MIN_SHOWN_PX, *heights]))
    step = size + MARGIN_PX
    column_px = max(map(len, gallery.cells.values())) * step + 2 * MARGIN_PX
    sheet = Image.new(
        "RGB", (LABEL_PX + len(gallery.columns) * column_px, HEADER_PX + len(gallery.classes) * step), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(gallery.columns.values()):
        _write(draw, (LABEL_PX + i * column_px, 4), title, column_px - 4 * MARGIN_PX)
    for j, (label, entry) in enumerate(gallery.classes.items()):
        top = HEADER_PX + j * step
        _write(draw, (4, top), entry.class_name, LABEL_PX)
        for i, column in enumerate(gallery.columns):
            for k, picture in enumerate(gallery.cells[label, column]):
                _paste(sheet, picture, (LABEL_PX + i * column_px + k * step, top), size)
    write_whole(path, lambda file: sheet.save(file, "png"))


def _paste(sheet: Image.Image, picture: Picture, corner: tuple[int, int], size: int) -> None:
    resampling = Image.Resampling.NEAREST if size > picture.image.shape[0] else Image.Resampling.LANCZOS
    sheet.paste(Image.fromarray(picture.image).resize((size, size), resampling), corner)
    below = corner[0] + 2, corner[1] + size - 12
    ImageDraw.Draw(sheet).text(below, str(picture.plan.index), "white", stroke_width=1, stroke_fill="black")


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width_px: int) -> None:
    """Draw text wrapped to the width, at most three lines."""
    lines = textwrap.wrap(text, max(4, int(width_px / FONT.getlength("n"))))
    draw.text(corner, "\n".join(lines[:3]), "black", font=FONT)
