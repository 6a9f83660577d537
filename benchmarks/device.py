"""All that is measured on a first GPU, in 8 minutes: `python -m benchmarks.device [--tiny] [--out FOLDER]`.

Needs neither Ray nor a network. It runs the tests marked `gpu`; Stable Diffusion 1.4's architecture with random weights
in the engine and in diffusers' own pipeline; the fast preset beside the paper's; training steps; copies beside the next
batch; batch sizes; float32. `device.json` and `device.md` are written again after each step. A part that fails is
written down with its error and the others go on; the exit status is then 1. What there was no time for is in the table.

`--tiny` runs the same parts on a CPU with tiny models. `--parts engine,training` runs some. `--commit ID` names the
commit in a copy of the files without their repository.
"""

import faulthandler
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.deadline import deadlines
from benchmarks.device_facts import facts
from benchmarks.device_parts import TINY, WORKS, Run, Size, Work
from benchmarks.device_report import Part, Report, one_line, to_json, to_markdown
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.options import split_options
from ray_jobs.job.run_folder import check_output, resolve, write_anew

TOTAL_SECONDS = 440.0
"""Parts begin no line that would end later."""

HARD_SECONDS = 460.0
"""A run that hangs ends here, with a trace; what has been measured is in the files. Imports come before."""


def main() -> None:
    """Check the options, run the parts, print the table."""
    with user_errors():
        options, others = split_options(sys.argv[1:], ("out", "parts", "commit"), flags=("tiny",))
        if others:
            raise ValueError(f"'{others[0]}' is no option. Options are --out, --parts, --commit, --tiny.")
        size, works = choose_size("tiny" in options), choose_works(options.get("parts", ""))
        out = resolve(options.get("out", "runs/device"))
        check_output(out)
    faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
    out.mkdir(parents=True, exist_ok=True)
    report = Report(facts(size.on_gpu, options.get("commit", "")))
    with tempfile.TemporaryDirectory() as weights:
        run_works(works, Run(size, out, Path(weights)), report, time.monotonic() + TOTAL_SECONDS)
    faulthandler.cancel_dump_traceback_later()
    print(to_markdown(report))
    sys.exit(1 if report.failed else 0)


def choose_size(is_tiny: bool) -> Size:
    """Return how much is done; ValueError with the remedy if that needs a GPU and there is none."""
    if is_tiny:
        return TINY
    if not torch.cuda.is_available():
        raise ValueError(
            "torch finds no GPU here. Check the driver and torch's build, or give --tiny to try the script on the CPU."
        )
    return Size()


def choose_works(names: str) -> list[Work]:
    """Return the parts of these names, between commas, or all of them; ValueError for an unknown one."""
    known = {work.name.replace(" ", "_"): work for work in WORKS}
    wanted = names.split(",") if names else list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--parts has '{unknown[0]}'. Parts are {', '.join(known)}.")
    return [known[name] for name in wanted]


def run_works(works: Sequence[Work], run: Run, report: Report, end_at: float) -> None:
    """Run one part after another and write the report after each step."""
    report.parts = [Part(work.name) for work in works]
    write(report, run.out)
    each_deadline = deadlines(end_at, [work.seconds for work in works])
    for work, part, deadline in zip(works, report.parts, each_deadline, strict=True):
        started_at = time.monotonic()
        try:
            for lines in work.lines(run, deadline):
                part.lines, part.seconds = list(lines), time.monotonic() - started_at
                write(report, run.out)
        except Exception as error:  # the other parts are measured all the same; the exit status has it
            logging.getLogger(__name__).exception("%s failed.", work.name)
            part.error = one_line(error)
        free_memory()
        part.seconds = time.monotonic() - started_at
        write(report, run.out)
        print(f"{work.name}: {part.seconds:.0f} s", file=sys.stderr, flush=True)


def write(report: Report, out: Path) -> None:
    """Write both files, each whole at any time."""
    write_anew(out / "device.json", to_json(report))
    write_anew(out / "device.md", to_markdown(report))


def free_memory() -> None:
    """Leave the next part the whole device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.compiler.reset()  # drops the memory of CUDA graphs too
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
