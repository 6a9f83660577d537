import psutil
import pytest
import ray

from ray_jobs import cluster
from ray_jobs.cluster import Demand, connect, place, room_kept

GPU_NODE = {"CPU": 8.0, "GPU": 2.0}
CPU_NODE = {"CPU": 2.0}


def actors(count: int, **resources: float) -> Demand:
    return Demand("generator actors", count, resources, "Lower generation.max_actors")


def test_what_fits_is_not_refused():
    place([actors(4, GPU=1, CPU=1), actors(2, GPU=0, CPU=1)], [GPU_NODE, GPU_NODE, CPU_NODE])


def test_half_gpus_share_a_device_and_a_whole_one_does_not_span_nodes():
    place([actors(4, GPU=0.5)], [GPU_NODE])
    with pytest.raises(ValueError, match="only 0 can ever be placed"):
        place([actors(1, GPU=3)], [GPU_NODE, GPU_NODE])


def test_a_gpu_where_there_is_none_is_said_with_the_numbers():
    with pytest.raises(ValueError, match=r"1 GPU .*has 2 CPU and 0 GPU on 1 nodes\. Lower generation\.max_actors"):
        place([actors(1, GPU=1.0, CPU=0.5)], [CPU_NODE])


def test_work_without_gpus_leaves_the_gpu_node_to_those_who_need_it():
    training = Demand("training workers", 1, {"CPU": 4.0}, "")
    place([actors(1, GPU=1, CPU=0.5), training], [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}])
    place([training, actors(2, CPU=0.5), actors(1, GPU=1, CPU=4)], [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 5.0}])


def test_generation_and_training_are_placed_together():
    training = Demand("training workers", 1, {"CPU": 1.0, "GPU": 1.0}, "Lower training.num_workers")
    with pytest.raises(ValueError, match="placed beside the rest"):
        place([actors(2, GPU=1, CPU=0.5), training], [GPU_NODE])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_local_ray_listens_on_loopback_alone():
    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    listening = [
        connection.laddr
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3  # its head, its node and its workers
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_room_that_another_job_holds_ends_the_wait_and_is_free_again_after_it(monkeypatch):
    monkeypatch.setattr(cluster, "ROOM_GRACE_SECONDS", 2.0)
    everything = Demand("training workers", 1, {"CPU": ray.cluster_resources()["CPU"]}, "Lower training.num_workers")
    with (
        room_kept(everything, wait_seconds=0),
        pytest.raises(ValueError, match=r"1 training workers of \d+ CPU each found no room within 2 s.*Lower training"),
        room_kept(everything, wait_seconds=0),
    ):
        raise AssertionError("there was room twice")
    with room_kept(everything, wait_seconds=10):
        pass


def test_an_address_where_no_cluster_answers_is_said_and_no_other_ray_is_started(monkeypatch):
    def nothing_there(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nothing_there)
    with pytest.raises(ValueError, match=r"RAY_ADDRESS is '127\.0\.0\.1:1', where no Ray cluster answers"):
        connect()
