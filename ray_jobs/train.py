"""Train a classifier on images generated on the fly: `python -m ray_jobs.train CONFIG [section.key=value ...]`."""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("train")

from contextlib import ExitStack

from evaluation.result import Evaluation
from ray_jobs.cli.announce import STARTED_AT, announce
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.run_folder import CHECKPOINT, undo_on_error, unlock
from ray_jobs.experiments.run import (
    drawing_samples,
    evaluate,
    finish,
    keep,
    prepare,
    stages_of,
    summary_of,
    train,
    write_data_card,
)
from ray_jobs.job.command import begin
from ray_jobs.reports.summary import print_summary


def main(config: JobConfig) -> None:
    """Run the command: start generation, train, evaluate, and write a summary."""
    with user_errors():
        job = prepare(config)
        announce(f"recipe {job.recipe.sha256[:12]}: {config.training.num_samples:,} images to train on")
        for note in job.notes:
            announce(note)
        run_lock = begin(config, *stages_of(config), resume=config.resume)
        with undo_on_error(run_lock):
            pool = job.source.start()
    run_dir = job.run_dir
    with ExitStack() as pool_up:
        if pool:
            pool_up.enter_context(pool)
        with errors_at_work(
            f"Checkpoints are in {run_dir}; run the same command with resume=true to continue.", run_dir
        ):
            announce("training starts; samples.png will show the first samples if they are generated")
            with drawing_samples(job):
                trained = train(job, pool)
        with errors_at_work(f"The run is trained but not evaluated: {run_dir / CHECKPOINT}", run_dir):
            keep(job)
            pool_up.close()  # evaluation may need its devices
            evaluation: Evaluation | None = None
            try:
                with user_errors(folder=run_dir):
                    write_data_card(job)
                    evaluation = evaluate(job)
            finally:  # summarize the training even if the evaluation fails
                summary = summary_of(job, trained, evaluation, STARTED_AT)
                print_summary(summary)
                finish(job, summary, evaluation, trained.scores)
                unlock(run_lock)
    print(f"Everything is in {run_dir}")
