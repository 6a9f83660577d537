"""Ceilings of the stream in batches per second, with virtual devices: `python -m benchmarks.virtual_pool`.

One process stands for hundreds of generator actors, so that each part of the stream can be measured at sizes for which
this machine has neither devices nor memory: alone, with everything else taken away, and together with the others.

A rate in batches per second is the number of devices that make a batch in one second, which that part can serve.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import click
import numpy as np
import psutil
import ray
from ray.data import DataIterator, Dataset
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from benchmarks.virtual_devices import LocalPool, PoolSpec, virtual_pool
from benchmarks.virtual_router import simulate
from generation.engine.actor import WorkCounts
from generation.indices import SampleRequest
from generation.pool.keeper import PoolKeeper
from generation.pool.service import REQUESTS_PER_ACTOR, GenerationService
from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import build_recipe
from generation.sample import PassBatch
from generation.stream.stream import BatchRequester, StageSpec, num_requesters_of, stream_samples
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cluster.connect import start_local
from ray_jobs.job.tables import print_table
from training.data.consumption import Share
from training.data.loader import Pace, StreamLoader
from training.data.reservoir import PixelStore, Reservoir, Uses

MANY_BATCHES = 10**6
"""Batches requested by a measurement; more than any can take."""

PACED_BATCHES_PER_SECOND = 16.0
"""Nominal rate of the paced pools, low enough for two cores."""

PENDING_CALLS = 100

WARM_UP_FRACTION = 1 / 3
"""Time before a measurement, over its length."""

DRIVER, CONTROLLER = "trainer, this process", "Serve's controller"

KINDS = {
    "ServeReplica": "virtual devices",
    "ServeController": CONTROLLER,
    "PoolKeeper": "pool keeper",
    "MapWorker": "requesters",
    "SplitCoordinator": "Ray Data's executor",
    "raylet": "raylet",
    "gcs_server": "GCS",
}
"""What a process is, by a part of its title."""


@dataclass(frozen=True)
class Sizes:
    """The command's options."""

    actors: list[int]
    processes: list[int]
    seconds: float
    batch_size: int
    image_size: int

    def spec(self, num_devices: int, batch_seconds: float = 0.0) -> PoolSpec:
        """Return a pool of virtual devices."""
        return PoolSpec(num_devices, batch_seconds, self.batch_size, self.image_size)


@dataclass(frozen=True)
class Rate:
    """What a measurement found."""

    batches_per_second: float
    cpu_seconds: dict[str, float]
    """CPU time per batch, by kind of process."""

    num_processes: dict[str, int]
    """Processes of each kind."""

    @property
    def own_ceiling(self) -> float:
        """Batches per second at which this process needs a whole core."""
        return 1 / self.cpu_seconds[DRIVER]

    def cells(self) -> list[str]:
        """Return the rate, and the CPU time and ceiling of this process."""
        return [
            f"{self.batches_per_second:,.1f}",
            f"{self.cpu_seconds[DRIVER] * 1e3:.2f}",
            f"{self.own_ceiling:,.0f}",
        ]


RATE_COLUMNS = ("batches/s", "CPU ms/batch", "a core's batches/s")


def requesters_of(spec: PoolSpec) -> tuple[int, int]:
    """Return the number of request actors of a stream from this pool, and the pending batches of each."""
    stage = StageSpec(lambda _requester, _unit: iter(()))
    num_requesters = num_requesters_of(spec.config, all_samples(spec), stage)
    return num_requesters, -(-REQUESTS_PER_ACTOR * spec.num_devices // num_requesters)


def all_samples(spec: PoolSpec) -> SampleRequest:
    """Return a request that no measurement comes to the end of."""
    return SampleRequest.all_of(range(MANY_BATCHES * spec.batch_size))


def measure_requester(sizes: Sizes) -> None:
    """Measure one requester within this process: devices that are done at once, and its share of a pool's."""
    rows = []
    for num_actors, batch_seconds in itertools.product(sizes.actors, (0.0, 1.0)):
        num_requesters, window = requesters_of(sizes.spec(num_actors))
        share = sizes.spec(num_actors // num_requesters, batch_seconds)
        rate = rate_of(requested(cast(Any, LocalPool(share)), share, window), share, sizes.seconds)
        rows.append([f"{num_actors:,} actors, {batch_seconds:g} s per batch", f"{window}", *rate.cells()])
    print_table("One of the requesters, without Serve", ("", "window", *RATE_COLUMNS), rows)


def requested(service: GenerationService, spec: PoolSpec, window: int) -> Iterator[PassBatch]:
    """Yield batches from one requester."""
    requester = BatchRequester(service, spec.config, spec.batch_size, window)
    return cast(Iterator[PassBatch], requester.request(range(MANY_BATCHES * spec.batch_size)))


def measure_take(sizes: Sizes) -> None:
    """Measure the training worker's loader on rows that are in its memory already."""
    spec = sizes.spec(1)
    rate = rate_of(taken(cast(Any, LocalRows(spec)), spec), spec, sizes.seconds)
    print_table(
        "The trainer's loader, without Ray Data", ("", *RATE_COLUMNS), [["each image used once", *rate.cells()]]
    )


class LocalRows:
    """A fake shard with rows in memory."""

    def __init__(self, spec: PoolSpec) -> None:
        self.spec = spec

    def iter_batches(self, batch_size: int, **_: object) -> Iterator[PassBatch]:
        """Yield rows as a Ray iterator does."""
        for start in range(0, MANY_BATCHES * self.spec.batch_size, batch_size):
            rows = self.spec.batch(range(start, start + batch_size))
            yield {"serial": rows["index"], **rows}


def taken(shard: DataIterator, spec: PoolSpec) -> Iterator[PassBatch]:
    """Yield the training batches that a loader draws from a shard; a batch is as large as a generator's."""
    nothing = np.zeros(0, np.int64)
    share = Share(all_samples(spec).serials, nothing, nothing.astype(np.int32))
    store = PixelStore(2 * spec.batch_size * spec.image_size**2 * 3, spec.image_size)
    loader = StreamLoader(shard, share, Reservoir(store, Uses(1, 1), (0, 0, 0)), Pace(spec.batch_size))
    try:
        for batch in loader:
            loader.commit(batch["serial"].numpy())
            yield cast(PassBatch, batch)
    finally:
        loader.close()


def measure_router(sizes: Sizes) -> None:
    """Simulate Serve's router among as many replicas as there are actors."""
    rows = []
    for num_actors, batch_seconds in itertools.product(sizes.actors, (0.25, 1.0, 4.0)):
        num_requesters, _ = requesters_of(sizes.spec(num_actors))
        routing = simulate(num_actors, num_requesters, batch_seconds)
        rows.append([
            f"{num_actors:,} actors, {batch_seconds:g} s per batch",
            f"{routing.busy_fraction:.3f}",
            f"{routing.num_tries / routing.num_batches:.2f}",
            f"{routing.num_probes / routing.num_batches:.2f}",
            f"{routing.longest_routing_seconds:.2f}",
            f"{routing.cpu_seconds / routing.num_batches * 1e3:.2f}",
        ])  # fmt: skip
    columns = ("", "devices busy", "sent/batch", "probes/batch", "longest, s", "CPU ms/batch")
    print_table("Serve's router among fake replicas, in simulated time", columns, rows)


def measure_keeper(sizes: Sizes) -> None:
    """Measure the pool's keeper: reports of finished batches, and its answers to health checks."""
    rows = []
    for num_actors in sizes.actors:
        keeper: Any = PoolKeeper.remote(sizes.spec(num_actors).config)
        names = [f"host:{actor}" for actor in range(num_actors)]
        ray.get([keeper.add_load.remote(name, sizes.batch_size, 0.0) for name in names])
        done = WorkCounts(num_images_made=sizes.batch_size, working_seconds=1.0)
        reports = [partial(keeper.add_work.remote, name, sizes.batch_size, REQUESTS_PER_ACTOR, done) for name in names]
        rates = [calls_per_second(calls, sizes.seconds) for calls in (reports, [keeper.snapshot.remote])]
        ray.kill(keeper)
        rows.append([f"{num_actors:,} actors", *(f"{rate:,.0f}" for rate in rates)])
    print_table("The pool's keeper", ("", "reports/s", "health checks/s"), rows)


def calls_per_second(calls: Sequence[Callable[[], Any]], seconds: float) -> float:
    """Return the rate of calls to an actor, made in turn, with `PENDING_CALLS` of them pending."""
    turns = itertools.cycle(calls)
    pending = [next(turns)() for _ in range(PENDING_CALLS)]
    began_at, num_done = time.monotonic(), 0
    while (elapsed := time.monotonic() - began_at) < seconds:
        done, pending = ray.wait(pending, num_returns=PENDING_CALLS // 2)
        num_done += len(done)
        pending += [next(turns)() for _ in done]
    return num_done / elapsed


def measure_handle(sizes: Sizes) -> None:
    """Measure one requester in this process, with a Serve handle to a virtual pool in one process."""
    rows = []
    for num_actors in sizes.actors:
        spec = sizes.spec(num_actors)
        _, window = requesters_of(spec)
        with virtual_pool(spec) as service:
            rate = rate_of(requested(service, spec, window), spec, sizes.seconds)
        devices_ms = rate.cpu_seconds["virtual devices"] * 1e3
        rows.append([f"{num_actors:,} actors", f"{window}", *rate.cells(), f"{devices_ms:.2f}"])
    columns = ("", "window", *RATE_COLUMNS, "devices' CPU ms/batch")
    print_table("One of the requesters, with a Serve handle", columns, rows)


def measure_replicas(sizes: Sizes) -> None:
    """Measure Serve's router and controller with several real replicas, each of one device of a second per batch."""
    rows = []
    for num_processes in sizes.processes:
        spec = sizes.spec(num_processes, 1.0)
        with virtual_pool(spec, num_processes) as service:
            window = REQUESTS_PER_ACTOR * num_processes
            rate = rate_of(requested(service, spec, window), spec, sizes.seconds)
            controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
            health = cast(dict[str, Any], ray.get(controller.get_health_metrics.remote()))
        rows.append([
            f"{num_processes}",
            f"{rate.batches_per_second / spec.nominal:.3f}",
            *rate.cells(),
            f"{health['loop_duration_s']['mean'] * 1e3:.1f}",
            f"{rate.cpu_seconds[CONTROLLER] * rate.batches_per_second:.3f}",
        ])  # fmt: skip
    columns = ("replicas", "of nominal", *RATE_COLUMNS, "controller's loop, ms", "controller's cores")
    print_table("Serve's router and controller with real replicas", columns, rows)


def measure_executor(sizes: Sizes) -> None:
    """Measure Ray Data: request actors whose batches are ready at once, and an executor in this process."""
    rows = []
    for num_actors in sizes.actors:
        spec = sizes.spec(num_actors)
        num_requesters, window = requesters_of(spec)
        dataset = streamed(cast(Any, LocalPool(spec)), spec)
        rows_of = dataset.iter_batches(batch_size=spec.batch_size, batch_format="numpy", prefetch_batches=1)
        rate = rate_of(cast(Iterator[PassBatch], iter(rows_of)), spec, sizes.seconds)
        asking_ms = rate.cpu_seconds["requesters"] * 1e3
        rows.append([f"{num_actors:,} actors", f"{num_requesters}", f"{window}", *rate.cells(), f"{asking_ms:.2f}"])
    columns = ("", "requesters", "window", *RATE_COLUMNS, "requesters' CPU ms/batch")
    print_table("Ray Data, without Serve", columns, rows)


def streamed(service: GenerationService, spec: PoolSpec) -> Dataset:
    """Return the stream of a whole pool."""
    recipe = build_recipe(RecipeConfig(generator="painted", image_size=spec.image_size, num_inference_steps=1))
    return stream_samples(service, recipe, spec.config, all_samples(spec))


def measure_together(sizes: Sizes) -> None:
    """Measure the whole stream into a loader: as fast as it goes, and at a nominal rate that two cores can carry."""
    for num_actors in sizes.actors:
        for batch_seconds in (0.0, num_actors / PACED_BATCHES_PER_SECOND):
            spec = sizes.spec(num_actors, batch_seconds)
            seconds = max(sizes.seconds, 2 * batch_seconds)
            with virtual_pool(spec) as service:
                here = [ray.get_runtime_context().get_node_id()]
                (shard,) = streamed(service, spec).streaming_split(1, locality_hints=here)
                rate = rate_of(taken(shard, spec), spec, seconds)
            of_nominal = f", {rate.batches_per_second / spec.nominal:.3f} of nominal" if batch_seconds else ""
            print_processes(f"{num_actors:,} actors, {batch_seconds:g} s per batch{of_nominal}", rate)


def print_processes(title: str, rate: Rate) -> None:
    """Print what each kind of process needs, and the rate at which each process would need a core of its own."""
    rows = [
        [
            kind,
            f"{rate.num_processes[kind]}",
            f"{seconds * 1e3:.2f}",
            f"{seconds * rate.batches_per_second:.2f}",
            f"{rate.num_processes[kind] / seconds:,.0f}" if seconds else "",
        ]
        for kind, seconds in sorted(rate.cpu_seconds.items(), key=lambda each: -each[1])
    ]
    columns = ("", "processes", "CPU ms/batch", "cores", "batches/s at a core each")
    print_table(f"Together: {title}: {rate.batches_per_second:.1f} batches/s", columns, rows)


def rate_of(batches: Iterator[PassBatch], spec: PoolSpec, seconds: float) -> Rate:
    """Take batches for `seconds`, after a warm-up and two batches of each device; return their rate."""
    warm_up_seconds = max(WARM_UP_FRACTION * seconds, 2 * spec.batch_seconds)
    _take(batches, warm_up_seconds)
    before = cpu_seconds()
    num_images, elapsed = _take(batches, seconds)
    used = cpu_seconds()
    close = getattr(batches, "close", None)
    if close:
        close()
    num_batches = num_images / spec.batch_size
    spent: dict[str, float] = {}
    for (kind, process), total in used.items():
        spent[kind] = spent.get(kind, 0.0) + (total - before.get((kind, process), 0.0)) / num_batches
    return Rate(num_batches / elapsed, spent, dict(Counter(kind for kind, _ in used)))


def _take(batches: Iterator[PassBatch], seconds: float) -> tuple[int, float]:
    """Take batches; return the number of images after the first one, and the time since then."""
    next(batches)
    began_at, num_images = time.monotonic(), 0
    while (elapsed := time.monotonic() - began_at) < seconds:
        num_images += len(next(batches)["label"])
    return num_images, elapsed


def cpu_seconds() -> dict[tuple[str, int], float]:
    """Return the CPU time so far of this process and of Ray's, which it started, by kind and process id."""
    own = psutil.Process()
    times = {(DRIVER, own.pid): _cpu_seconds(own)}
    for process in own.children(recursive=True):
        with suppress(psutil.Error):
            times[kind_of(" ".join(process.cmdline()) or process.name()), process.pid] = _cpu_seconds(process)
    return times


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def kind_of(title: str) -> str:
    """Return what a process of Ray is, by its title or command line."""
    named = os.path.basename(title.split(" ", 1)[0]) if title.startswith("/") else title
    return next((kind for part, kind in KINDS.items() if part in named), "other")


PARTS: dict[str, Callable[[Sizes], None]] = {
    "requester": measure_requester,
    "take": measure_take,
    "router": measure_router,
    "keeper": measure_keeper,
    "handle": measure_handle,
    "replicas": measure_replicas,
    "executor": measure_executor,
    "together": measure_together,
}
"""The parts, alone and at last together, by the name that selects them."""

NEED_RAY = {"keeper", "handle", "replicas", "executor", "together"}


def numbers(_context: click.Context, _option: click.Parameter, text: str) -> list[int]:
    """Return comma-separated numbers."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text} is not a list of numbers, such as 256,1024.") from error


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only this part; may be repeated.")
@click.option("--actors", default="256,1024", callback=numbers, help="Sizes of the pool.")
@click.option("--processes", default="1,8,16,32", callback=numbers, help="Replicas of Ray Serve, for `replicas`.")
@click.option("--seconds", default=10.0, help="Time of each measurement, after a warm-up.")
@click.option("--batch-size", default=8, help="Images in a batch.")
@click.option("--image-size", default=32, help="Height and width of an image, in pixels.")
def main(parts: tuple[str, ...], **sizes: Any) -> None:
    """Measure the parts, one after the other, and print their tables."""
    chosen = parts or tuple(PARTS)
    with ExitStack() as stack:
        if set(chosen) & NEED_RAY:
            start_local()
            stack.callback(ray.shutdown)
        for part in chosen:
            PARTS[part](Sizes(**sizes))


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
