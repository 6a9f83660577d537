"""The pool of generator actors: a Ray Serve deployment that loads each model once and outlives epochs and restarts.

It knows indices and samples; it does not know who asks. Demand is what the stream asks for, and how long a trainer says
that it waits: see `generation.autoscaling`.
"""

import asyncio
import contextlib
import dataclasses
import importlib
import logging
import os
import pickle
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, cast

import ray
from ray import cloudpickle, serve
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from generation import own_code, serve_controller
from generation.actor import GeneratorActor, WorkCounts
from generation.autoscaling import PoolLook, PoolSizer, TrainerClock
from generation.config import GenerationConfig
from generation.generator import ActorFailedError, GenerationFailedError
from generation.model_files import DRIVERS_FOLDER, hub_settings
from generation.pool_policy import AskKeeper
from generation.recipe import Recipe
from generation.sample import SampleBatch
from generation.serve_controller import ControllerSilentError

cloudpickle.register_pickle_by_value(own_code)

logger = logging.getLogger(__name__)

DEPLOYMENT = "GeneratorActor"
STATUS_POLL_SECONDS = 0.2
REQUESTS_AT_WORK = 2
"""Requests of an actor on their way through its device: one there, the next one waiting beside it."""

REQUESTS_PER_ACTOR = 4
"""Requests under way for each actor, and the most that one takes on, in the order in which they come: one at its
device, one waiting beside it, two that have come.

Serve knows only roughly how much each actor has to do. With room for more, some would have twice as many as others,
whose devices then stand still while answers are awaited in their order. A second stream finds its place beside one that
has all: it got three tenths of four actors, as with room for 8.
"""

MAX_LOAD_ERRORS = 3
"""A pool of which no actor is up is given up when so many could not load their model; a smaller one for each's."""

ACCELERATOR_TYPE = "ray.io/accelerator-type"
"""Ray's label for what a node has."""

SAY_AFTER_SECONDS = 15.0
"""A wait for actors or for nodes that is longer is told."""

TELL_SECONDS = 1.0
"""An actor at work tells at least so often what it has done."""

LONGEST_STOP_SECONDS = 60.0
"""How long the end of a pool is waited for."""

LONGEST_LAST_BATCH_SECONDS = 600.0
"""An actor that is given back may take so long to finish what it was asked for; the end of a pool does not wait for it,
and Ray leaves a node that gets a SIGTERM 30 s.
"""

LOADING_SILENT_SECONDS = 60.0
"""A process that loads a model says so every `TELL_SECONDS`, as far as its imports let it; one that is silent for so
long is taken to be gone.
"""

ANSWER_BEFORE_END_SECONDS = 1.0
"""An actor that ends after an error first has this time for its last answers."""

LOOPBACK = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}
"""Addresses of a node that this machine alone can reach, as gRPC takes them."""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Serve's own log, which otherwise has a line for each batch."""


@dataclass
class GenerationCounts(WorkCounts):
    """What the pool has done so far, counts that add up over actors, dead ones included."""

    num_loads: Counter[str] = field(default_factory=Counter)
    """Models loaded by each actor's process, as `host:pid`; an actor started anew is another process."""

    load_seconds: float = 0.0
    """How long those loads took, added up."""

    loading: set[str] = field(default_factory=set)
    """Processes that are loading a model, and were heard of lately."""

    load_errors: list[str] = field(default_factory=list)
    """One line for each actor whose model could not be loaded, since another one was loaded or at work."""

    batch_sizes: dict[str, int] = field(default_factory=dict)
    """How many images each process makes at once: what it was told, or found, or was left with as memory ran out."""

    num_requests: dict[str, int] = field(default_factory=dict)
    """Requests that each process still had when it last answered one, since an actor last came up."""


@ray.remote(num_cpus=0)
class PoolKeeper:
    """Adds up what generator actors report, so that a dead actor's counts stay; decides how many there are to be."""

    def __init__(self, config: GenerationConfig) -> None:
        """Start from zero."""
        self.counts = GenerationCounts()
        self.num_batches = 0
        self.loading_at: dict[str, float] = {}
        """When each process that loads a model was heard of last."""

        self.initial_size = config.num_initial_actors
        self.trainer: TrainerClock | None = None
        self.sizer = PoolSizer(config.min_actors, config.num_initial_actors, config.max_actors, config.idle_seconds)

    def note_loading(self, process: str) -> None:
        """Note that an actor's process is loading its model."""
        self.loading_at[process] = time.monotonic()

    def add_load(self, process: str, batch_size: int, load_seconds: float) -> None:
        """Count one model load of an actor's process, perhaps in the place of one that is gone with its requests."""
        self.loading_at.pop(process, None)
        self.counts.num_loads[process] += 1
        self.counts.load_seconds += load_seconds
        self.counts.num_requests.clear()
        self.counts.batch_sizes[process] = batch_size
        self.counts.load_errors.clear()

    def add_load_error(self, process: str, message: str) -> None:
        """Keep why a model could not be loaded."""
        self.loading_at.pop(process, None)
        self.counts.load_errors.append(message)

    def add_work(self, process: str, batch_size: int, num_requests: int, done: WorkCounts) -> None:
        """Count what a process has done since it last told, and the requests it still has."""
        self.counts.batch_sizes[process] = batch_size
        self.counts.num_requests[process] = num_requests
        self.counts.add(done)
        self.counts.load_errors.clear()  # they are no reason any more why none would be up
        self.num_batches += done.num_images_made > 0

    def hear(self, trainer: TrainerClock) -> None:
        """Note what the trainer says."""
        self.trainer = trainer

    def size(self, num_running: int, num_requests: float) -> int:
        """Return how many actors there are to be, from how many are up and how many batches are asked for.

        Until the first one is up, that is no question: nodes may take as long as they like.
        """
        if not self.counts.num_loads:
            return self.initial_size
        return self.sizer.size(
            PoolLook(
                at=time.monotonic(),
                num_running=num_running,
                num_requests=num_requests,
                num_batches=self.num_batches,
                working_seconds=self.counts.working_seconds,
                trainer=self.trainer,
            )
        )

    def snapshot(self) -> GenerationCounts:
        """Return the counts so far."""
        heard_since = time.monotonic() - LOADING_SILENT_SECONDS
        self.counts.loading = {process for process, at in self.loading_at.items() if at >= heard_since}
        return self.counts


class GeneratorReplica:
    """Serve's end of a `GeneratorActor`: one request on the device, the others waiting beside it."""

    def __init__(self, recipe: Recipe, config: GenerationConfig, keeper: ActorHandle) -> None:
        """Load the model in this process."""
        listen_on_loopback()
        log_to_stderr()
        self.keeper = keeper
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        loading_since = time.monotonic()
        self.actor = self._load(recipe, config)
        load_seconds = time.monotonic() - loading_since
        # A request waits in its thread for the device: it starts there while the last one's images are copied and
        # looked at, without a turn of the event loop.
        self.threads = ThreadPoolExecutor(max_workers=REQUESTS_AT_WORK)
        self.num_requests = 0
        ray.get(keeper.add_load.remote(self.process, self.actor.batch_size, load_seconds))
        Thread(target=self._tell_while_at_work, daemon=True).start()

    def _load(self, recipe: Recipe, config: GenerationConfig) -> GeneratorActor:
        ray.get(self.keeper.note_loading.remote(self.process))
        is_over = Event()
        Thread(target=self._tell_while_loading, args=(is_over,), daemon=True).start()
        try:
            return GeneratorActor(recipe, with_own_batch_size(config))
        except Exception as error:
            is_over.set()
            ray.get(self.keeper.add_load_error.remote(self.process, f"{error}"))
            raise
        finally:
            is_over.set()

    def _tell_while_loading(self, is_over: Event) -> None:
        while not is_over.wait(TELL_SECONDS):
            self.keeper.note_loading.remote(self.process)

    async def generate(self, indices: Sequence[int]) -> SampleBatch:
        """Return the samples of these indices; health checks are answered meanwhile.

        After an error this process ends, and Serve starts another actor: Serve takes an actor for healthy whose device
        fails at each call.
        """
        self.num_requests += 1
        try:
            batch = await asyncio.get_running_loop().run_in_executor(self.threads, self.actor.generate, indices)
        except GenerationFailedError:
            raise
        except Exception as error:  # torch raises it at each later call too if the device is broken
            asyncio.get_running_loop().call_later(ANSWER_BEFORE_END_SECONDS, os._exit, 1)
            raise ActorFailedError(self.process, f"{type(error).__name__}: {error}") from error
        finally:
            self.num_requests -= 1
        self._tell()
        return batch

    def _tell(self) -> None:
        done = self.actor.take_counts()
        self.keeper.add_work.remote(self.process, self.actor.batch_size, self.num_requests, done)

    def _tell_while_at_work(self) -> None:
        """Tell of long batches while they are made: an actor that is at one is not idle."""
        while True:
            time.sleep(TELL_SECONDS)
            if self.num_requests:
                self._tell()

    async def check_health(self) -> None:
        """Stop the pool if its driver is gone without a word: the keeper of counts ends with the driver's job."""
        try:
            await cast(Awaitable[GenerationCounts], self.keeper.snapshot.remote())
        except ActorDiedError:
            serve.delete(serve.get_replica_context().app_name, _blocking=False)


@dataclass(frozen=True)
class GenerationService:
    """A running pool, seen from any process of the cluster."""

    app_name: str
    handle: DeploymentHandle
    keeper: ActorHandle

    def ask(self, indices: Sequence[int]) -> DeploymentResponse:
        """Ask for the samples of these indices; whichever actor is free answers."""
        return cast(DeploymentResponse, self.handle.generate.remote(indices))

    def counts(self) -> GenerationCounts:
        """Return what the pool has done so far."""
        return cast(GenerationCounts, ray.get(self.keeper.snapshot.remote()))

    def hear(self, trainer: TrainerClock) -> None:
        """Be told, once a second or so, how a trainer's time goes by: from now on the pool's size follows that."""
        self.keeper.hear.remote(trainer)

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

    def num_actors(self) -> int:
        """Return how many actors are up, their models loaded."""
        return _num_running(self._status())

    def num_awaited(self) -> int:
        """Return how many more are to come: their nodes are not there yet, or their models not loaded."""
        return _num_awaited(self._status())

    def raise_if_failed(self) -> None:
        """Raise GenerationFailedError with the actor's own message if no actor is up, nor any may come to be.

        Of several actors one may have a bad GPU, on which Serve tries again and again: that says nothing as long as
        another one loads its model. A start is given up for what all failed with, and a pool that was up after a few.
        """
        status, counts = self._status(), self.counts()
        if _num_running(status) or counts.loading:
            return
        fewest_errors = MAX_LOAD_ERRORS if counts.num_loads else min(MAX_LOAD_ERRORS, max(1, _num_awaited(status)))
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
            if seconds > SAY_AFTER_SECONDS and not is_said:
                is_said = True
                logger.warning("Waiting up to %g s for %d generator actors.", timeout_seconds, num_actors)
            time.sleep(STATUS_POLL_SECONDS)
        else:
            return
        if not num_up:
            raise GenerationFailedError(
                f"No generator actor was up after {timeout_seconds:g} s: {_messages(self._status())}. Has the "
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
        stop_pool(self.app_name, self.keeper)

    def __enter__(self) -> "GenerationService":
        """Use the pool as a context, which stops it at the end however that comes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the pool."""
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
    runtime_env = own_runtime_env()
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
        **_pool_size(config, {"name": keeper_name, "namespace": namespace}),
    )
    code = own_code.code_of_driver(runtime_env["env_vars"])
    app = deployment(own_code.OwnCodeReplica).bind(code, keeper, pickle.dumps((recipe, config)))
    target = serve.RunTarget(app, name=app_name, route_prefix=None, logging_config=QUIET)
    try:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        service = GenerationService(app_name, handle, keeper)
        service.wait_until_running(max(1, config.min_actors), config.longest_start_seconds)
    except BaseException:
        stop_pool(app_name, keeper)
        raise
    return service


def own_runtime_env() -> dict[str, Any]:
    """Return the runtime environment of this job, with what actors need to find the model that this process found."""
    job = dict(ray.get_runtime_context().runtime_env)
    return job | {"env_vars": {**job.get("env_vars", {}), **hub_settings(), DRIVERS_FOLDER: os.getcwd()}}


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


def kill_actors(app_name: str) -> None:
    """End all actors of a pool."""
    for actor in pool_actors(app_name):
        ray.kill(actor)


def pool_actors(app_name: str) -> Iterator[ActorHandle]:
    """Yield the actors of a pool, those included that wait for a place: Serve gives each a name."""
    for actor in cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True)):
        if actor["name"].startswith(f"SERVE_REPLICA::{app_name}#"):
            with contextlib.suppress(ValueError):  # gone meanwhile
                yield ray.get_actor(actor["name"], actor["namespace"])


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Place an actor on this process's own node: another node may be lost, and the job goes on."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def with_own_batch_size(config: GenerationConfig) -> GenerationConfig:
    """Return the settings with the batch size for this process's node."""
    labels = cast(dict[str, str], ray.get_runtime_context().get_node_labels())
    batch_size = config.batch_sizes.get(labels.get(ACCELERATOR_TYPE, ""), config.batch_size)
    return dataclasses.replace(config, batch_size=batch_size)


def listen_on_loopback() -> None:
    """Let Serve's gRPC server in this process listen on loopback where its node does.

    Serve 2.60 starts it in every replica, without a setting, on all interfaces, and it unpickles what it receives.
    """
    if (host := ray.util.get_node_ip_address()) not in LOOPBACK:
        return
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK[host]))


def log_to_stderr() -> None:
    """Let this process's log, which Ray keeps, have what the generator says of itself, such as its batch size."""
    logger = logging.getLogger("generation")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())


def _pool_size(config: GenerationConfig, keeper: dict[str, str]) -> dict:
    """Return Serve's settings of a pool's size; one that stays the same has a policy too, which ends it."""
    return {
        "autoscaling_config": {
            "min_replicas": config.min_actors,
            "initial_replicas": config.num_initial_actors,
            "max_replicas": config.max_actors,
            "policy": {"policy_function": AskKeeper, "policy_kwargs": keeper},
            "metrics_interval_s": 1,
            "look_back_period_s": 2,
            "upscale_delay_s": 0,  # the keeper knows when
            "downscale_delay_s": 0,
        }
    }


def _num_running(status: ApplicationStatusOverview) -> int:
    return _replica_states(status).get("RUNNING", 0)


def _num_awaited(status: ApplicationStatusOverview) -> int:
    states = _replica_states(status)
    return states.get("STARTING", 0) + states.get("RECOVERING", 0)


def _replica_states(status: ApplicationStatusOverview) -> dict[str, int]:
    deployment = status.deployments.get(DEPLOYMENT)
    return {} if deployment is None else cast(dict[str, int], deployment.replica_states)


def _messages(status: ApplicationStatusOverview) -> str:
    """Return Serve's own words on one line."""
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    return " ".join(" ".join(messages).split())
