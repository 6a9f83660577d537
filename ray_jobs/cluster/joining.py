"""Check whether a running Ray cluster can be joined: its head's address, its response, its versions."""

import json
import logging
import os
import socket
from typing import Any

from ray._common.network_utils import is_localhost  # pyright: ignore[reportAttributeAccessIssue]
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.utils import check_version_info, compute_version_info
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import AuthenticationError, RpcError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""Timeout for a TCP connection to a cluster's head."""

OWN_RAY = "RAY_ADDRESS=local starts a local Ray for this job"


def running_address() -> str | None:
    """Return the cluster named by RAY_ADDRESS or the last `ray start` on this machine; None if neither names one."""
    # `auto` would also find another job's private Ray, and wait at an address on which that Ray does not listen.
    if os.environ.get("RAY_ADDRESS") == "auto":
        del os.environ["RAY_ADDRESS"]
    try:
        address = services.get_ray_address_from_environment(None, None)  # pyright: ignore[reportArgumentType]
    except PermissionError:  # the cluster belongs to another account
        return None
    return None if address == "local" else address


def is_reachable(address: str) -> bool:
    """Return whether a cluster responds; ValueError if it cannot be joined, or does not respond at RAY_ADDRESS.

    Without this check `ray.init` tries for 15 minutes where nothing responds, and for 20 seconds with a wrong token.
    """
    named = os.environ.get("RAY_ADDRESS")
    address = head_address(address)
    try:
        _connect(address)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as Ray does for a cluster it discovers
        ensure_token_if_auth_enabled(create_token_if_missing=False)
        versions = GcsClient(address=address).internal_kv_get(
            CLUSTER_METADATA_KEY, namespace=ray_constants.KV_NAMESPACE_CLUSTER
        )
    except AuthenticationError as error:
        raise ValueError(
            f"The Ray cluster at {address} requires a token; this process has none or a different one. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the head. If the cluster "
            f"belongs to another account, {OWN_RAY}."
        ) from error
    except (OSError, RpcError) as error:
        if named:
            raise ValueError(
                f"RAY_ADDRESS is '{named}', but no Ray cluster responds there. Start the cluster, or unset RAY_ADDRESS."
            ) from error
        logger.warning("The Ray cluster at %s, last started here, does not respond; starting a local Ray.", address)
        return False
    if versions:  # the head writes them once it is running
        check_versions(address, json.loads(versions))
    return True


def check_versions(address: str, versions: dict[str, Any]) -> None:
    """Raise ValueError if a cluster's Ray or Python version, from its metadata, differs from this process's."""
    try:
        check_version_info(versions, "this machine")
    except RuntimeError as error:
        own_ray, own_python = compute_version_info()
        raise ValueError(
            f"The cluster at {address} has Ray {versions['ray_version']} and Python {versions['python_version']}; this "
            f"process has Ray {own_ray} and Python {own_python}. Install the cluster's versions here, or use ray job "
            f"submit to run with them. {OWN_RAY}."
        ) from error


def head_address(address: str) -> str:
    """Return a head's HOST:PORT in Ray's own form; ValueError if it is not such an address.

    Ray replaces loopback by the machine's outer address. A head that listens on loopback only is joined there.
    """
    try:
        host, _, port = address.rpartition(":")
        if "//" in host:
            raise ValueError(f"{address} is a URL")
        head = _as_ray_takes_it(host, int(port))
    except ValueError as error:
        raise ValueError(
            f"RAY_ADDRESS is '{address}'; use HOST:PORT of the cluster's head. Or unset it and submit the job: "
            "ray job submit --address http://HOST:8265 --working-dir . -- python -m ray_jobs...."
        ) from error
    if is_localhost(host) and not _listens(head) and _listens(f"127.0.0.1:{port}"):
        bind_to_loopback()
        return _as_ray_takes_it(host, int(port))
    return head


def bind_to_loopback() -> None:
    """Make this process's Ray use 127.0.0.1 only, for listening and for joining a head on loopback.

    Anyone who can reach Ray's ports can run code. `_node_ip_address="127.0.0.1"` does not help: Ray turns it into the
    machine's outer address and listens on all interfaces. The switch named after Windows and macOS works on Linux.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _as_ray_takes_it(host: str, port: int) -> str:
    return str(services.canonicalize_bootstrap_address(f"{host}:{port}"))


def _connect(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _listens(address: str) -> bool:
    try:
        _connect(address)
    except OSError:
        return False
    return True
