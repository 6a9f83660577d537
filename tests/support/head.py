"""A cluster's head on this machine, as `ray start --head` starts it, with the server that jobs are submitted to."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.s3 import free_port

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """Where a head is reached, and by whom."""

    address: str
    """What RAY_ADDRESS has to be for a driver."""

    jobs_url: str
    token: str

    def ask(self, path: str) -> Any:
        """Return what the server of jobs says; Ray's own clients would keep the token of the process's first one."""
        request = urllib.request.Request(
            f"{self.jobs_url}/api/{path}", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def started_head(token: str, num_cpus: int) -> Iterator[Head]:
    """Yield a head that asks for a token and that this machine alone can reach; end all its processes."""
    ports = [free_port() for _ in range(4)]
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    temp_dir = tempfile.mkdtemp()  # in pytest's folders the names of sockets would be too long
    head = Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", token)
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--disable-usage-stats", "--dashboard-host=127.0.0.1"]
        + [f"--num-cpus={num_cpus}", f"--temp-dir={temp_dir}"]
        + [f"--{name}={port}" for name, port in zip(names, ports, strict=True)],
        env=os.environ | head.environment | {"RAY_prestart_worker_first_driver": "0"},  # jobs' workers have own paths
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_up(process, head)
        yield head
    finally:
        end(process)
        shutil.rmtree(temp_dir, ignore_errors=True)


def wait_until_up(process: subprocess.Popen, head: Head) -> None:
    """Return when jobs can be submitted."""
    give_up_at = time.monotonic() + 90
    while True:
        try:
            head.ask("jobs/")
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.2)


def end(process: subprocess.Popen) -> None:
    """End a head and what it has started: in order, which may take Ray half a minute, or else after a few seconds."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, ending)
            process.wait(timeout=3)
