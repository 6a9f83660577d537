"""Check the benchmarks' ratios against their floors: `python -m benchmarks.nightly`.

Each benchmark runs in its own process. It runs a second time only if a ratio is below its floor in the first try. Exit
status 1 if a ratio is below its floor in both tries, or if a benchmark crashes. Needs an otherwise idle machine.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from benchmarks.floors import below_floor, check_names, read_floors
from ray_jobs.cli.errors import user_errors
from ray_jobs.job.tables import text_table

Ratios = Mapping[str, float]
Benchmark = Callable[[], Ratios]

TIMEOUT_SECONDS = 900.0
"""Timeout for one try of a benchmark, about four times the duration of the longest on two cores."""

END_SECONDS = 30.0
"""Time for a benchmark to terminate after its timeout, before it is killed."""

PAINTED = ("ray_jobs/configs/benchmark.yaml", "training.num_images=6400")
"""Config and settings of the benchmarks with painted images: 50 s at the nominal rate of 128 images/s."""

SHARED = (PAINTED[0], "training.num_images=2560", "recipe.image_size=128")
"""20 s at the nominal rate, with images that two cores can copy to eight learners."""

DIGITS = ("ray_jobs/configs/digits.yaml", "generation.threads_per_actor=2")


class CrashError(Exception):
    """A benchmark ended without ratios; the message has the reason."""


@dataclass(frozen=True)
class BenchmarkResult:
    """The ratios and the crash, if any, of one benchmark."""

    tries: tuple[Ratios, ...]
    """Ratios of each try that did not crash. A second try follows only if the first missed a floor."""

    crash: str = ""
    """Reason of the crash that ended the last try, or ''."""


@dataclass(frozen=True)
class Line:
    """A row of the table, about one ratio or one crash."""

    name: str
    floor: float | None
    tries: tuple[float, ...]
    verdict: str
    is_failure: bool


def delivery() -> Ratios:
    """Return the stream's rate as a fraction of the nominal rate."""
    from benchmarks.delivery import ratios

    return ratios(PAINTED)


def shards() -> Ratios:
    """Return the rates of writing, teeing and reading shards as fractions of their references."""
    from benchmarks.shards import ratios

    return ratios(PAINTED)


def sharing() -> Ratios:
    """Return images and time of one learner as fractions of those of eight that share a pool."""
    from benchmarks.sharing import ratios

    return ratios(SHARED)


def engine() -> Ratios:
    """Return the engine's rates as multiples of the stock pipeline's."""
    from benchmarks.engine import ratios

    return ratios(DIGITS)


def augment() -> Ratios:
    """Return the augmentation's rates as multiples of torchvision's."""
    from benchmarks.augment import ratios

    return ratios()


BENCHMARKS: dict[str, Benchmark] = {
    "delivery": delivery,
    "shards": shards,
    "sharing": sharing,
    "engine": engine,
    "augment": augment,
}
"""Benchmarks in the order in which they run, by their section in the floors file."""


def main() -> None:
    """Run all benchmarks, print the table; exit status 1 if a ratio misses its floor twice or a benchmark crashes."""
    with user_errors():
        floors = read_floors()
        check_names("benchmark", BENCHMARKS, floors)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="figment-") as folder:
        os.environ["RAY_TMPDIR"] = folder  # Ray's session folders are deleted with it
        for name, benchmark in BENCHMARKS.items():
            lines += lines_of(name, try_twice(name, benchmark, floors[name]), floors[name])
    Console(width=120).print(table_of(lines))
    if failures := [f"{line.name}: {line.verdict}" for line in lines if line.is_failure]:
        sys.exit("\n".join(failures))


def try_twice(name: str, benchmark: Benchmark, floors: Ratios) -> BenchmarkResult:
    """Run a benchmark, and run it again if a ratio is below its floor. There is no try after a crash."""
    tries: list[Ratios] = []
    while len(tries) < 2 and (not tries or below_floor(tries[0], floors)):
        started_at = time.monotonic()
        try:
            tries.append(in_own_process(benchmark))
        except CrashError as crash:
            return BenchmarkResult(tuple(tries), str(crash))
        print(f"{name}, try {len(tries)}: {time.monotonic() - started_at:.0f} s", flush=True)
    return BenchmarkResult(tuple(tries))


def lines_of(benchmark: str, outcome: BenchmarkResult, floors: Ratios) -> Iterator[Line]:
    """Yield a line for each measured ratio, and a line for a crash."""
    misses = [below_floor(ratios, floors) for ratios in outcome.tries]
    for name, floor in floors.items() if outcome.tries else ():
        num_missed = sum(name in missed for missed in misses)
        is_failure = num_missed == 2
        verdict = "missed twice" if is_failure else "missed once" if num_missed else "met"
        tries = tuple(ratios[name] for ratios in outcome.tries)
        yield Line(f"{benchmark}: {name}", floor, tries, verdict, is_failure)
    if outcome.crash:
        yield Line(benchmark, None, (), f"crashed at try {len(outcome.tries) + 1}, {outcome.crash}", is_failure=True)


def table_of(lines: list[Line]) -> Table:
    """Return a table with the columns ratio, floor, first try, second try and verdict."""
    columns, rows = ("ratio", "floor", "first try", "second try", "verdict"), []
    for line in lines:
        floor = "" if line.floor is None else f"{line.floor:.2f}"
        first, second = (*(f"{ratio:.3f}" for ratio in line.tries), "", "")[:2]
        rows.append([line.name, floor, first, second, line.verdict])
    return text_table("", columns, rows, text=("ratio", "verdict"))


def in_own_process(benchmark: Benchmark, timeout_seconds: float = TIMEOUT_SECONDS) -> Ratios:
    """Run a benchmark in a new process and return its ratios; CrashError if it crashes or times out."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, benchmark))
    process.start()
    sender.close()  # so that poll() returns if the process dies
    try:
        if not receiver.poll(timeout_seconds):
            process.terminate()
            process.join(END_SECONDS)
            process.kill()
            raise CrashError(f"not finished after {timeout_seconds:g} s")
        return receiver.recv()
    except EOFError as error:
        process.join()
        raise CrashError(f"exit status {process.exitcode}") from error
    finally:
        receiver.close()
        process.join()


def _send(sender: Connection, benchmark: Benchmark) -> None:
    sender.send(benchmark())
    sender.close()


if __name__ == "__main__":
    main()
