"""The pool of generator actors: a Ray Serve deployment that loads each model once and outlives epochs and restarts.

It knows indices and samples; it does not know who asks. Demand is what the stream asks for, and how long a trainer says
that it waits: see `generation.pool.sizing`.
"""

import logging
import os
import pickle
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray import cloudpickle, serve
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from generation.config import GenerationConfig
from generation.engine.generator import GenerationFailedError
from generation.pool import own_code, serve_controller
from generation.pool.keeper import GenerationCounts, PoolKeeper
from generation.pool.policy import KeeperPolicy, kill_actors
from generation.pool.serve_controller import ControllerSilentError
from generation.pool.sizing import TrainerTimes
from generation.recipes.model_files import DRIVERS_FOLDER, HUB_SETTINGS
from generation.recipes.recipe import Recipe

cloudpickle.register_pickle_by_value(own_code)

logger = logging.getLogger(__name__)

DEPLOYMENT = "GeneratorActor"
COMING = ("STARTING", "RECOVERING")
"""States of Serve's in which an actor is not up yet."""

STATUS_POLL_SECONDS = 0.2
REQUESTS_PER_ACTOR = 4
"""Requests under way for each actor, and the most that one takes on, in the order in which they come: one at its
device, one waiting beside it, two that have come.

Serve knows only roughly how much each actor has to do. With room for more, some would have twice as many as others,
whose devices then stand still while answers are awaited in their order. A second stream finds its place beside one that
has all: it got three tenths of four actors, as with room for 8.
"""

MAX_LOAD_ERRORS = 3
"""A pool of which no actor is up is given up when so many could not load their model; a smaller one for each's."""

WARN_AFTER_SECONDS = 15.0
"""A wait for actors or for nodes that is longer is told."""

LONGEST_STOP_SECONDS = 60.0
"""How long the end of a pool is waited for."""

LONGEST_LAST_BATCH_SECONDS = 120.0
"""An actor that is given back may take so long to finish what it was asked for, and one that has no place yet stays in
the queue for as long; the end of a pool waits for neither, and Ray leaves a node that gets a SIGTERM 30 s.
"""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Serve's own log, which otherwise has a line for each batch."""


@dataclass(frozen=True)
class GenerationService:
    """A running pool, seen from any process of the cluster."""

    app_name: str
    handle: DeploymentHandle
    keeper: ActorHandle

    def request(self, indices: Sequence[int]) -> DeploymentResponse:
        """Ask for the samples of these indices; whichever actor is free answers."""
        return cast(DeploymentResponse, self.handle.generate.remote(indices))

    def counts(self) -> GenerationCounts:
        """Return what the pool has done so far; GenerationFailedError if its keeper is gone, and so the pool."""
        try:
            return cast(GenerationCounts, ray.get(self.keeper.snapshot.remote()))
        except ActorUnavailableError:
            raise
        except (OutOfMemoryError, RayActorError) as error:
            lost_by = (
                "Ray's memory monitor ended it" if isinstance(error, OutOfMemoryError) else "its process has ended"
            )
            raise GenerationFailedError(
                f"The keeper of the pool '{self.app_name}', an actor on the node of this job's driver, is gone: "
                f"{lost_by}. The pool ends with it. Give that node more memory, or less other work."
            ) from error

    def report_trainer(self, trainer: TrainerTimes) -> None:
        """Take, once a second or so, how a trainer's time goes by: from now on the pool's size follows that."""
        self.keeper.report_trainer.remote(trainer)

    def batch_size(self) -> int:
        """Return how many samples to ask for at once: as many as the actor with the largest batches makes."""
        return max(self.counts().batch_sizes.values())

    def common_batch_size(self) -> int:
        """Return how many samples each actor makes in one go: asked for so many, all make them alike, to the bit."""
        return min(self.counts().batch_sizes.values())

    def check_batch_size(self, batch_size: int) -> None:
        """Raise GenerationFailedError if an actor cannot make so many any more: the memory of its device ran out."""
        if (common := self.common_batch_size()) < batch_size:
            raise GenerationFailedError(
                f"An actor has memory for {common} images at once, and those kept are made {batch_size} at once, which "
                "decides their last bits. Give it more memory, or make all anew in another place with "
                f"generation.batch_size={common}."
            )

    def num_loaded(self) -> int:
        """Return how many models were loaded, by the actors' own word: Serve's controller need not answer."""
        return self.counts().num_loads.total()

    def num_actors(self) -> int:
        """Return how many actors are up, their models loaded."""
        return _num_in(self._status(), "RUNNING")

    def num_awaited(self) -> int:
        """Return how many more are to come: their nodes are not there yet, or their models not loaded."""
        return _num_in(self._status(), *COMING)

    def raise_if_failed(self) -> None:
        """Raise GenerationFailedError with the actor's own message if no actor is up, nor any may come to be.

        Of several actors one may have a bad GPU, on which Serve tries again and again: that says nothing as long as
        another one loads its model. A start is given up for what all failed with, and a pool that was up after a few.
        """
        status, counts = self._status(), self.counts()
        if _num_in(status, "RUNNING") or counts.loading:
            return
        num_coming = max(1, _num_in(status, *COMING))
        fewest_errors = MAX_LOAD_ERRORS if counts.num_loads else min(MAX_LOAD_ERRORS, num_coming)
        if len(counts.load_errors) >= fewest_errors:
            raise GenerationFailedError(counts.load_errors[-1])
        if status.status == ApplicationStatus.DEPLOY_FAILED and not counts.num_loads:
            raise GenerationFailedError(f"No generator actor could start: {_messages(status)}")

    def wait_until_running(self, num_actors: int, timeout_seconds: float) -> None:
        """Return when so many actors are up, or after the timeout if any is: the others may come later.

        Raises GenerationFailedError when none can be up, or is after the timeout.
        """
        began_at, is_said = time.monotonic(), False
        while (num_up := self._num_up_or_failed()) < num_actors:
            seconds = time.monotonic() - began_at
            if seconds > timeout_seconds:
                break
            if seconds > WARN_AFTER_SECONDS and not is_said:
                is_said = True
                logger.warning("Waiting up to %g s for %d generator actors.", timeout_seconds, num_actors)
            time.sleep(STATUS_POLL_SECONDS)
        else:
            return
        if not num_up:
            try:
                described = _messages(self._status())
            except ControllerSilentError as error:
                described = str(error)
            raise GenerationFailedError(
                f"No generator actor was up after {timeout_seconds:g} s: {described.rstrip('.')}. Has the "
                "cluster such nodes? If they only take their time, raise generation.wait_for_nodes_seconds, or "
                "start_timeout_seconds where it is the model that does."
            )
        logger.warning(
            "%d of %d generator actors are up after %g s: the job goes on with what there is, and the others join it "
            "if they come. %s",
            *(num_up, num_actors, timeout_seconds),
            " ".join(self.counts().load_errors[-1:]),
        )

    def _num_up_or_failed(self) -> int:
        """Return how many actors are up, 0 where that cannot be seen; raises as `raise_if_failed` does."""
        try:
            if not (num_up := self.num_actors()):
                self.raise_if_failed()
            return num_up
        except ControllerSilentError:
            return 0

    def _status(self) -> ApplicationStatusOverview:
        overview = serve_controller.applications().get(self.app_name)
        if overview is None:
            raise GenerationFailedError(f"The generation service '{self.app_name}' has been stopped.")
        return overview

    def stop(self) -> None:
        """End this pool and no other; its devices are free afterwards. Nobody waits for batches under way."""
        self.handle.shutdown()  # its thread would go on reporting to Serve, and log a trace once Ray is gone
        stop_pool(self.app_name, self.keeper)

    def __enter__(self) -> "GenerationService":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_generation(recipe: Recipe, config: GenerationConfig) -> GenerationService:
    """Start a pool on the cluster this process is connected to and return when its models are loaded.

    Of a pool that may shrink the least number is waited for, of another one all. Raises GenerationFailedError, with the
    pool stopped again, if a model cannot be loaded or the start takes too long.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it warns of each actor that is slow while it starts
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    app_name = f"generation-{ray.get_runtime_context().get_job_id()}-{recipe.sha256[:8]}"
    keeper_name, namespace = f"{app_name}-keeper", ray.get_runtime_context().namespace
    options = PoolKeeper.options(name=keeper_name, scheduling_strategy=beside_driver())
    keeper = cast(ActorHandle, options.remote(config))
    runtime_env = dict(ray.get_runtime_context().runtime_env)
    of_models = {name: os.environ[name] for name in HUB_SETTINGS if name in os.environ} | {DRIVERS_FOLDER: os.getcwd()}
    runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **of_models}
    deployment = serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options={
            "num_gpus": config.gpus_per_actor,
            "num_cpus": config.cpus_per_actor,
            "label_selector": config.label_selector,
            "runtime_env": runtime_env,
        },
        max_ongoing_requests=REQUESTS_PER_ACTOR,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=LONGEST_LAST_BATCH_SECONDS,
        autoscaling_config=_autoscaling(config, {"name": keeper_name, "namespace": namespace}),
    )
    code = own_code.code_of_driver(runtime_env)
    app = deployment(own_code.OwnCodeReplica).bind(code, keeper, pickle.dumps((recipe, config)))
    target = serve.RunTarget(app, name=app_name, route_prefix=None, logging_config=QUIET)
    with ExitStack() as undo:
        undo.callback(stop_pool, app_name, keeper)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        undo.callback(handle.shutdown)
        service = GenerationService(app_name, handle, keeper)
        service.wait_until_running(max(1, config.min_actors), config.longest_start_seconds)
        undo.pop_all()
    return service


def stop_pool(app_name: str, keeper: ActorHandle) -> None:
    """End a pool, up or not: neither batches under way nor actors that have no place yet are waited for.

    A controller of Serve that stands still is waited for a while; its actors are ended without it, and it ends the pool
    once it goes on, since the keeper is gone.
    """
    give_up_at = time.monotonic() + LONGEST_STOP_SECONDS
    try:
        serve_controller.delete(app_name)
        while app_name in serve_controller.applications() and time.monotonic() < give_up_at:
            kill_actors(app_name)
            time.sleep(STATUS_POLL_SECONDS)
    except ControllerSilentError as error:
        logger.warning("%s The pool's actors are ended without it.", error)
        kill_actors(app_name)
    ray.kill(keeper)


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Place an actor on this process's own node: another node may be lost, and the job goes on."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _autoscaling(config: GenerationConfig, keeper: dict[str, str]) -> dict[str, Any]:
    """Return Serve's settings of a pool's size; one that stays the same has a policy too, which ends it."""
    return {
        "min_replicas": config.min_actors,
        "initial_replicas": config.num_initial_actors,
        "max_replicas": config.max_actors,
        "policy": {"policy_function": KeeperPolicy, "policy_kwargs": keeper},
        "metrics_interval_s": 1,
        "look_back_period_s": 2,
        "upscale_delay_s": 0,  # the keeper knows when
        "downscale_delay_s": 0,
    }


def _num_in(status: ApplicationStatusOverview, *states: str) -> int:
    """Return how many actors are in one of these states."""
    deployment = status.deployments.get(DEPLOYMENT)
    num_by_state = {} if deployment is None else cast(dict[str, int], deployment.replica_states)
    return sum(num_by_state.get(state, 0) for state in states)


def _messages(status: ApplicationStatusOverview) -> str:
    """Return Serve's own words on one line."""
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    return " ".join(" ".join(messages).split())
