"""Run an experiment: `python -m ray_jobs.experiment CONFIG [section.key=value ...]`.

Trains and evaluates each arm with each seed as an ordinary run, in a folder of its own. Runs of the same recipe and
generation settings share one pool of generators, and train at once as far as the cluster has room.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("experiment")

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

from ray.exceptions import RayError

from generation.engine.scores import ScoreCounts
from generation.pool.service import GenerationService
from generation.pool.shared_batches import shared
from generation.pool.sharing import SharingCounts
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import to_yaml
from ray_jobs.cli.errors import errors_at_work, one_line, user_errors
from ray_jobs.cli.experiment_config import ExperimentConfig, Learner, comparisons, group_of, learners
from ray_jobs.cli.run_folder import check_begun, lock_run_folder, resolve, unlock, write_anew
from ray_jobs.cli.termination import TERMINATION
from ray_jobs.cluster.placement import Demand
from ray_jobs.experiments.learners import rungs_of, train_learners
from ray_jobs.experiments.rate import images_per_device_second
from ray_jobs.experiments.run import SAMPLES, SUMMARY, Prepared, evaluate, finish, keep, last_scores, prepare, stages_of
from ray_jobs.experiments.trial import STOPPED_EARLY, TRAINED
from ray_jobs.job.command import begin
from ray_jobs.job.source import StreamSource, start_pool
from ray_jobs.job.tables import print_table
from ray_jobs.reports.experiment import write_experiment
from ray_jobs.reports.experiment_results import LearnerRecord, Status
from ray_jobs.reports.summary import accuracies

RATES = "rates.json"
"""File with the measured images per second of a generator device by arm, for a budget in device time."""


def main(config: ExperimentConfig) -> None:
    """Compose the job: all runs, checked; each group on its pool; results."""
    with user_errors():
        experiment = Experiment(config, resolve(config.output))
        experiment.check()
        run_lock = begin(config, *experiment.stages(), resume=config.resume)
    run_dir = experiment.run_dir
    with errors_at_work(f"Finished runs are in {run_dir}; run the same command with resume=true to continue.", run_dir):
        for group in experiment.groups():
            experiment.run_group(group)
        records = experiment.records()
        write_experiment(run_dir, config, records, comparisons(config))
        print_results(records)
        unlock(run_lock)
    print(f"Everything is in {run_dir}: report.html, results.json, arms.csv, figures")
    if experiment.errors:
        sys.exit(1)


class Experiment:
    """The runs of an experiment, and what is done of each: nothing, begun, trained, or finished."""

    def __init__(self, config: ExperimentConfig, run_dir: Path) -> None:
        rates = run_dir / RATES
        self.config, self.run_dir = config, run_dir
        self.rates: dict[str, float] = json.loads(rates.read_text()) if rates.is_file() else {}
        self.learners = {learner.name: learner for learner in learners(config, self.rates)}
        self.jobs: dict[str, Prepared] = {}
        """The prepared jobs of learners that are not finished."""

        self.scores: dict[str, ScoreCounts] = {}
        """Of the pools that this job has started, by learner."""

        self.errors: dict[str, str] = {}
        """Of learners that failed, by name."""

    def check(self) -> None:
        """Prepare all runs that are left; ValueError if one cannot work."""
        if self.config.resume:
            check_begun(self.run_dir)
        self._prepare(self.learners)
        num_arms = len({learner.arm for learner in self.learners.values()})
        announce(f"{len(self.learners)} runs of {num_arms} arms, of which {len(self.jobs)} are left to do")
        for note in dict.fromkeys(note for job in self.jobs.values() for note in job.notes):
            announce(note)

    def _prepare(self, names: Iterable[str]) -> None:
        for name in names:
            folder = self.folder(name)
            if not (folder / SUMMARY).exists():
                is_begun = (folder / "recipe.json").exists() and not (folder / TRAINED).exists()
                try:
                    self.jobs[name] = prepare(dataclasses.replace(self.learners[name].config, resume=is_begun))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error

    def folder(self, name: str) -> Path:
        """Return a run's folder."""
        return resolve(self.learners[name].config.output)

    def stages(self) -> list[list[Demand]]:
        """Return the resources of all stages of the runs that are left."""
        return [stage for job in self.jobs.values() for stage in stages_of(job.config)]

    def groups(self) -> list[list[str]]:
        """Return the names of the runs that are left, by group."""
        found: dict[str, list[str]] = {}
        for name in self.jobs:
            found.setdefault(group_of(self.learners[name].config), []).append(name)
        return list(found.values())

    def run_group(self, names: Sequence[str]) -> None:
        """Train and evaluate the runs of a group; their errors do not end the experiment."""
        if to_train := [name for name in names if not (self.folder(name) / TRAINED).exists()]:
            try:
                self._train(to_train)
            except Exception as error:  # of their pool
                if TERMINATION.has_begun:
                    raise
                for name in to_train:
                    if name not in self.errors and not (self.folder(name) / TRAINED).exists():
                        self._fail(name, error)
        for name in names:
            if (self.folder(name) / TRAINED).exists():
                self._evaluate(self.jobs[name], name)

    def _train(self, names: Sequence[str]) -> None:
        """Train runs on a pool of their own."""
        source = self.jobs[names[0]].source
        announce(f"training {len(names)} runs of recipe {self.jobs[names[0]].recipe.sha256[:12]}")
        is_streamed = isinstance(source, StreamSource)
        pool = start_pool(source.recipe, source.config.generation, source.config.training) if is_streamed else None
        with pool or nullcontext(), ExitStack() as locked:
            if pool and self.config.budget.is_measured:
                self._set_budget(names, pool)
            jobs = {name: self.jobs[name] for name in names if name not in self.errors}
            if not jobs:
                return
            for job in jobs.values():
                is_begun = (job.run_dir / "config.yaml").exists()
                locked.callback(unlock, lock_run_folder(job.run_dir, to_yaml(job.config), is_begun))
            rungs = rungs_of(self.config.stopping, self._group(names[0]))
            with (
                shared(pool, self.jobs[names[0]].recipe, self.config.sharing) if pool else nullcontext() as shared_pool
            ):
                self.errors |= train_learners(jobs, shared_pool, rungs)
                if shared_pool:
                    with suppress(RayError):  # the process that shares images is lost, after training
                        announce(sharing_line(shared_pool.counts()))
            if pool:
                self.scores |= dict.fromkeys(names, last_scores(pool) or ScoreCounts())
                share_sheet([job.run_dir / SAMPLES for job in jobs.values()])

    def _set_budget(self, names: Sequence[str], pool: GenerationService) -> None:
        """Set the number of images of a group's runs, from the rate of its devices. Arms that get too few fail."""
        known = [self.rates[each.arm] for each in self._group(names[0]) if each.arm in self.rates]
        if not known:
            known = [images_per_device_second(pool, self.jobs[names[0]].config.generation)]
            announce(f"a generator device makes {known[0]:.4g} images/s")
        for arm in dict.fromkeys(self.learners[name].arm for name in names):
            of_arm = [name for name in names if self.learners[name].arm == arm]
            rates = {arm: known[0]} | self.rates
            try:
                self.learners = {learner.name: learner for learner in learners(self.config, rates)}
                self._prepare(of_arm)
                self.rates = rates
            except ValueError as error:
                for name in of_arm:
                    self._fail(name, error)
        write_anew(self.run_dir / RATES, json.dumps(self.rates, indent=2) + "\n")

    def _group(self, name: str) -> list[Learner]:
        """Return all runs of a run's group, also those that are finished."""
        group = group_of(self.learners[name].config)
        return [each for each in self.learners.values() if group_of(each.config) == group]

    def _evaluate(self, job: Prepared, name: str) -> None:
        """Evaluate a trained run, and write its summary and last page."""
        try:
            keep(job)
            evaluation = evaluate(job)
            summary = json.loads((job.run_dir / TRAINED).read_text()) | accuracies(evaluation)
            finish(job, summary, evaluation, self.scores.get(name, ScoreCounts()))
            (job.run_dir / TRAINED).unlink()
        except Exception as error:
            if TERMINATION.has_begun:
                raise
            self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        self.errors[name] = one_line(error, self.folder(name))
        announce(f"{name} failed: {self.errors[name]}")

    def records(self) -> list[LearnerRecord]:
        """Return what results are made of: arm, seed, folder, status, overrides and summary of each run."""
        return [self._record(name, learner) for name, learner in self.learners.items()]

    def _record(self, name: str, learner: Learner) -> LearnerRecord:
        path = self.folder(name) / SUMMARY
        status: Status = "failed"
        summary = json.loads(path.read_text()) if path.exists() else None
        if summary:
            status = "stopped early" if summary.get(STOPPED_EARLY) else "finished"
        folder = str(path.parent.relative_to(self.run_dir))
        return LearnerRecord(learner.arm, learner.seed, folder, status, learner.overrides, summary)


def sharing_line(counts: SharingCounts) -> str:
    """Return what a group's runs shared, as text."""
    per_distinct = counts.num_made / max(1, counts.num_distinct)
    waited = max(counts.waiting_seconds.values(), default=0.0)
    return f"images made per distinct image: {per_distinct:.3f}; a run waited for others for {waited:.0f} s at most"


def share_sheet(sheets: Sequence[Path]) -> None:
    """Copy the first run's sheet of samples to the others of its recipe that have none."""
    for sheet in sheets[1:]:
        if sheets[0].exists() and sheet.parent.exists() and not sheet.exists():
            shutil.copyfile(sheets[0], sheet)


def print_results(records: Sequence[LearnerRecord]) -> None:
    """Print a row per run."""
    rows = []
    for record in records:
        top1 = [record.summary[key] if record.summary else None for key in ("top1", "held_out_top1")]
        rows.append([record.arm, str(record.seed), record.status, *map(as_percent, top1)])
    print_table("Runs", ("arm", "seed", "status", "top-1", "held-out top-1"), rows, text=("arm", "status"))


def as_percent(fraction: float | None) -> str:
    """Return a fraction in percent, `-` for None."""
    return "-" if fraction is None else f"{fraction:.2%}"
