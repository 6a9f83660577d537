"""Compare generated images with real images: `python -m ray_jobs.judge CONFIG checkpoint=JUDGE [key=value ...]`.

The judge is a classifier trained on real images (`data.source=real`). The generated images are the first of the
config's recipe, or the first of `data.shards`. Writes `judgement.json` and `report.html`.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("judge")

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.images.real_sets import RealSet
from evaluation.inference.check import build_scorer, check_scorer
from evaluation.inference.network import KINDS
from evaluation.inference.outputs import infer_generated, infer_sets
from evaluation.inference.trained_model import EvaluatedModel
from evaluation.metrics.likeness import ClassifiedImages, quality_report, shared_classes
from evaluation.pages.judgement_page import quality_page
from generation.indices import SampleRequest
from generation.pool.service import start_generation
from generation.recipes.checks import check_recipe
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL
from generation.shards.datasets import read_shards
from generation.shards.shard_set import ShardSet
from generation.shards.storage import Storage
from generation.stream.stream import stream_samples
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JudgeConfig, to_yaml
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.run_folder import resolve, resolve_place, unlock, write_anew, write_json
from ray_jobs.cluster.room import evaluation_demand, generation_demand, wait_for_resources
from ray_jobs.job.command import begin
from ray_jobs.job.data_set import open_complete
from ray_jobs.job.environment import environment
from ray_jobs.job.evaluation import RESUME_HINT, check_evaluation, open_checkpoint, outputs_folder, plan


def main(config: JudgeConfig) -> None:
    """Run the command: classify real and generated images, and write a report that compares them."""
    with user_errors():
        job = prepare(config)
        for note in job.notes:
            announce(note)
        demand = evaluation_demand(job.config.evaluation, job.config.generation.wait_for_nodes_seconds)
        run_lock = begin(job.config, [demand] if job.shards else [demand, generation_demand(job.config.generation)])
    with user_errors(RESUME_HINT):
        wait_for_resources(demand)
        outputs = outputs_folder(job.config.evaluation, job.judge.run_dir)
        columns = infer_sets({job.real: KINDS}, job.judge, job.config.evaluation, outputs, announce)[job.real]
        predictions = columns.read("prediction")[:, 0]
        real = ClassifiedImages(job.real.labels[columns.rows], columns.read("feature"), predictions)
        announce(f"{len(real.labels):,} real images are classified")
        generated = classify_generated(job)
        announce(f"{len(generated.labels):,} generated images are classified, of up to {job.config.num_generated:,}")
        report = quality_report(real, generated, job.recipe.label_space.class_names, job.config.num_neighbours)
        settings = to_yaml(job.config)
        result = {"facts": facts(job), "circumstances": environment(), "judgement": report, "settings": settings}
        write_json(job.run_dir / "judgement.json", result)
        write_anew(job.run_dir / "report.html", quality_page(result))
    overall = report["overall"]
    shares = f"recognised {overall['recognised']:.2%}, coverage {overall['coverage']:.2%}"
    announce(f"{shares}, density {overall['density']:.3f}")
    unlock(run_lock)
    print(f"Everything is in {job.run_dir}: report.html, judgement.json")


@dataclass(frozen=True)
class Prepared:
    """A job, checked as far as possible without a cluster."""

    config: JudgeConfig
    recipe: Recipe
    run_dir: Path
    judge: EvaluatedModel
    real: RealSet
    shards: ShardSet | None
    notes: list[str]
    """Notes to the user before images are generated."""


def prepare(config: JudgeConfig) -> Prepared:
    """Return the job, checked as far as possible without a cluster."""
    run_dir = resolve(config.output)
    recipe = config.opened_recipe
    notes: list[str] = []
    if config.data.source == "stream":
        notes = check_recipe(recipe, config.recipe)
        check_scorer(recipe)
    judge = open_checkpoint(config.checkpoint)
    judge_file = judge.facts["checkpoint"]
    if judge.label_space.sha256 != recipe.label_space.sha256:
        raise ValueError(
            f"The judge in '{judge_file}' has the classes of {judge.label_space.name}, but the recipe has those of "
            f"{recipe.label_space.name}. Use a judge trained on the recipe's classes."
        )
    if (trained_on := judge.facts["trained_on"]) != "real":
        raise ValueError(
            f"The judge in '{judge_file}' was trained on {trained_on} images, so it may rely on artifacts of generated "
            "images. Train one on real images: figment train with data.source=real data.real=FOLDER."
        )
    if not config.evaluation.sets:
        raise ValueError("evaluation.sets is empty, but judge needs real images. Add evaluation.sets=NAME.")
    first = dataclasses.replace(config.evaluation, sets=config.evaluation.sets[:1], transfer=(), representation=True)
    planned = plan(first, judge.label_space)
    check_evaluation(planned, first, judge.run_dir, judge.crop, judge.facts["architecture"])
    # The same framing as for generated images, and as in the judge's training.
    real = dataclasses.replace(planned.sets[0], center_crop=False)
    shards = open_shards(config, recipe)
    indices = (
        range(shards.first_index, shards.first_index + shards.num_images) if shards else range(config.num_generated)
    )
    labels = np.array([plan_sample(recipe, index).label for index in indices])
    shared_classes(real.labels, labels, config.num_neighbours)
    return Prepared(config, recipe, run_dir, judge, real, shards, notes)


def open_shards(config: JudgeConfig, recipe: Recipe) -> ShardSet | None:
    """Return the shards with the generated images, or None for a stream; ValueError if shards are missing."""
    if config.data.source == "real":
        raise ValueError("data.source is real, but judge needs generated images. Use stream or shards.")
    if config.data.source == "stream":
        return None
    found = open_complete(Storage(resolve_place(config.data.shards)), recipe, config.num_generated)
    return found.first(min(found.num_images, config.num_generated))


def classify_generated(job: Prepared) -> ClassifiedImages:
    """Return labels, features and predictions of the first generated images."""
    config = job.config
    with ExitStack() as pool_up:
        if job.shards:
            request = SampleRequest.all_of(range(job.shards.num_images))
            samples = read_shards(job.shards, 0, config.data.num_readers, request)
        else:
            service = pool_up.enter_context(start_generation(job.recipe, config.generation, build_scorer))
            request = SampleRequest.all_of(range(config.num_generated))
            samples = stream_samples(service, job.recipe, config.generation, request)
        columns = infer_generated(samples, job.judge, config.evaluation)
    classified = ClassifiedImages(columns["label"], columns["feature"], columns["prediction"][:, 0])
    return classified.at(classified.labels != NO_LABEL)


def facts(job: Prepared) -> dict[str, str]:
    """Return the facts about the comparison that its page shows."""
    recipe = job.recipe
    return {
        "generated": f"{recipe.model or recipe.generator}, recipe {recipe.sha256[:12]}",
        "guidance": ", ".join(map(str, recipe.guidance_scale)),
        "templates": "; ".join(recipe.templates),
        "real": job.real.name,
        "judge": f"{job.judge.facts['checkpoint']}, trained on real images",
    }
