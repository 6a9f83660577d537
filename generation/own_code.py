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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

PACKAGE = "generation"


@dataclass(frozen=True)
class JobCode:
    """The code and the environment of a job, as its driver has them."""

    root: str
    """The folder that holds the package."""

    sha256: str
    env_vars: dict[str, str]
    """All that the job's actors have of runtime environments."""


def code_of_driver(env_vars: dict[str, str]) -> JobCode:
    """Return this process's code, with the environment variables of its actors."""
    root = Path(__file__).parents[1]
    return JobCode(str(root), package_sha256(root), env_vars)


def package_sha256(root: Path) -> str:
    """Return a hash of the package's Python files, their names included."""
    digest = hashlib.sha256()
    for path in sorted((root / PACKAGE).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def use(code: JobCode) -> Path:
    """Let this process import the job's own code, and return the folder that holds it.

    Environment variables that runtime environments of other jobs have set are removed.
    """
    runtime_env = ray.get_runtime_context().runtime_env
    for name in runtime_env.get("env_vars") or {}:
        if name not in code.env_vars and not name.startswith("RAY_"):
            os.environ.pop(name, None)
    own_package = [os.getcwd()] if runtime_env.get("working_dir") else []
    sys.path[:0] = [*own_package, code.root]
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    return Path(str(importlib.import_module(PACKAGE).__file__)).parents[1]


def check_same(code: JobCode, root: Path) -> None:
    """Raise ValueError if the code in a folder is not the driver's."""
    if package_sha256(root) != code.sha256:
        raise ValueError(
            f"Figment's code in '{root}' on {socket.gethostname()} differs from the driver's in '{code.root}', and "
            "might make other images. Install the same version on all nodes, or submit the job with --working-dir."
        )


class OwnCodeReplica:
    """A `GeneratorReplica` of this job's own code."""

    def __init__(self, code: JobCode, keeper: ActorHandle, pickled: bytes) -> None:
        """Take the job's code, and recipe and settings as its driver has pickled them."""
        try:
            check_same(code, use(code))
        except Exception as error:
            ray.get(keeper.add_load_error.remote(f"{socket.gethostname()}:{os.getpid()}", f"{error}"))
            raise
        replica_of = importlib.import_module("generation.replica").GeneratorReplica
        self.replica = replica_of(*pickle.loads(pickled), keeper)

    async def generate(self, indices: Sequence[int]) -> Any:
        """Return the samples of these indices."""
        return await self.replica.generate(indices)

    async def check_health(self) -> None:
        """Raise if the replica is not healthy."""
        await self.replica.check_health()
