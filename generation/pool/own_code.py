"""A generator actor runs its own job's code, and has nothing of another job's environment.

Ray Serve's controller outlives the job that started it. The actors that it starts import modules from where that job's
driver did, and have that job's environment variables (Ray 2.60). So Serve gets `OwnCodeReplica`, pickled by value: it
needs no module of ours before it has put its own job's first.
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

PACKAGE = "generation"

PACKAGES_OF_ENVIRONMENT = ("pip", "uv", "conda", "py_modules", "container", "image_uri")
"""Parts of a runtime environment that decide which versions of packages a process imports."""


@dataclass(frozen=True)
class JobCode:
    """The code and the runtime environment of a job, as its driver has them."""

    root: str
    """The folder that holds the package."""

    sha256: str
    runtime_env: dict[str, Any]


def code_of_driver(runtime_env: dict[str, Any]) -> JobCode:
    """Return this process's code, with the runtime environment of its actors."""
    root = Path(__file__).parents[2]
    return JobCode(str(root), package_sha256(root), runtime_env)


def package_sha256(root: Path) -> str:
    """Return a hash of the package's Python files, their names included."""
    digest = hashlib.sha256()
    for path in sorted((root / PACKAGE).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def use(code: JobCode) -> None:
    """Let this process import the job's own code; ValueError if it is not on this node, or has packages of another job.

    Environment variables that runtime environments of other jobs have set are what they are on the node.
    """
    runtime_env = ray.get_runtime_context().runtime_env
    for key in PACKAGES_OF_ENVIRONMENT:
        if runtime_env.get(key) and key not in code.runtime_env:
            raise ValueError(
                f"Generator actors would have '{key}' of the runtime environment of the job that started Ray Serve on "
                "this cluster. Run serve shutdown once no job uses it, or give this job the same runtime environment."
            )
    _restore({*(runtime_env.get("env_vars") or {})} - {*(code.runtime_env.get("env_vars") or {})})
    roots = [code.root, *([os.getcwd()] if runtime_env.get("working_dir") else [])]
    root = next((root for root in roots if package_sha256(Path(root)) == code.sha256), None)
    if root is None:
        raise ValueError(
            f"Figment's code in '{roots[-1]}' on {socket.gethostname()} differs from the driver's in '{code.root}' "
            "and might make other images. Install the same version on all nodes, or submit the job with --working-dir."
        )
    sys.path.insert(0, root)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def _restore(names: Iterable[str]) -> None:
    """Give environment variables the values that this worker's raylet has, Ray's own aside."""
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
    """A `GeneratorReplica` of this job's own code."""

    def __init__(self, code: JobCode, keeper: ActorHandle, pickled: bytes) -> None:
        """Take the job's code, and recipe and settings as its driver has pickled them."""
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
