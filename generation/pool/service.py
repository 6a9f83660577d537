"""The pool of generator actors: a Ray Serve deployment that loads each model once and outlives epochs and restarts.

It maps indices to samples, whoever requests them. Its size follows pending requests and the trainer's reported waiting
time: see `generation.pool.sizing`.
"""

import logging
import os
import pickle
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, cast

import ray
from ray import cloudpickle, serve
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from generation.config import GenerationConfig
from generation.engine.actor import ScorerBuilder
from generation.engine.generator import GenerationFailedError
from generation.engine.scores import ScoreCounts
from generation.indices import SampleRequest
from generation.pool import own_code, serve_controller
from generation.pool.keeper import GenerationCounts, PoolKeeper
from generation.pool.policy import KeeperPolicy, kill_actors
from generation.pool.serve_controller import ControllerSilentError
from generation.pool.sizing import TrainerTimes
from generation.recipes.model_files import DRIVERS_FOLDER, HUB_SETTINGS
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch

cloudpickle.register_pickle_by_value(own_code)

logger = logging.getLogger(__name__)

DEPLOYMENT = "GeneratorActor"
STARTING = ("STARTING", "RECOVERING")
"""Serve's states of an actor that is not running yet."""

STATUS_POLL_SECONDS = 0.2
REQUESTS_PER_ACTOR = 4
"""Pending requests per actor, and the most that one accepts: one on the device, one ready in its thread, two queued.
They are processed in order of arrival.

Serve knows each actor's load only roughly. With a larger limit some actors would queue twice as many requests as
others, whose devices would idle while results are yielded in order. A second stream still gets through when a first
one keeps the pool busy: it got three tenths of four actors, the same as with a limit of 8.
"""

MAX_LOAD_ERRORS = 3
"""Give up after this many failed model loads (one per actor in smaller pools) while no actor is running."""

WARN_AFTER_SECONDS = 15.0
"""A wait for actors or nodes is logged after this long."""

STOP_TIMEOUT_SECONDS = 60.0
"""The longest wait for a pool to stop."""

DRAIN_TIMEOUT_SECONDS = 120.0
"""The time that a removed actor has to finish its requests; an unscheduled one stays queued as long. Stopping a pool
waits for neither. On SIGTERM Ray gives a node only 30 s.
"""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Serve's logging without a line per batch."""


class Response(Protocol):
    """The pending result of a request; for example Serve's `DeploymentResponse`."""

    def result(self, timeout_s: float) -> SampleBatch:
        """Wait for the samples; TimeoutError if they take longer."""
        ...


@dataclass(frozen=True)
class GenerationService:
    """A client of a running pool, usable from any process of the cluster."""

    app_name: str
    handle: DeploymentHandle
    keeper: ActorHandle

    def request(self, indices: Sequence[int]) -> Response:
        """Request the samples of these indices from any free actor."""
        return cast(Response, self.handle.generate.remote(indices))

    def registered(self, request: SampleRequest) -> "GenerationService":
        """Return the client of a consumer that will request these samples; only learners that share a pool register."""
        return self

    def counts(self) -> GenerationCounts:
        """Return the pool's counts, without images; GenerationFailedError if its keeper was lost, which ends it."""
        return cast(GenerationCounts, self._from_keeper("snapshot"))

    def scores(self) -> ScoreCounts:
        """Return the scores of the recipe's check, with images; GenerationFailedError if the keeper was lost."""
        return cast(ScoreCounts, self._from_keeper("scores"))

    def _from_keeper(self, method: str) -> Any:
        try:
            return ray.get(getattr(self.keeper, method).remote())
        except ActorUnavailableError:
            raise
        except (OutOfMemoryError, RayActorError) as error:
            reason = "Ray's memory monitor killed it" if isinstance(error, OutOfMemoryError) else "its process ended"
            raise GenerationFailedError(
                f"The keeper of the pool '{self.app_name}', an actor on the driver's node, was lost: {reason}. The "
                "pool ends with it. Give that node more memory, or run less on it."
            ) from error

    def report_trainer(self, trainer: TrainerTimes) -> None:
        """Report the trainer's busy and waiting time, about once a second; autoscaling then follows it."""
        self.keeper.report_trainer.remote(trainer)

    def batch_size(self) -> int:
        """Return the number of samples per request: the largest batch size of any actor."""
        return max(self.counts().batch_sizes.values())

    def common_batch_size(self) -> int:
        """Return the smallest batch size of any actor; batches of this size are bit-identical on all actors."""
        return min(self.counts().batch_sizes.values())

    def check_batch_size(self, batch_size: int) -> None:
        """Raise GenerationFailedError if an actor's batches are smaller, since its device ran out of memory."""
        if (common := self.common_batch_size()) < batch_size:
            raise GenerationFailedError(
                f"A generator actor has memory for batches of {common} images, but the stored images are made in "
                f"batches of {batch_size}; the batch size affects their last bits. Give the actor more memory, or "
                f"generate the whole data set again in another folder with generation.batch_size={common}."
            )

    def num_loaded(self) -> int:
        """Return the number of model loads reported by actors; works without Serve's controller."""
        return self.counts().num_loads.total()

    def num_actors(self) -> int:
        """Return the number of running actors, which have loaded their models."""
        return _num_in(self._status(), "RUNNING")

    def num_pending(self) -> int:
        """Return the number of actors that wait for a node or are loading their models."""
        return _num_in(self._status(), *STARTING)

    def raise_if_failed(self) -> None:
        """Raise GenerationFailedError with an actor's own message if none is running and none can be expected to start.

        Serve restarts an actor on a bad GPU again and again; its errors do not count while another actor is loading.
        A pool that never ran fails once every actor failed, or `MAX_LOAD_ERRORS`; one that ran, after
        `MAX_LOAD_ERRORS`.
        """
        status, counts = self._status(), self.counts()
        if _num_in(status, "RUNNING") or counts.loading:
            return
        num_starting = max(1, _num_in(status, *STARTING))
        fewest_errors = MAX_LOAD_ERRORS if counts.num_loads else min(MAX_LOAD_ERRORS, num_starting)
        if len(counts.load_errors) >= fewest_errors:
            raise GenerationFailedError(counts.load_errors[-1])
        if status.status == ApplicationStatus.DEPLOY_FAILED and not counts.num_loads:
            raise GenerationFailedError(f"No generator actor could start: {_messages(status)}")

    def wait_until_running(self, num_actors: int, timeout_seconds: float) -> None:
        """Wait for `num_actors`. After the timeout, go on if at least one is running; the others may join later.

        Raises GenerationFailedError if the pool failed, or no actor is running after the timeout.
        """
        began_at, is_warned = time.monotonic(), False
        while (num_running := self._num_running_or_failed()) < num_actors:
            seconds = time.monotonic() - began_at
            if seconds > timeout_seconds:
                break
            if seconds > WARN_AFTER_SECONDS and not is_warned:
                is_warned = True
                logger.warning("Waiting up to %g s for %d generator actors.", timeout_seconds, num_actors)
            time.sleep(STATUS_POLL_SECONDS)
        else:
            return
        if not num_running:
            try:
                described = _messages(self._status())
            except ControllerSilentError as error:
                described = str(error)
            raise GenerationFailedError(
                f"No generator actor was running after {timeout_seconds:g} s: {described.rstrip('.')}. Check that the "
                "cluster has nodes for them. If nodes are slow to start, raise generation.wait_for_nodes_seconds; if "
                "loading the model is slow, raise generation.start_timeout_seconds."
            )
        logger.warning(
            "%d of %d generator actors are running after %g s. The job continues with them; the others join when they "
            "start. %s",
            *(num_running, num_actors, timeout_seconds),
            " ".join(self.counts().load_errors[-1:]),
        )

    def _num_running_or_failed(self) -> int:
        """Return the number of running actors, 0 if the controller is silent; raises as `raise_if_failed` does."""
        try:
            if not (num_running := self.num_actors()):
                self.raise_if_failed()
            return num_running
        except ControllerSilentError:
            return 0

    def _status(self) -> ApplicationStatusOverview:
        overview = serve_controller.applications().get(self.app_name)
        if overview is None:
            raise GenerationFailedError(f"The generation service '{self.app_name}' was stopped.")
        return overview

    def stop(self) -> None:
        """Stop this pool and free its devices; running batches are not waited for."""
        self.handle.shutdown()  # else its thread keeps reporting to Serve and logs a trace once Ray is shut down
        stop_pool(self.app_name, self.keeper)

    def __enter__(self) -> "GenerationService":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_generation(
    recipe: Recipe, config: GenerationConfig, build_scorer: ScorerBuilder | None = None
) -> GenerationService:
    """Start a pool on the connected cluster; return when `min_actors` have loaded their models, or one if that is 0.

    `build_scorer` opens the model in `recipe.check`.
    Raises GenerationFailedError, with the pool stopped again, if models cannot be loaded or the start times out.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # Serve warns of each slow start
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    app_name = f"generation-{ray.get_runtime_context().get_job_id()}-{recipe.sha256[:8]}"
    keeper_name, namespace = f"{app_name}-keeper", ray.get_runtime_context().namespace
    options = PoolKeeper.options(name=keeper_name, scheduling_strategy=beside_driver())
    keeper = cast(ActorHandle, options.remote(config))
    runtime_env = dict(ray.get_runtime_context().runtime_env)
    hub = {name: os.environ[name] for name in HUB_SETTINGS if name in os.environ} | {DRIVERS_FOLDER: os.getcwd()}
    runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **hub}
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
        graceful_shutdown_timeout_s=DRAIN_TIMEOUT_SECONDS,
        autoscaling_config=_autoscaling(config, {"name": keeper_name, "namespace": namespace}),
    )
    code = own_code.code_of_driver(runtime_env)
    app = deployment(own_code.OwnCodeReplica).bind(code, keeper, pickle.dumps((recipe, config, build_scorer)))
    target = serve.RunTarget(app, name=app_name, route_prefix=None, logging_config=QUIET)
    with ExitStack() as undo:
        undo.callback(stop_pool, app_name, keeper)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        undo.callback(handle.shutdown)
        service = GenerationService(app_name, handle, keeper)
        service.wait_until_running(max(1, config.min_actors), config.start_limit_seconds)
        undo.pop_all()
    return service


def stop_pool(app_name: str, keeper: ActorHandle) -> None:
    """Stop a pool, running or not, without waiting for running batches or unscheduled actors.

    If Serve's controller does not respond, the actors are killed without it; once it resumes, it ends the pool, since
    the keeper has ended.
    """
    give_up_at = time.monotonic() + STOP_TIMEOUT_SECONDS
    try:
        serve_controller.delete(app_name)
        while app_name in serve_controller.applications() and time.monotonic() < give_up_at:
            kill_actors(app_name)
            time.sleep(STATUS_POLL_SECONDS)
    except ControllerSilentError as error:
        logger.warning("%s The pool's actors are killed without it.", error)
        kill_actors(app_name)
    ray.kill(keeper)


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Schedule an actor on this process's node, so that the loss of another node does not end the job."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def quiet_serve_logs() -> None:
    """Limit Serve's log to warnings (errors in the driver) and drop its asyncio traces.

    Serve warns for each request to a lost actor.
    """
    serve_log = logging.getLogger("ray.serve")
    serve_log.setLevel(max(serve_log.level, logging.WARNING))
    logging.getLogger("asyncio").addFilter(is_not_from_serve)


def is_not_from_serve(record: logging.LogRecord) -> bool:
    """Return False for asyncio's traces of Serve's own unawaited calls to a lost actor."""
    return "/ray/serve/" not in record.getMessage()


def _autoscaling(config: GenerationConfig, keeper: dict[str, str]) -> dict[str, Any]:
    """Return Serve's autoscaling settings. A pool of fixed size has a policy too, which ends it if its keeper dies."""
    return {
        "min_replicas": config.min_actors,
        "initial_replicas": config.num_initial_actors,
        "max_replicas": config.max_actors,
        "policy": {"policy_function": KeeperPolicy, "policy_kwargs": keeper},
        "metrics_interval_s": 1,
        "look_back_period_s": 2,
        "upscale_delay_s": 0,  # the keeper decides when
        "downscale_delay_s": 0,
    }


def _num_in(status: ApplicationStatusOverview, *states: str) -> int:
    """Return the number of actors in any of these states."""
    deployment = status.deployments.get(DEPLOYMENT)
    num_by_state = {} if deployment is None else cast(dict[str, int], deployment.replica_states)
    return sum(num_by_state.get(state, 0) for state in states)


def _messages(status: ApplicationStatusOverview) -> str:
    """Return Serve's status messages on one line."""
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    return " ".join(" ".join(messages).split())
