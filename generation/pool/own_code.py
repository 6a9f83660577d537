"""Make a generator actor run its own job's code in its own job's environment.

Ray Serve's controller outlives the job that started it. Its actors inherit that job's import path and environment
variables (Ray 2.60). Serve therefore gets `OwnCodeReplica`, pickled by value, which imports no Figment module until it
has put its own job's code first on the path.
"""

import hashlib
import importlib
import os
import pickle
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

PACKAGES = ("evaluation", "generation", "training")
"""What generator actors import; all three decide which images they accept."""

PACKAGES_OF_ENVIRONMENT = ("pip", "uv", "conda", "py_modules", "container", "image_uri")
"""Runtime environment keys that decide which package versions a process imports."""


@dataclass(frozen=True)
class JobCode:
    """A job's code and runtime environment, taken from its driver."""

    root: str
    """The folder that contains `PACKAGES`."""

    sha256: str
    runtime_env: dict[str, Any]


def code_of_driver(runtime_env: dict[str, Any]) -> JobCode:
    """Return the code of this process, with the runtime environment for its actors."""
    root = Path(__file__).parents[2]
    return JobCode(str(root), packages_sha256(root), runtime_env)


def packages_sha256(root: Path) -> str:
    """Return a hash of the packages' Python files, including their names."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def use(code: JobCode) -> None:
    """Make this process import the job's own code; ValueError if this node lacks it or packages come from another job.

    Environment variables set by another job's runtime environment are reset to the node's values.
    """
    runtime_env = ray.get_runtime_context().runtime_env
    for key in PACKAGES_OF_ENVIRONMENT:
        if runtime_env.get(key) and key not in code.runtime_env:
            raise ValueError(
                f"Generator actors would inherit '{key}' from the runtime environment of the job that started Ray "
                "Serve on this cluster. Run serve shutdown when no job uses it, or give this job the same runtime "
                "environment."
            )
    _restore({*(runtime_env.get("env_vars") or {})} - {*(code.runtime_env.get("env_vars") or {})})
    roots = [code.root, *([os.getcwd()] if runtime_env.get("working_dir") else [])]
    root = next((root for root in roots if packages_sha256(Path(root)) == code.sha256), None)
    if root is None:
        raise ValueError(
            f"Figment's code in '{roots[-1]}' on {socket.gethostname()} differs from the driver's in '{code.root}' and "
            "could produce different images. Install the same version on all nodes, or submit the job with "
            "--working-dir."
        )
    sys.path.insert(0, root)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]


def _restore(names: Iterable[str]) -> None:
    """Reset environment variables to the values of this worker's raylet, except Ray's own."""
    try:
        entries = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        entries = []
    of_node = dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    for name in names:
        if name.startswith("RAY_"):
            continue
        os.environ.pop(name, None)
        if name in of_node:
            os.environ[name] = of_node[name]


class OwnCodeReplica:
    """A `GeneratorReplica` that runs this job's own code."""

    def __init__(self, code: JobCode, keeper: ActorHandle, pickled: bytes) -> None:
        """Take the job's code, the pool's keeper, and the replica's other arguments, pickled by the driver."""
        try:
            use(code)
        except Exception as error:
            ray.get(keeper.add_load_error.remote(f"{socket.gethostname()}:{os.getpid()}", f"{error}"))
            raise
        replica_of = importlib.import_module("generation.pool.replica").GeneratorReplica
        self.replica = replica_of(*pickle.loads(pickled), keeper)

    async def generate(self, indices: Sequence[int]) -> Any:
        """Return the samples of these indices."""
        return await self.replica.generate(indices)

    async def check_health(self) -> None:
        """Raise if the replica is not healthy."""
        await self.replica.check_health()
