"""Evaluate a classifier on real images: `python -m ray_jobs.evaluate CONFIG checkpoint=FILE [section.key=value]`.

Writes a new folder beside the checkpoint: `evaluation.json`, `evaluation.csv` and `report.html`. The classifier's
outputs are cached, so a stopped job continues where it ended when it is started again.

If `checkpoint` is a run's folder, each checkpoint stored by `evaluation.every_images` is evaluated on
`evaluation.sets`, also while the run is still training. The result is a folder `curve` with accuracy over images and
device time.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("evaluate")

import dataclasses
from pathlib import Path

from evaluation.evaluate import EvaluationPlan, evaluate
from evaluation.inference.external_models import is_external, open_external
from evaluation.inference.trained_model import EvaluatedModel, open_model
from evaluation.result import SetResult
from generation.recipes.recipe import find_label_space
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.run_folder import resolve
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.room import check_placement, evaluation_demand, wait_for_resources
from ray_jobs.job.evaluation import (
    RESUME_HINT,
    check_evaluation,
    open_checkpoint,
    outputs_folder,
    plan,
    write_evaluation,
)
from ray_jobs.reports.accuracy_curve import first_kept, follow


def main(config: JobConfig) -> None:
    """Run the command: evaluate a checkpoint on real images, or each kept checkpoint of a run."""
    with user_errors():
        if not (config.evaluation.sets or config.evaluation.transfer):
            raise ValueError(
                "evaluation.sets and evaluation.transfer are empty: there is nothing to evaluate on. Add "
                "evaluation.sets=NAME."
            )
        run_dir = folder_of_run(config)
        model = open_model(first_kept(run_dir)) if run_dir else open_classifier(config)
        planned = plan(config.evaluation, model.label_space)
        check_evaluation(planned, config.evaluation, model.run_dir, model.crop, model.facts["architecture"])
        connect()
        check_placement([evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds)])
    with user_errors(RESUME_HINT, model.run_dir):
        if run_dir:
            folder = follow(run_dir, lambda kept: sets_of(kept, planned, config), announce)
            print(f"Everything is in {folder}")
        else:
            write_evaluation(model, planned, config)


def folder_of_run(config: JobConfig) -> Path | None:
    """Return the run's folder if `checkpoint` is one, else None; ValueError if there are no sets to evaluate it on."""
    if not config.checkpoint or is_external(config.checkpoint):
        return None
    place = resolve(config.checkpoint)
    if not place.is_dir():
        return None
    if not config.evaluation.sets:
        raise ValueError(f"'{place}' is a run's folder, and evaluation.sets is empty. Add evaluation.sets=NAME.")
    return place


def sets_of(model: EvaluatedModel, planned: EvaluationPlan, config: JobConfig) -> dict[str, SetResult]:
    """Return the results of one of a run's checkpoints on the sets."""
    wait_for_resources(evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds))
    evaluation = dataclasses.replace(config.evaluation, representation=False)
    outputs = outputs_folder(evaluation, model.run_dir)
    return evaluate(model, EvaluationPlan(planned.sets, []), evaluation, outputs, announce)["sets"]


def open_classifier(config: JobConfig) -> EvaluatedModel:
    """Return the classifier in `checkpoint`: one of a run, or an external one."""
    if not is_external(config.checkpoint):
        return open_checkpoint(config.checkpoint)
    found = config.checkpoint if ":" in config.checkpoint else str(resolve(config.checkpoint))
    run_dir = resolve(config.output)
    return open_external(found, config.training, find_label_space(config.recipe.label_space), run_dir)
