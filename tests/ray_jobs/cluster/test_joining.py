"""Joining a running cluster, without one."""

import os
import platform
import socket
from collections.abc import Iterator

import pytest
import ray
from ray._private import ray_constants, services

from ray_jobs.cluster import connect as cluster
from ray_jobs.cluster.connect import join, start_local
from ray_jobs.cluster.joining import check_versions, head_address, is_reachable, running_address


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server on 127.0.0.1 only, on a machine whose outer address is 127.0.0.2."""
    monkeypatch.setattr(services, "node_ip_address_from_perspective", lambda address=None: "127.0.0.2")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr("ray._private.worker._global_node", None)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_head_on_loopback_only_is_joined_there(port: int, host: str):
    assert head_address(f"{host}:{port}") == f"127.0.0.1:{port}"
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # for the driver's own address


def test_head_on_the_outer_address_is_joined_there(port: int):
    with socket.create_server(("127.0.0.2", port)):
        assert head_address(f"127.0.0.1:{port}") == f"127.0.0.2:{port}"
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"


def test_dead_last_cluster_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not is_reachable("127.0.0.2:1")
    assert "The Ray cluster at 127.0.0.2:1, last started here, does not respond; starting a local Ray." in caplog.text


def test_unreadable_address_of_another_account_is_ignored(monkeypatch: pytest.MonkeyPatch):
    def unreadable(temp_dir: str | None) -> str:
        raise PermissionError

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", unreadable)
    assert running_address() is None


OWN = {"ray_version": ray.__version__, "python_version": platform.python_version()}


def test_cluster_with_the_same_versions_is_joined():
    check_versions("10.0.0.1:6379", OWN)


@pytest.mark.parametrize("other", [{"ray_version": "2.1.0"}, {"python_version": "3.9.1"}])
def test_version_mismatch_error_names_both_versions(other: dict[str, str]):
    theirs = OWN | other
    message = (
        f"cluster at 10.0.0.1:6379 has Ray {theirs['ray_version']} and Python {theirs['python_version']}; this "
        f"process has Ray {OWN['ray_version']} and Python {OWN['python_version']}"
    )
    with pytest.raises(ValueError, match=message):
        check_versions("10.0.0.1:6379", theirs)


def test_cluster_without_a_node_here_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object, **__: object) -> None:
        try:
            raise RuntimeError("No node info found")
        except RuntimeError as error:
            raise ConnectionError("Failed to connect") from error

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(ValueError, match=r"at 10\.0\.0\.1:6379 is running, but .* \(No node info found\)"):
        join("10.0.0.1:6379")


def test_failed_start_of_local_ray_is_an_error_and_saves_the_traceback(monkeypatch: pytest.MonkeyPatch):
    def late(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.\nDetails")

    monkeypatch.setattr(ray, "init", late)
    for name in ("bind_to_loopback", "_use_own_token"):
        monkeypatch.setattr(cluster, name, lambda: None)
    with pytest.raises(ValueError, match=r"Ray did not start on this machine \(The current node timed out during") as e:
        start_local()
    trace = str(e.value).split("The full traceback is in ")[1].split(". ")[0]
    with open(trace) as file:
        assert file.read().rstrip().endswith("Exception: The current node timed out during startup.\nDetails")
