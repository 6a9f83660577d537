"""One pool and one painted trainer at work together, watched: what came when, and what the pool looked like meanwhile.

Knows no table, page or target: `ray_jobs.scaling.results` makes numbers of it.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import ray
from ray.actor import ActorHandle

from generation.indices import IndexSet
from generation.pool.keeper import GenerationCounts
from generation.pool.service import GenerationService
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from ray_jobs.cluster.local_nodes import LocalNode, NodeSize
from ray_jobs.job.source import start_pool
from ray_jobs.scaling.config import FaultsConfig, ScaleConfig
from ray_jobs.scaling.faults import FaultInjector, Struck, Surroundings
from ray_jobs.scaling.loads import Load
from ray_jobs.scaling.painted_trainer import DeliveryLedger, PaintedJob, open_ledger, train_painted
from ray_jobs.scaling.sampling import Readings, resident_bytes
from ray_jobs.scaling.throughput import Deliveries

LOOK_SECONDS = 0.5
"""How often the pool is looked at: no shorter time is told from another."""

STORE = "object_store_memory"


@dataclass(frozen=True)
class PoolMoment:
    """The pool at one moment."""

    at: float
    """In seconds since the run began."""

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
class Outcome:
    """What came of a load; moments are seconds since it began, with no pool yet."""

    load: Load
    pool_start_seconds: float
    """Until all actors were up that the pool begins with."""

    trainers_began_at: list[float]
    """When the trainer asked for images, and each that took a lost one's place."""

    deliveries: Deliveries
    waiting_seconds: np.ndarray
    """float64 [N]: how long the trainer waited for each batch."""

    num_distinct: int
    """Different samples among those that were wanted and came."""

    moments: list[PoolMoment]
    struck: list[Struck]
    counts: GenerationCounts

    @property
    def first_batch_at(self) -> float:
        """When the trainer had its first batch."""
        return float(self.deliveries.came_at[0])

    @property
    def num_lost(self) -> int:
        """How many wanted samples never came."""
        return self.load.num_images - self.num_distinct

    @property
    def num_doubled(self) -> int:
        """How many came that were not wanted, or that had come before."""
        return int(self.deliveries.nums.sum()) - self.num_distinct

    def waiting_fraction(self, start: float, stop: float) -> float:
        """Return the share of the time between two moments that the trainer waited for what came in it, up to 1."""
        came_at = self.deliveries.came_at
        waited = self.waiting_seconds[(came_at > start) & (came_at <= stop)].sum()
        return min(1.0, float(waited) / (stop - start))


class Experiments:
    """What all runs share: settings, recipe, and the nodes that the job started."""

    def __init__(self, config: ScaleConfig, recipe: Recipe, nodes: list[LocalNode]) -> None:
        self.config = config
        self.recipe = recipe
        self.nodes = nodes

    def run(self, load: Load) -> Outcome:
        """Start a pool, let a trainer take all images, and return what was seen."""
        began_at = time.time()
        with start_pool(self.recipe, load.generation, self.config.training) as service:
            up_at = time.time()
            ledger = open_ledger()
            with (
                Readings(partial(look, service, began_at), LOOK_SECONDS) as looks,
                self._injector(load.faults, service, ledger) as injector,
            ):
                train_painted(self._job(load, service, ledger), self.config.training)
            counts, notes = service.counts(), cast(DeliveryLedger, ray.get(ledger.snapshot.remote()))
            ray.kill(ledger)
        indices = np.concatenate(notes.indices)
        return Outcome(
            load=load,
            pool_start_seconds=up_at - began_at,
            trainers_began_at=[at - began_at for at, _ in notes.begun],
            deliveries=Deliveries(np.array(notes.came_at) - began_at, np.array([len(part) for part in notes.indices])),
            waiting_seconds=np.array(notes.waiting_seconds),
            num_distinct=len(IndexSet.of(indices) & IndexSet.of_ranges([range(load.num_images)])),
            moments=looks.noted,
            struck=[fault.since(began_at) for fault in sorted(injector.struck, key=lambda fault: fault.began_at)],
            counts=counts,
        )

    def _job(self, load: Load, service: GenerationService, ledger: ActorHandle) -> PaintedJob:
        return PaintedJob(
            open=partial(stream_samples, service, self.recipe, load.generation),
            num_images=load.num_images,
            batch_size=self.config.training.global_batch_size,
            phases=load.phases,
            ledger=ledger,
            report=service.report_trainer if load.follows_trainer else None,
        )

    def _injector(self, faults: FaultsConfig, service: GenerationService, ledger: ActorHandle) -> FaultInjector:
        around = Surroundings(
            generators=lambda: list(service.counts().num_loads),
            trainer=lambda: cast(str, ray.get(ledger.trainer.remote())),
            nodes=self.nodes,
            node_size=node_size(self.config),
        )
        return FaultInjector(faults, around, lambda: cast(float | None, ray.get(ledger.first_batch_at.remote())))


def node_size(config: ScaleConfig) -> NodeSize:
    """Return how large a local node is: all of them hold the largest pool, and nothing else that takes a core."""
    num_actors = math.ceil(config.largest_pool / max(1, config.num_local_nodes))
    generation = config.generation
    gpus = generation.gpus_per_actor
    num_gpus = math.ceil(num_actors / math.floor(1 / gpus)) if 0 < gpus < 1 else math.ceil(num_actors * gpus)
    return NodeSize(math.ceil(num_actors * generation.cpus_per_actor), num_gpus)


def look(service: GenerationService, began_at: float) -> PoolMoment:
    """Return what the pool, this process and the object stores are like now."""
    there, free = ray.cluster_resources(), ray.available_resources()
    return PoolMoment(
        at=time.time() - began_at,
        num_actors=service.num_actors(),
        num_awaited=service.num_awaited(),
        num_loads=service.counts().num_loads.total(),
        driver_bytes=resident_bytes(),
        store_bytes=round(there.get(STORE, 0.0) - free.get(STORE, 0.0)),
    )
