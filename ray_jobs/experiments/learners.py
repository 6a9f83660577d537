"""Trains the learners of a group by Ray Tune, as many at once as the cluster holds beside their pool."""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from generation.pool.service import GenerationService, beside_driver
from generation.pool.shared_batches import SharedPool
from ray_jobs.cli.announce import announce
from ray_jobs.cli.experiment_config import Learner, StoppingConfig, group_of
from ray_jobs.cli.run_folder import resolve
from ray_jobs.cluster.placement import place
from ray_jobs.cluster.room import generation_demand, nodes_alive, training_demand
from ray_jobs.experiments.run import Prepared
from ray_jobs.experiments.trial import Assignment, EpochReports, run_trial
from ray_jobs.monitor.spent import SPENT_FILE, read_spent

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ray_jobs.cli.termination handles signals
}
"""Environment in which Ray Tune prints nothing and writes no logs of its own."""

SMALL = 0.001
"""Amount of its node's own resource that a trial takes, so that it runs there without a CPU."""


class Rungs:
    """Decides which learners stop early, by asynchronous successive halving of their accuracy on the same images."""

    def __init__(self, config: StoppingConfig, learners: Sequence[Learner]) -> None:
        """Start with what the learners have reported in earlier jobs."""
        num_images = max(learner.config.training.num_trained for learner in learners)
        self.asha = ASHAScheduler(
            "num_trained",
            "held_out_top1",
            "max",
            max_t=num_images,
            grace_period=min(config.first_images, num_images),
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        self.stopped: set[str] = set()
        """Learners that this job has stopped; one that was lost before it heard of it stops at its next report."""

        for learner in learners:
            self.asha.on_trial_add(cast(Any, None), trial_of(learner.name))
            rows = read_spent(resolve(learner.config.output) / SPENT_FILE)
            ends = {row.epoch: row for row in reversed(rows) if row.held_out_top1 is not None}
            for epoch in sorted(ends):
                self._is_worse(learner.name, dataclasses.asdict(ends[epoch]))

    def stops(self, name: str, report: Mapping[str, Any]) -> bool:
        """Return whether a learner is to stop after this report."""
        if self._is_worse(name, report):
            self.stopped.add(name)
        return name in self.stopped

    def _is_worse(self, name: str, report: Mapping[str, Any]) -> bool:
        return self.asha.on_trial_result(cast(Any, None), trial_of(name), dict(report)) == TrialScheduler.STOP


def rungs_of(config: StoppingConfig, learners: Sequence[Learner]) -> dict[str, Rungs]:
    """Return the rungs of each learner by name: those with the same held-out images share them; empty if none stop."""
    found: dict[str, list[Learner]] = {}
    for learner in learners if config.reduction else ():
        data = learner.config.data
        images = f"{group_of(learner.config)} {data.source} {data.shards} {data.real}"
        found.setdefault(images, []).append(learner)
    shared = [(alike, Rungs(config, alike)) for alike in found.values()]
    return {learner.name: rungs for alike, rungs in shared for learner in alike}


def trial_of(name: str) -> Any:
    """Return a stand-in for a trial, whose name is the same after a restart."""
    return SimpleNamespace(trial_id=name)


class Watch(FIFOScheduler):
    """Prints the learners' epochs, answers their reports, and records their errors. Learners end themselves.

    So one that is stopped early has its checkpoint, and is evaluated like the others.
    """

    def __init__(
        self,
        jobs: Mapping[str, Prepared],
        clients: Mapping[str, GenerationService],
        rungs: Mapping[str, Rungs],
        reports: ActorHandle,
    ) -> None:
        super().__init__()
        self.jobs, self.clients, self.rungs, self.reports = list(jobs.items()), clients, rungs, reports
        self.errors: dict[str, str] = {}
        """Of learners that failed, by name."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide about a learner at the end of an epoch, or record its end."""
        name, job = self.jobs[trial.config["learner"]]
        if "error" not in result:
            is_stopped = name in self.rungs and self.rungs[name].stops(name, result)
            self.reports.decide.remote(name, result["epoch"], is_stopped)
            epochs = f"epoch {result['epoch']} of {job.config.training.num_epochs}"
            stopped = "; stopped early" if is_stopped else ""
            announce(f"{name}: {epochs}, held-out top-1 {result['held_out_top1']:.4f}{stopped}")
        else:
            self._end(name, result["error"])
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Record the loss of a trial's process."""
        self._end(self.jobs[trial.config["learner"]][0], "Its trial, an actor on the driver's node, was lost.")

    def _end(self, name: str, error: str) -> None:
        """Let the others no longer wait for a learner, and record its error if there is one."""
        if name in self.clients:
            self.clients[name].stop()
        if error:
            self.errors[name] = error
            announce(f"{name} failed: {error}")


def train_learners(jobs: Mapping[str, Prepared], pool: SharedPool | None, rungs: Mapping[str, Rungs]) -> dict[str, str]:
    """Train learners by name on a pool that they share; return the errors of those that failed."""
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it warns of the logs that it does not write
    reports = cast(ActorHandle, EpochReports.options(scheduling_strategy=beside_driver()).remote())
    num_started = num_at_once(list(jobs.values()))
    clients = clients_of(pool, jobs, num_started) if pool else {}
    learners = [
        (name, job.run_dir, ray.put(Assignment(name, job, clients.get(name), pool is None or number == 0)))
        for number, (name, job) in enumerate(jobs.items())
    ]
    trial = tune.with_parameters(run_trial, learners=learners, reports=reports)
    watch = Watch(jobs, clients, rungs, reports)
    with tempfile.TemporaryDirectory(prefix="figment-tune-") as folder:  # the runs' folders have all that is needed
        tune.Tuner(
            tune.with_resources(trial, {f"node:{ray.util.get_node_ip_address()}": SMALL}),
            param_space={"learner": tune.grid_search(list(range(len(learners))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=num_started, scheduler=watch),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    ray.kill(reports)
    return watch.errors


def clients_of(pool: SharedPool, jobs: Mapping[str, Prepared], num_started: int) -> dict[str, GenerationService]:
    """Return the learners' clients of their pool, which keeps images for the `num_started` that start at once."""
    found: dict[str, GenerationService] = {}
    for number, (name, job) in enumerate(jobs.items()):
        wanted = job.config.training.indices(job.config.data.replays) if number < num_started else ()
        found[name] = pool.learner(name, *wanted)
    return found


def num_at_once(jobs: Sequence[Prepared]) -> int:
    """Return how many learners fit on the cluster beside their pool; all of them if it adds nodes."""
    first = jobs[0].config
    wait_seconds = first.generation.wait_for_nodes_seconds
    pool = [generation_demand(first.generation)] if first.data.source == "stream" else []
    trainers = [training_demand(job.config.training, wait_seconds) for job in jobs]
    trainers.sort(key=lambda demand: demand.count * max(demand.resources.values()), reverse=True)
    for number in range(len(jobs), 1, -1):
        try:
            if not wait_seconds:
                place([*pool, *trainers[:number]], nodes_alive())
            return number
        except ValueError:
            continue
    return 1
