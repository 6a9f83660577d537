import pytest

from ray_jobs.cluster import Demand, place

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


def test_generation_and_training_are_placed_together():
    training = Demand("training workers", 1, {"CPU": 1.0, "GPU": 1.0}, "Lower training.num_workers")
    with pytest.raises(ValueError, match="placed beside the rest"):
        place([actors(2, GPU=1, CPU=0.5), training], [GPU_NODE])
