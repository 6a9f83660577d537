"""Run `ray_jobs.train` in Ray Train's local mode: `python -m tests.support.train_in_one_process CONFIG ...`."""

import sys

from ray_jobs.cli.command_line import run
from tests.support.fits import in_this_process

if __name__ == "__main__":
    with in_this_process():
        run(["train", *sys.argv[1:]])
