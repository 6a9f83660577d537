"""A head node on this machine, started with `ray start --head`, with the job submission server."""

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
    """Address and token of a head node."""

    address: str
    """Value of RAY_ADDRESS for a driver."""

    jobs_url: str
    token: str

    def request(self, path: str) -> Any:
        """Return the job server's JSON response; Ray's own clients cache the first token of a process."""
        http_request = urllib.request.Request(
            f"{self.jobs_url}/api/{path}", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(http_request, timeout=30) as response:
            return json.load(response)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process can connect."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def started_head(token: str, num_cpus: int) -> Iterator[Head]:
    """Yield a head that requires a token and listens on loopback; stop all its processes afterwards."""
    ports = [free_port() for _ in range(4)]
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    temp_dir = tempfile.mkdtemp()  # in pytest's folders socket paths would be too long
    head = Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", token)
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--disable-usage-stats", "--dashboard-host=127.0.0.1"]
        + [f"--num-cpus={num_cpus}", f"--temp-dir={temp_dir}"]
        + [f"--{name}={port}" for name, port in zip(names, ports, strict=True)],
        env=os.environ
        | head.environment
        | {"RAY_prestart_worker_first_driver": "0"},  # workers of jobs have their own paths
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
    """Wait until jobs can be submitted."""
    give_up_at = time.monotonic() + 90
    while True:
        try:
            head.request("jobs/")
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.2)


def end(process: subprocess.Popen) -> None:
    """Terminate a head and its processes; kill them after 3 s, as Ray may take half a minute to terminate."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, ending)
            process.wait(timeout=3)
