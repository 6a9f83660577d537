"""All measurements on one GPU in 8 minutes: `python -m benchmarks.device [--tiny] [--out FOLDER]`.

Needs neither Ray nor a network. Runs the tests marked `gpu`; Stable Diffusion 1.4's architecture with random weights
in the engine and in diffusers' pipeline; the fast preset and the paper's; training steps; copies overlapping the next
batch; batch sizes; float32. `device.json` and `device.md` are rewritten after each step. A failed part is recorded with
its error, the others continue, and the exit status is 1. The table
marks measurements that were skipped for lack of time.

`--tiny` runs the same parts on a CPU with tiny models. `--parts engine,training` runs only those. `--commit ID` names
the commit in a copy of the files without the repository.
"""

import faulthandler
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from benchmarks.deadline import deadlines
from benchmarks.device_facts import facts
from benchmarks.device_parts import PLANNED_PARTS, TINY, PlannedPart, Run, Size
from benchmarks.device_report import Part, Report, one_line, to_json, to_markdown
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.run_folder import check_output, resolve, write_anew

TOTAL_SECONDS = 440.0
"""Time limit; a measurement that would end later is skipped."""

HARD_SECONDS = 460.0
"""Time after the imports at which a hanging run is ended with a traceback; its results so far are in the files."""


@click.command()
@click.option("--tiny", is_flag=True)
@click.option("--out", default="runs/device")
@click.option("--parts", default="")
@click.option("--commit", default="")
def main(tiny: bool, out: str, parts: str, commit: str) -> None:
    """Check the options, run the parts, print the table."""
    with user_errors():
        size, planned_parts = choose_size(tiny), choose_parts(parts)
        folder = resolve(out)
        check_output(folder)
    faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(facts(size.on_gpu, commit))
    with tempfile.TemporaryDirectory() as weights:
        run_parts(planned_parts, Run(size, folder, Path(weights)), report, time.monotonic() + TOTAL_SECONDS)
    faulthandler.cancel_dump_traceback_later()
    print(to_markdown(report))
    sys.exit(1 if report.failed else 0)


def choose_size(is_tiny: bool) -> Size:
    """Return the size of the measurements; ValueError if they need a GPU and there is none."""
    if is_tiny:
        return TINY
    if not torch.cuda.is_available():
        raise ValueError(
            "torch finds no GPU. Check the driver and torch's build, or use --tiny to try the script on the CPU."
        )
    return Size()


def choose_parts(names: str) -> list[PlannedPart]:
    """Return the parts with these comma-separated names, or all if empty; ValueError for an unknown name."""
    known = {planned.name.replace(" ", "_"): planned for planned in PLANNED_PARTS}
    wanted = names.split(",") if names else list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--parts has the unknown part '{unknown[0]}'. Use {', '.join(known)}.")
    return [known[name] for name in wanted]


def run_parts(planned_parts: Sequence[PlannedPart], run: Run, report: Report, end_at: float) -> None:
    """Run all parts in order and write the report after each step."""
    report.parts = [Part(planned.name) for planned in planned_parts]
    write(report, run.out)
    each_deadline = deadlines(end_at, [planned.seconds for planned in planned_parts])
    for planned, part, deadline in zip(planned_parts, report.parts, each_deadline, strict=True):
        started_at = time.monotonic()
        try:
            for lines in planned.lines(run, deadline):
                part.lines, part.seconds = list(lines), time.monotonic() - started_at
                write(report, run.out)
        except Exception as error:  # the other parts still run; the exit status is 1
            logging.getLogger(__name__).exception("%s failed.", planned.name)
            part.error = one_line(error)
        free_memory()
        part.seconds = time.monotonic() - started_at
        write(report, run.out)
        print(f"{planned.name}: {part.seconds:.0f} s", file=sys.stderr, flush=True)


def write(report: Report, out: Path) -> None:
    """Write both files atomically."""
    write_anew(out / "device.json", to_json(report))
    write_anew(out / "device.md", to_markdown(report))


def free_memory() -> None:
    """Free the device's memory for the next part."""
    gc.collect()
    if torch.cuda.is_available():
        torch.compiler.reset()  # also frees the memory of CUDA graphs
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
