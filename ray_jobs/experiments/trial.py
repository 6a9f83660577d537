"""A learner as a trial of Ray Tune: an ordinary run in a process of its own. Light to import: trials hold no model."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
import ray.tune
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.cli.errors import one_line
from ray_jobs.cli.run_folder import write_anew
from training.progress import TrainingProgress

TRAINED = "trained.json"
"""File in the folder of a learner that is trained but not evaluated: its summary so far."""

STOPPED_EARLY = "stopped_early"
"""Key of the summary: whether Tune stopped the learner."""

POLL_SECONDS = 1.0
ANSWER_SECONDS = 60.0
"""How long a learner waits for Tune's decision at the end of an epoch; then it goes on."""


@ray.remote(num_cpus=0)
class EpochReports:
    """Carries the learners' reports at the ends of epochs to their trials, and Tune's decisions back."""

    def __init__(self) -> None:
        self.reports: dict[str, asyncio.Queue[TrainingProgress]] = defaultdict(asyncio.Queue)
        self.decisions: dict[tuple[str, int], asyncio.Future[bool]] = {}
        """By learner and epoch."""

    async def ask(self, learner: str, progress: TrainingProgress) -> bool:
        """Pass on a report; return whether the learner stops. A repeated report gets the answer of the first."""
        if (asked := (learner, progress.epoch)) not in self.decisions:
            self.decisions[asked] = asyncio.get_running_loop().create_future()
            await self.reports[learner].put(progress)
        return await asyncio.shield(self.decisions[asked])

    async def next(self, learner: str) -> TrainingProgress | None:
        """Return a learner's next report; None if there is none for `POLL_SECONDS`."""
        try:
            return await asyncio.wait_for(self.reports[learner].get(), POLL_SECONDS)
        except TimeoutError:
            return None

    async def decide(self, learner: str, epoch: int, is_stopped: bool) -> None:
        """Answer a learner's report."""
        self.decisions[learner, epoch].set_result(is_stopped)

    async def has_stopped(self, learner: str) -> bool:
        """Return whether a learner was told to stop."""
        return any(made.done() and made.result() for (name, _), made in self.decisions.items() if name == learner)


class AskAtEpochEnds:
    """Listener of a learner's training: returns True at the end of an epoch if Tune stops the learner."""

    def __init__(self, reports: ActorHandle, learner: str) -> None:
        self.reports, self.learner = reports, learner
        self.epoch: int | None = None

    def __call__(self, progress: TrainingProgress) -> bool:
        """Report the end of an epoch, and wait for the decision."""
        is_end = progress.held_out_top1 is not None and progress.epoch != self.epoch
        self.epoch = progress.epoch
        if not is_end:
            return False
        try:
            return cast(bool, ray.get(self.reports.ask.remote(self.learner, progress), timeout=ANSWER_SECONDS))
        except (GetTimeoutError, RayError):
            return False


@dataclass(frozen=True)
class Assignment:
    """What a learner's process needs besides its reports."""

    name: str
    job: Any
    """A `ray_jobs.experiments.run.Prepared`."""

    pool: Any
    """The learner's client of its group's pool, a `GenerationService`; None if nothing is generated."""

    draws_samples: bool
    """Whether the learner writes samples.png; one of a group is enough."""


@ray.remote(num_cpus=0)
def train_learner(assignment: Assignment, reports: ActorHandle) -> None:
    """Train as `figment train` does, on a running pool, and write `TRAINED`. A process lost is replaced by Ray."""
    from ray_jobs.experiments.run import drawing_samples, summary_of, train, use_pool, write_data_card

    began_at, job, pool = time.time(), assignment.job, assignment.pool
    use_pool(job, pool)
    with drawing_samples(job) if assignment.draws_samples else nullcontext():
        trained = train(job, pool, AskAtEpochEnds(reports, assignment.name))
    write_data_card(job)
    summary = summary_of(job, trained, None, began_at)
    is_whole = summary["num_trained"] >= job.config.training.num_trained
    summary[STOPPED_EARLY] = not is_whole and ray.get(reports.has_stopped.remote(assignment.name))
    write_anew(job.run_dir / TRAINED, json.dumps(summary, indent=2) + "\n")


def run_trial(config: dict[str, int], learners: Sequence[tuple[str, Path, ObjectRef]], reports: ActorHandle) -> None:
    """Run a learner beside this trial, and report its epochs; the last report has its error, or an empty text."""
    name, folder, assignment = learners[config["learner"]]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    running = train_learner.options(scheduling_strategy=here).remote(assignment, reports)
    while not ray.wait([running], timeout=0)[0]:
        if progress := cast(TrainingProgress | None, ray.get(reports.next.remote(name))):
            ray.tune.report({key: getattr(progress, key) for key in ("epoch", "num_trained", "held_out_top1")})
    error = ""
    try:
        ray.get(running)
    except Exception as failed:
        error = one_line(failed, folder)
    ray.tune.report({"error": error})
