import sys

from ray_jobs.cli.own_packages import check_own_packages
from ray_jobs.cli.termination import TERMINATION

if sys.argv[:1] == ["-m"]:  # while `python -m` searches for the command
    TERMINATION.handle()  # imports take seconds
    check_own_packages()
