"""One pool and one painted trainer at work together, watched: what came when, and what the pool looked like meanwhile.

Knows no table, page or target. Moments are in seconds of `time.time()`.
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
from ray_jobs.scaling.background import readings, resident_bytes
from ray_jobs.scaling.fault_injector import FaultInjector, Struck
from ray_jobs.scaling.loads import Load, rate_per_actor
from ray_jobs.scaling.painted_trainer import PaintedJob, close_ledger, open_ledger, train_painted
from ray_jobs.scaling.throughput import Deliveries, Exactness

LOOK_SECONDS = 0.5
"""How often the pool is looked at: no shorter time is told from another."""

WINDOW_SECONDS = 5.0
"""Over which a rate is drawn."""

STORE = "object_store_memory"


@dataclass(frozen=True)
class PoolMoment:
    """The pool at one moment."""

    at: float
    num_actors: int
    """Actors that are up."""

    num_awaited: int
    """Actors that are starting."""

    num_loads: int
    """Models that were loaded so far."""

    driver_bytes: int
    """Resident memory of the driver."""

    store_bytes: int
    """What all nodes' object stores hold."""


@dataclass(frozen=True)
class Series:
    """A run in time, in seconds since its first batch."""

    ends: list[float]
    """Of adjacent windows."""

    delivered_per_second: list[float]
    """In each of them."""

    looked_at: list[float]
    num_actors: list[int]
    """Actors that were up at each look."""


@dataclass(frozen=True)
class Outcome:
    """What came of a load."""

    load: Load
    actor_rate: float
    """Images a second that an actor makes while it is at work."""

    began_at: float
    """With no pool yet."""

    up_at: float
    """When all actors were up that the pool begins with."""

    trainers_began_at: list[float]
    """When the trainer asked for images, and each that took a lost one's place."""

    deliveries: Deliveries
    exactness: Exactness
    moments: list[PoolMoment]
    struck: list[Struck]

    @property
    def first_batch_at(self) -> float:
        """When the trainer had its first batch."""
        return float(self.deliveries.came_at[0])

    def series(self) -> Series:
        """Return it as it is drawn."""
        first, last = self.first_batch_at, float(self.deliveries.came_at[-1])
        ends, rates = self.deliveries.rates(first, last, WINDOW_SECONDS)
        return Series(
            (ends - first).round(3).tolist(),
            rates.round(3).tolist(),
            [round(moment.at - first, 3) for moment in self.moments],
            [moment.num_actors for moment in self.moments],
        )


class Experiments:
    """What all runs share: settings, recipe, and the nodes that the job started."""

    def __init__(self, config: ScaleConfig, recipe: Recipe, nodes: list[LocalNode]) -> None:
        self.config = config
        self.recipe = recipe
        self.nodes = nodes
        self.rate = rate_per_actor(config, recipe)
        """Images a second of an actor, by which runs are measured out."""

    def run(self, load: Load) -> Outcome:
        """Start a pool, let a trainer take all images, and return what was seen."""
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
            with readings(partial(look, service), LOOK_SECONDS) as moments, injector.at_work():
                train_painted(job, self.config.training)
            counts, notes = service.counts(), close_ledger(ledger)
        return Outcome(
            load=load,
            actor_rate=self._rate_seen(counts),
            began_at=began_at,
            up_at=up_at,
            trainers_began_at=[at for at, _ in notes.begun],
            deliveries=notes.deliveries(),
            exactness=Exactness.of(np.concatenate(notes.indices), load.num_images),
            moments=moments,
            struck=sorted(injector.struck, key=lambda fault: fault.began_at),
        )

    def _rate_seen(self, counts: GenerationCounts) -> float:
        """Return what an actor makes while it is at work: known of a painted one, seen of another."""
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
    """Return how large a local node is: all of them hold the largest pool, and nothing else that takes a core."""
    num_actors = math.ceil(config.largest_pool / max(1, config.num_local_nodes))
    generation = config.generation
    gpus = generation.gpus_per_actor
    num_gpus = math.ceil(num_actors / math.floor(1 / gpus)) if 0 < gpus < 1 else math.ceil(num_actors * gpus)
    return NodeSize(math.ceil(num_actors * generation.cpus_per_actor), num_gpus)


def look(service: GenerationService) -> PoolMoment:
    """Return what the pool, this process and the object stores are like now."""
    there, free = ray.cluster_resources(), ray.available_resources()
    return PoolMoment(
        at=time.time(),
        num_actors=service.num_actors(),
        num_awaited=service.num_awaited(),
        num_loads=service.counts().num_loads.total(),
        driver_bytes=resident_bytes(),
        store_bytes=round(there.get(STORE, 0.0) - free.get(STORE, 0.0)),
    )
