"""Show a data set before it is generated: `python -m ray_jobs.plan CONFIG [section.key=value ...]`.

Prints the recipe and writes it to a file, which every command takes in place of a config. `--index N` explains one
sample, `--compare RECIPE` lists the fields in which two recipes differ, `--out FILE` sets the recipe's file. `--cost`
predicts a run's time and cost from the rates in the settings, of an earlier run (`--like RUN`), or of a rehearsal. Of
an experiment, it prints what each arm and all runs together need.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("plan")

from collections.abc import Sequence
from itertools import islice
from textwrap import shorten
from typing import Any

import numpy as np

from generation.recipes.checks import check_recipe
from generation.recipes.model_files import find_local, local_path
from generation.recipes.plan import SamplePlan, describe_sample, plan_sample
from generation.recipes.recipe import Recipe, differences, read_recipe_value, recipe_file_text
from generation.recipes.tokens import TokenCounter, open_token_counter
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.experiment_config import ExperimentConfig
from ray_jobs.cli.run_folder import resolve, write_once
from ray_jobs.cost.experiment import print_experiment
from ray_jobs.cost.table import print_cost
from ray_jobs.job.tables import print_facts, print_table

NUM_EXAMPLES = 20
DEFINITION_CHARACTERS = 60
NUM_COUNTED = 20_000
"""Number of samples, from the first, whose prompts' tokens are counted."""

MAX_DIFFERENCES = 20


def main(  # noqa: PLR0913, PLR0917 - one parameter per option
    config: JobConfig, arguments: Sequence[str], index: int | None, compare: str, out: str, cost: bool, like: str
) -> None:
    """Run the command: print a sample, a comparison or a prediction, or else print the recipe and write its file."""
    with user_errors():
        if isinstance(config, ExperimentConfig) and index is None and not compare:
            print_experiment(config, like)
            return
        recipe = config.opened_recipe
        if index is not None:
            print_sample(recipe, index)
        elif compare:
            print_differences(recipe, read_recipe_value(local_path(compare)))
        elif cost or like:
            print_cost(config, recipe, arguments, like)
        else:
            notes = check_recipe(recipe, config.recipe)
            path = resolve(out or f"runs/recipe-{recipe.sha256[:12]}.json")
            write_once(path, recipe_file_text(recipe))
            print_recipe(recipe, len(config.training.indices(config.data.replays)[0]))
            for note in notes:
                print(f"note: {note}")
            print(f"The recipe is in {path}")


def print_sample(recipe: Recipe, index: int) -> None:
    """Print one sample's plan, with the words and the class behind its prompt."""
    plan = plan_sample(recipe, index)
    facts = describe_sample(recipe, plan)
    facts |= {f"tokens ({name})": count[0] for name, count in _token_counts(open_token_counter(recipe), [plan]).items()}
    print_facts(f"Sample {index:,}", {name: str(value) for name, value in facts.items()})


def print_differences(ours: Recipe, theirs: dict[str, Any]) -> None:
    """Print the fields in which two recipes differ."""
    found = differences(ours.to_value(), theirs)
    if not found:
        print(f"The recipes are equal: {ours.sha256}")
    for name, (a, b) in islice(found.items(), MAX_DIFFERENCES):
        print(f"{name}: {_short(a)} in this recipe, {_short(b)} in the other")
    if len(found) > MAX_DIFFERENCES:
        print(f"and {len(found) - MAX_DIFFERENCES:,} more")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def print_recipe(recipe: Recipe, num_images: int) -> None:
    """Print a recipe's overview, classes, templates with token counts, and first prompts."""
    plans = [plan_sample(recipe, index) for index in range(min(num_images, NUM_COUNTED))]
    counter = open_token_counter(recipe)
    print_facts(f"Recipe {recipe.sha256}", overview(recipe, num_images, counter))
    print_classes(recipe)
    print_templates(recipe, plans, counter)
    if counter is None and recipe.model:
        print(f"Tokens were not counted: {recipe.model} has no tokenizer on this machine.")
        if find_local(recipe.model) is None:
            files = "--include 'tokenizer*/*' --include '*.json'"
            print(f"To count them: hf download {recipe.model} --revision {recipe.revision} {files}")
    rows = [
        [str(plan.index), recipe.label_space.class_names[plan.label], f"{plan.guidance_scale:g}", plan.prompt]
        for plan in plans[:NUM_EXAMPLES]
    ]
    print_table("The first prompts", ("index", "class", "guidance", "prompt"), rows, text=("class", "prompt"))


def negative_prompt_row(recipe: Recipe, counter: TokenCounter | None) -> str:
    """Return the negative prompt with its token counts."""
    if counter is None or not recipe.negative_prompt:
        return recipe.negative_prompt or "none"
    tokens = counter.count([recipe.negative_prompt]).items()
    lengths = ", ".join(f"{count[0]} of {counter.limits[name]} tokens ({name})" for name, count in tokens)
    return f"{recipe.negative_prompt}: {lengths}"


def overview(recipe: Recipe, num_images: int, counter: TokenCounter | None) -> dict[str, str]:
    """Return a recipe's main facts."""
    size_bytes = len(recipe_file_text(recipe))
    pixels_bytes = num_images * recipe.image_bytes
    between = " to " if recipe.guidance_draw == "between" else ", "
    return {
        "label space": f"{recipe.label_space.name}, {recipe.label_space.num_classes:,} classes, "
        + ("exactly balanced" if not recipe.class_weights else "weighted"),
        "generator": "; ".join(_weights(recipe)),
        "guidance, steps, size": f"{between.join(f'{s:g}' for s in recipe.guidance_scale)}; "
        f"{recipe.num_inference_steps}; {recipe.generated_size} px, delivered at {recipe.image_size}",
        "seed": str(recipe.seed),
        "negative prompt": negative_prompt_row(recipe, counter),
        "recipe file": f"{size_bytes:,} bytes",
        "images in a run": f"{num_images:,} (training.num_images over training.reuse and data.replays, in whole steps)",
        "bytes not stored": f"{pixels_bytes:,} as uint8 pixels, {pixels_bytes / size_bytes:,.0f} times the recipe",
    }


def _weights(recipe: Recipe) -> list[str]:
    """Return model, decoder and LoRAs with their revisions."""
    vae = [f"decoder {recipe.vae} {recipe.vae_revision[:12]}"] if recipe.vae else []
    loras = [f"LoRA {name} {revision[:12]} x {scale:g}" for name, revision, scale in recipe.loras]
    return [f"{recipe.model or recipe.generator} {recipe.revision[:12]}, {recipe.precision}", *vae, *loras]


def print_classes(recipe: Recipe) -> None:
    """Print the first classes."""
    classes = recipe.label_space.classes
    columns = ("label", "class", "wnid", "hypernyms", "definition")
    rows = [
        [
            str(label),
            entry.class_name,
            entry.wnid,
            ", ".join(entry.hypernyms),
            shorten(entry.definition, DEFINITION_CHARACTERS, placeholder=" ..."),
        ]
        for label, entry in enumerate(classes[:NUM_EXAMPLES])
    ]
    print_table(f"Classes, {len(rows)} of {len(classes):,}", columns, rows, text=columns)


def print_templates(recipe: Recipe, plans: Sequence[SamplePlan], counter: TokenCounter | None) -> None:
    """Print the templates, their shares, and the tokens of the planned prompts by each tokenizer."""
    counts, limits = _token_counts(counter, plans), counter.limits if counter else {}
    columns = ["template", "share", *(f"{name}: mean, longest, over {limits[name]}" for name in counts)]
    rows = []
    for template in dict.fromkeys(recipe.templates):
        chosen = np.array([plan.template == template for plan in plans])
        tokens = [_tokens_in_words(count[chosen], limits[name]) for name, count in counts.items()]
        rows.append([template, f"{chosen.mean():.1%}", *tokens])
    print_table(f"Templates; tokens of the first {len(plans):,} prompts", columns, rows)


def _token_counts(counter: TokenCounter | None, plans: Sequence[SamplePlan]) -> dict[str, np.ndarray]:
    return counter.count([plan.prompt for plan in plans]) if counter else {}


def _tokens_in_words(counts: np.ndarray, limit: int) -> str:
    if not len(counts):
        return "none drawn"
    return f"{counts.mean():.1f}, {counts.max()}, {(counts > limit).sum():,}"
