"""Run one pool with one fake trainer; record each delivery and sample the pool's state.

Writes no tables or pages. Times are Unix times in seconds.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import ray
from ray.actor import ActorHandle

from generation.pool.keeper import GenerationCounts
from generation.pool.service import GenerationService
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig
from ray_jobs.cluster.local_nodes import LocalNode, NodeSize
from ray_jobs.job.source import start_pool
from ray_jobs.scaling.background import resident_bytes, sampling
from ray_jobs.scaling.fault_injector import FaultEvent, FaultInjector
from ray_jobs.scaling.loads import Load, rate_per_actor
from ray_jobs.scaling.painted_trainer import PaintedJob, close_ledger, open_ledger, train_painted
from ray_jobs.scaling.throughput import Deliveries, Exactness

SAMPLING_SECONDS = 0.5
"""Sampling interval of the pool's state, and the resolution of all times measured from it."""

WINDOW_SECONDS = 5.0
"""Window of each plotted rate."""

STORE = "object_store_memory"


@dataclass(frozen=True)
class PoolState:
    """A snapshot of the pool."""

    at: float
    num_actors: int
    """Running actors."""

    num_pending: int
    """Actors that are starting."""

    num_loads: int
    """Models loaded so far."""

    driver_bytes: int
    """Resident memory of the driver."""

    store_bytes: int
    """Memory used in the object stores of all nodes."""


@dataclass(frozen=True)
class Series:
    """Rates and pool size over a run; times are in seconds since its first batch."""

    ends: list[float]
    """Ends of adjacent windows."""

    delivered_per_second: list[float]
    """Images per second delivered in each window."""

    looked_at: list[float]
    """Times at which the pool's state was sampled."""

    num_actors: list[int]
    """Running actors at those times."""


@dataclass(frozen=True)
class LoadResult:
    """The measurements of a run."""

    load: Load
    actor_rate: float
    """Images per second of a busy actor."""

    began_at: float
    """Start of the run, before the pool is created."""

    up_at: float
    """Time at which all initial actors were running."""

    trainers_began_at: list[float]
    """Times at which the trainer, and each replacement of it, requested images."""

    deliveries: Deliveries
    exactness: Exactness
    pool_states: list[PoolState]
    events: list[FaultEvent]

    @property
    def first_batch_at(self) -> float:
        """Time of the trainer's first batch."""
        return float(self.deliveries.delivered_at[0])

    def series(self) -> Series:
        """Return rates and pool size for the plots."""
        first, last = self.first_batch_at, float(self.deliveries.delivered_at[-1])
        ends, rates = self.deliveries.rates(first, last, WINDOW_SECONDS)
        return Series(
            (ends - first).round(3).tolist(),
            rates.round(3).tolist(),
            [round(state.at - first, 3) for state in self.pool_states],
            [state.num_actors for state in self.pool_states],
        )


class Experiments:
    """Runs loads; holds what all runs share: settings, recipe, and the nodes started by the job."""

    def __init__(self, config: ScaleConfig, recipe: Recipe, nodes: list[LocalNode]) -> None:
        self.config = config
        self.recipe = recipe
        self.nodes = nodes
        self.rate = rate_per_actor(config, recipe)
        """Images per second of an actor, from which the number of images of each run is computed."""

    def run(self, load: Load) -> LoadResult:
        """Start a pool, let a trainer consume all images, and return the measurements."""
        began_at = time.time()
        with start_pool(self.recipe, load.generation, self.config.training) as service:
            up_at, ledger = time.time(), open_ledger()
            job = PaintedJob(
                partial(stream_samples, service, self.recipe, load.generation),
                load.num_images,
                self.config.training.global_batch_size,
                ledger,
                load.phases,
                service.report_trainer,
            )
            injector = self._injector(load.faults, service, ledger)
            with sampling(partial(pool_state, service), SAMPLING_SECONDS) as pool_states, injector.running():
                train_painted(job, self.config.training)
            counts, delivered = service.counts(), close_ledger(ledger)
        return LoadResult(
            load=load,
            actor_rate=self._rate_seen(counts),
            began_at=began_at,
            up_at=up_at,
            trainers_began_at=[at for at, _ in delivered.begun],
            deliveries=delivered.deliveries(),
            exactness=Exactness.of(np.concatenate(delivered.indices), load.num_images),
            pool_states=pool_states,
            events=sorted(injector.events, key=lambda event: event.began_at),
        )

    def _rate_seen(self, counts: GenerationCounts) -> float:
        """Return the images per second of a busy actor: nominal for painted generators, measured for others."""
        is_painted = self.recipe.generator == "painted"
        return self.rate if is_painted else counts.num_images_made / counts.working_seconds

    def _injector(self, faults: FaultsConfig, service: GenerationService, ledger: ActorHandle) -> FaultInjector:
        return FaultInjector(
            faults,
            generators=lambda: list(service.counts().num_loads),
            trainer=lambda: cast(str, ray.get(ledger.trainer.remote())),
            first_batch_at=lambda: cast(float | None, ray.get(ledger.first_batch_at.remote())),
            nodes=self.nodes,
            node_size=node_size(self.config),
        )


def node_size(config: ScaleConfig) -> NodeSize:
    """Return the size of a local node: all nodes together have room for the largest pool and no further cores."""
    num_actors = math.ceil(config.largest_pool / max(1, config.num_local_nodes))
    generation = config.generation
    gpus = generation.gpus_per_actor
    num_gpus = math.ceil(num_actors / math.floor(1 / gpus)) if 0 < gpus < 1 else math.ceil(num_actors * gpus)
    return NodeSize(math.ceil(num_actors * generation.cpus_per_actor), num_gpus)


def pool_state(service: GenerationService) -> PoolState:
    """Return the current state of the pool, this process's memory and the object stores."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return PoolState(
        at=time.time(),
        num_actors=service.num_actors(),
        num_pending=service.num_pending(),
        num_loads=service.counts().num_loads.total(),
        driver_bytes=resident_bytes(),
        store_bytes=round(total.get(STORE, 0.0) - free.get(STORE, 0.0)),
    )
