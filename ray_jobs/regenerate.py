"""Generate chosen samples again: `python -m ray_jobs.regenerate RECIPE --index 7,8,1000:1016 --out DIR`.

RECIPE is a recipe file or a config; settings may follow. Writes a PNG, and a JSON file with the plan, per sample.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("regenerate")

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from generation.files import write_whole
from generation.recipes.plan import NUM_INDICES, describe_sample, plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL, SampleBatch, drop_left_out
from generation.stream.stream import request_samples
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.job.command import start_pool_alone

MAX_INDICES = 1_000_000
"""Limit of `--index`; `ray_jobs.generate` is for more."""


def main(config: JobConfig, index: str, out: Path) -> None:
    """Run the command: generate the samples with the given indices, and write each to files."""
    with user_errors():
        indices = parse_indices(index)
        recipe = config.opened_recipe
        service = start_pool_alone(recipe, config.generation)
    with errors_at_work(), service:
        out.mkdir(parents=True, exist_ok=True)
        for samples in request_samples(service, config.generation, indices):
            write_samples(out, recipe, samples)
    print(f"{len(indices):,} samples are in {out}")


def parse_indices(text: str) -> Sequence[int]:
    """Return the indices in `7,8,1000:1016`, each once, in order; a range excludes its end."""
    indices: dict[int, None] = {}
    for part in text.split(","):
        start, colon, stop = part.partition(":")
        try:
            chosen = range(int(start), int(stop) if colon else int(start) + 1)
        except ValueError as error:
            raise ValueError(f"--index is '{text}'. Use indices and ranges such as 7,8,1000:1016.") from error
        if not 0 <= chosen.start < chosen.stop <= NUM_INDICES:
            raise ValueError(
                f"--index has '{part}'; use indices from 0 to {NUM_INDICES - 1}, and ranges that start below their end."
            )
        if len(indices) + chosen.stop - chosen.start > MAX_INDICES:
            raise ValueError(f"--index '{text}' has more than {MAX_INDICES:,} samples. Use fewer.")
        indices.update(dict.fromkeys(chosen))
    return list(indices)


def write_samples(folder: Path, recipe: Recipe, samples: SampleBatch) -> None:
    """Write `INDEX.png` and `INDEX.json` for each sample that was not left out."""
    for index in samples["index"][samples["label"] == NO_LABEL]:
        print(f"Sample {index} is left out: its first {recipe.leave_out_after} images were refused.")
    kept = drop_left_out(samples)
    for index, attempt, image in zip(kept["index"], kept["attempt"], kept["image"], strict=True):
        plan = plan_sample(recipe, int(index), int(attempt))
        write_whole(folder / f"{index}.png", partial(Image.fromarray(image).save, format="png"))
        write_anew(folder / f"{index}.json", json.dumps(describe_sample(recipe, plan), indent=2) + "\n")
