"""A Ray cluster on this machine whose autoscaler adds and removes local processes as nodes.

Ray's own `AutoscalingCluster` lacks a file in the wheel, and stops every Ray on the machine when it ends. From the
shell, `python -m tests.support.autoscaled COMMAND ...` runs a command on a cluster of up to four nodes with a GPU each.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from tests.support.s3 import free_port, wait_until_open

LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listens on loopback only
    "RAY_AUTH_MODE": "disabled",
}

GENERATORS = {
    "resources": {"CPU": 1, "GPU": 1},
    "labels": {"ray.io/node-group": "generator"},
    "max_workers": 4,
}
"""Node type for generators."""

IDLE_MINUTES = 0.05
"""Idle time after which a node is removed, in minutes."""

COMMANDS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""Keys that Ray requires in the config; unused by this cluster's nodes."""


def cluster_config(gcs_address: str, node_types: dict[str, Any], idle_minutes: float) -> dict[str, Any]:
    """Return the autoscaler's config: a head that runs no generators, and the node types it may add."""
    head = {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "autoscaled",
        "max_workers": sum(each["max_workers"] for each in node_types.values()),
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 100.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {FAKE_HEAD_NODE_TYPE: head}
        | {name: {"node_config": {}, "min_workers": 0} | each for name, each in node_types.items()},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "auth": {},
        "file_mounts": {},
    } | {name: [] for name in COMMANDS}


@contextmanager
def autoscaled_cluster(node_types: dict[str, Any], idle_minutes: float) -> Iterator[str]:
    """Start a head and yield its address; stop it and all nodes afterwards."""
    scratch = Path(tempfile.mkdtemp())  # not in pytest's folder: socket paths must be short
    port = free_port()
    config_file = scratch / "cluster.yaml"
    config_file.write_text(yaml.safe_dump(cluster_config(f"127.0.0.1:{port}", node_types, idle_minutes)))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=4"),
        *("--node-ip-address=127.0.0.1", f"--autoscaling-config={config_file}", f"--temp-dir={scratch}/ray"),
        *("--include-dashboard=false", "--disable-usage-stats", "--num-gpus=0"),
    ]
    of_head = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    with (scratch / "head.log").open("w") as log:
        head = subprocess.Popen(
            command, env=os.environ | LOCAL | of_head, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_open(port)
        yield f"127.0.0.1:{port}"
    finally:
        end(head)
        shutil.rmtree(scratch)


def end(head: subprocess.Popen[bytes]) -> None:
    """Stop a head, which stops its nodes."""
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(45)
    finally:
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGKILL)


if __name__ == "__main__":
    with autoscaled_cluster({"generator": GENERATORS}, IDLE_MINUTES) as address:
        on_cluster = os.environ | LOCAL | {"RAY_ADDRESS": address}
        ended = subprocess.run(sys.argv[1:], env=on_cluster, check=False)
    sys.exit(ended.returncode)
