"""An ordinary run: prepared, trained on a running pool, evaluated. Depends on no console, lock or connected driver."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from evaluation.evaluate import EvaluationPlan
from evaluation.images.unreadable import Unreadable
from evaluation.inference.check import check_scorer
from evaluation.inference.trained_model import crop_of, open_model
from evaluation.result import Evaluation
from generation.engine.generator import GenerationFailedError
from generation.engine.scores import ScoreCounts
from generation.files import write_whole
from generation.pool.service import GenerationService
from generation.recipes.checks import check_recipe
from generation.recipes.recipe import Recipe, recipe_file_text
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.run_folder import CHECKPOINT, check_unfinished, keep_checkpoint, resolve, write_anew, write_json
from ray_jobs.cluster.placement import Demand
from ray_jobs.cluster.room import evaluation_demand, generation_demand, training_demand
from ray_jobs.cost.prediction import predict_if_given
from ray_jobs.job.contact_sheet import write_contact_sheet
from ray_jobs.job.data_card import write_card
from ray_jobs.job.evaluation import check_evaluation, plan, write_evaluation
from ray_jobs.job.listeners import listeners_of
from ray_jobs.job.source import (
    Source,
    StoredSource,
    StreamSource,
    array_size,
    open_source,
    real_samples,
    unreadable_in,
)
from ray_jobs.monitor.advice import Adviser, OverdueActors
from ray_jobs.monitor.display import ProgressLine
from ray_jobs.monitor.monitor import RunMonitor
from ray_jobs.monitor.observers import Observer
from ray_jobs.monitor.progress import RunProgress
from ray_jobs.monitor.prometheus import Exporter
from ray_jobs.monitor.spent import SPENT_FILE, SpentFile
from ray_jobs.reports.run_page_file import RunPage, write_last_page
from ray_jobs.reports.summary import MEAN_SCORES, summarize
from training.augmentation.augmentation import crop_sizes
from training.checkpoint import check_resumable, checkpoint_files, newest_readable
from training.data.reservoir import check_reservoir, reservoir_memory_warning
from training.fit import fit
from training.job import CHECKPOINTS, SET_SIZE, FitJob, TrainingSamples, run_name, sets_of
from training.loggers import check_loggers
from training.model.network import check_architecture, check_sizes
from training.progress import TrainingProgress

SAMPLES, SUMMARY = "samples.png", "summary.json"
"""Files in a run's folder: its first samples, and its results once it is finished."""

NUM_SAMPLES_ON_SHEET = 20


@dataclass(frozen=True)
class Prepared:
    """A job, checked as far as possible without a cluster."""

    config: JobConfig
    recipe: Recipe
    run_dir: Path
    source: Source
    real: TrainingSamples | None
    unreadable: Unreadable
    """Real images that training could not read."""

    planned: EvaluationPlan
    """Sets for the evaluation after training."""

    notes: list[str]
    """Notes to the user before the job starts."""


def prepare(config: JobConfig) -> Prepared:
    """Return the job, checked as far as possible without a cluster."""
    if config.checkpoint:
        raise ValueError(
            f"checkpoint is '{config.checkpoint}', but training does not read it. Continue a run with output=FOLDER "
            "resume=true, or evaluate the checkpoint with figment evaluate."
        )
    run_dir = resolve(config.output)
    recipe = config.opened_recipe
    check_architecture(config.training.architecture)
    check_sizes(config.training.architecture, crop_sizes(config.training, recipe.image_size))
    num_classes = recipe.label_space.num_classes
    check_reservoir(config.training, array_size(config, recipe), num_classes)
    check_loggers(config.training)
    if config.data.source == "stream":
        check_scorer(recipe)
    config.evaluation.check_step(config.training.global_batch_size)
    planned = plan(config.evaluation, recipe.label_space)
    trained_size = config.training.crop_size or recipe.image_size
    check_evaluation(planned, config.evaluation, run_dir, crop_of(trained_size), config.training.architecture)
    unreadable = unreadable_in(run_dir, config.training)
    real = real_samples(config, recipe, config.training.seed, unreadable)
    notes = [
        *(check_recipe(recipe, config.recipe) if config.data.source == "stream" else ()),
        *predicted(config, recipe),
    ]
    source = open_source(config, recipe, unreadable)
    if note := reservoir_memory_warning(config.training, array_size(config, recipe), num_classes, source.num_images):
        notes.append(note)
    job = Prepared(config, recipe, run_dir, source, real, unreadable, planned, notes)
    return dataclasses.replace(job, notes=[*check_resumed(job), *notes]) if config.resume else job


def predicted(config: JobConfig, recipe: Recipe) -> list[str]:
    """Return a line with the prediction from the settings' rates, if any are set; ValueError if one is missing."""
    prediction = predict_if_given(config, recipe)
    if prediction is None:
        return []
    first, whole = prediction.time_to_first_batch_seconds, prediction.wall_seconds
    return [f"predicted: first batch at {first:.1f} s, end at {whole:.1f} s; {prediction.binding_side} binds"]


def check_resumed(job: Prepared) -> list[str]:
    """Return notes on the checkpoint that the run resumes from; ValueError if it cannot be resumed."""
    check_unfinished(job.run_dir, job.recipe)
    path, checkpoint, problems = newest_readable(job.run_dir / CHECKPOINTS)
    if path is None:
        return ["the run has no checkpoint yet and starts from the beginning"]
    if isinstance(job.source, StoredSource):
        job.source.limit_passes(checkpoint["run"]["sets"][SET_SIZE])
    sets = sets_of(job.source.num_images, job.source.names_hash, job.real)
    check_resumable(checkpoint, job.recipe, job.config.training, sets)
    return [*problems, f"resuming from {path.name}"]


def use_pool(job: Prepared, pool: GenerationService | None) -> None:
    """Let the job use a running pool of its recipe, if it generates; Ray Train waits for its workers' nodes."""
    if isinstance(job.source, StreamSource) and pool is not None:
        job.source.use(pool)


@contextmanager
def drawing_samples(job: Prepared) -> Iterator[None]:
    """Write samples.png with the first samples in a thread while the body runs, unless it exists. Re-raises errors."""
    sheet = job.run_dir / SAMPLES
    with ThreadPoolExecutor(max_workers=1) as thread:
        written = None if sheet.exists() else thread.submit(draw_samples, job.recipe, job.source, sheet)
        yield
    if written:
        written.result()


def draw_samples(recipe: Recipe, source: Source, sheet: Path) -> None:
    """Write a sheet of the first samples of a source that has generated samples."""
    samples = source.first_samples(NUM_SAMPLES_ON_SHEET)
    if samples is not None:
        write_whole(sheet, lambda file: write_contact_sheet(file, recipe, samples))


def stages_of(config: JobConfig) -> list[list[Demand]]:
    """Return the resources of each stage: training beside a pool, then evaluation."""
    wait_seconds, evaluation = config.generation.wait_for_nodes_seconds, config.evaluation
    generation = [generation_demand(config.generation)] if config.data.source == "stream" else []
    return [
        [*generation, training_demand(config.training, wait_seconds)],
        [evaluation_demand(evaluation, wait_seconds)] if evaluation.sets or evaluation.transfer else [],
    ]


@dataclass(frozen=True)
class Trained:
    """What is known of a run whose training is over."""

    progress: RunProgress
    """The last snapshot."""

    advice: str
    """Scaling advice for the whole run."""

    scores: ScoreCounts
    """Of the recipe's check, with images."""


def train(job: Prepared, pool: GenerationService | None, *listeners: Callable[[TrainingProgress], Any]) -> Trained:
    """Train on all samples with monitoring; a listener that returns True at an epoch's end ends the run there.

    The pool, if any, is the one of the job's source.
    """
    training, adviser, missing = job.config.training, Adviser(job.config, announce), OverdueActors(job.config, announce)
    announce(f"{job.source.describe()}; writing to {job.run_dir}")
    if not (job.run_dir / "recipe.json").exists():
        write_anew(job.run_dir / "recipe.json", recipe_file_text(job.recipe))
    exporter = Exporter(run_name(job.run_dir), job.recipe.sha256[:12])
    spent = SpentFile(job.run_dir / SPENT_FILE, job.config)
    line = ProgressLine(training)
    scores = pool.scores if pool else ScoreCounts
    page = RunPage(job.run_dir, job.config, job.recipe, adviser.run_advice, scores)
    others = (exporter.observe, adviser.observe, missing.observe, spent.observe, page.observe)
    with RunMonitor(pool, Observer(line.observe, line.close), *map(Observer, others)) as monitor:
        fit_job = FitJob(
            training,
            job.recipe,
            job.run_dir,
            job.source.samples(),
            job.real,
            (*listeners_of(pool), monitor.report, *listeners),
            keep_every_images=job.config.evaluation.every_images,
        )
        fit(fit_job, job.source.held_out())
    advice = adviser.run_advice()
    for text in (f"the whole run: {advice}", *job.unreadable.report_lines()):
        announce(text)
    last = monitor.last()
    return Trained(last, advice, last_scores(pool) or last.counts.scores)


def last_scores(pool: GenerationService | None) -> ScoreCounts | None:
    """Return the scores of a pool, with images; None if it has ended, which must not fail a trained run."""
    try:
        return pool.scores() if pool else None
    except (GenerationFailedError, RayError):
        return None


def keep(job: Prepared) -> None:
    """Keep the newest checkpoint as the run's, unless that is done."""
    if not (job.run_dir / CHECKPOINT).exists():
        keep_checkpoint(checkpoint_files(job.run_dir / CHECKPOINTS)[0], job.run_dir)


def write_data_card(job: Prepared) -> None:
    """Write the card of the data set that the run has stored, if any."""
    if isinstance(job.source, StreamSource) and job.source.sets:
        write_card(job.source.sets)


def evaluate(job: Prepared) -> Evaluation | None:
    """Evaluate the kept checkpoint on the real images of the settings, if any."""
    if not (job.planned.sets or job.planned.transfers):
        return None
    return write_evaluation(open_model(job.run_dir / CHECKPOINT), job.planned, job.config)


def summary_of(job: Prepared, trained: Trained, evaluation: Evaluation | None, started_at: float) -> dict[str, Any]:
    """Return the content of summary.json."""
    return summarize(job.config, job.recipe, trained.progress, evaluation, started_at) | {
        "num_unreadable": len(job.unreadable.names()),
        "advice": trained.advice,
        MEAN_SCORES: trained.scores.means(),
    }


def finish(job: Prepared, summary: dict[str, Any], evaluation: Evaluation | None, scores: ScoreCounts) -> None:
    """Write the summary and the run's last page; `scores` are those of the recipe's check."""
    write_json(job.run_dir / SUMMARY, summary)
    write_last_page(job.run_dir, job.config, job.recipe, scores, summary, evaluation)
