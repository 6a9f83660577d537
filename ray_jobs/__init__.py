import sys

from ray_jobs.own_packages import check_own_packages

if sys.argv[:1] == ["-m"]:  # so it is while `python -m` looks for a command
    check_own_packages()
