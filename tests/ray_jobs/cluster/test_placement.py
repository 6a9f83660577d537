import dataclasses

import pytest

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from ray_jobs.cluster.placement import Demand, Node, check_pending, place, timeout_message
from ray_jobs.cluster.room import evaluation_demand, generation_demand, training_demand
from training.config import TrainingConfig

GPU_NODE = {"CPU": 8.0, "GPU": 2.0}
CPU_NODE = {"CPU": 2.0}
GROUP, ACCELERATOR = "ray.io/node-group", "ray.io/accelerator-type"


def actors(count: int, selector: dict[str, str] | None = None, **resources: float) -> Demand:
    return Demand("generator actors", count, resources, "Lower generation.max_actors", selector or {})


def workers(count: int, **resources: float) -> Demand:
    return Demand("training workers", count, resources, "Lower training.num_workers")


def nodes(*resources: dict[str, float]) -> list[Node]:
    return [Node(each) for each in resources]


def two_groups() -> list[Node]:
    return [
        Node({"CPU": 0.0}, {GROUP: "head"}),
        Node({"CPU": 8.0, "GPU": 1.0}, {GROUP: "generator", ACCELERATOR: "L4"}),
        Node({"CPU": 48.0, "GPU": 4.0}, {GROUP: "trainer", ACCELERATOR: "A100"}),
    ]


def test_demands_that_fit_are_accepted():
    place([actors(4, GPU=1, CPU=1), actors(2, GPU=0, CPU=1)], nodes(GPU_NODE, GPU_NODE, CPU_NODE))


@pytest.mark.parametrize("cpus", [(6.0, 3.0), (3.0, 6.0)])
def test_process_goes_to_the_node_with_the_fewest_free_cores(cpus: tuple[float, float]):
    place([workers(1, CPU=3), actors(3, CPU=2)], nodes(*({"CPU": each} for each in cpus)))


def test_half_gpus_share_a_device_and_whole_gpus_do_not_span_nodes():
    place([actors(4, GPU=0.5)], nodes(GPU_NODE))
    with pytest.raises(ValueError, match="only 0 fit"):
        place([actors(1, GPU=3)], nodes(GPU_NODE, GPU_NODE))


def test_fraction_of_a_gpu_comes_from_one_device():
    with pytest.raises(ValueError, match=r"3 generator actors of 0\.6 GPU each, but only 2 fit"):
        place([actors(3, GPU=0.6)], nodes(GPU_NODE))  # 1.8 of 2 GPUs, but two leave 0.4 and 0.4
    place([actors(2, GPU=0.6), workers(2, GPU=0.4)], nodes(GPU_NODE))
    with pytest.raises(ValueError, match="only 0 fit beside its other processes"):
        place([actors(1, GPU=0.1), workers(1, GPU=2)], nodes({"GPU": 2.0}))


def test_ten_tenths_fill_one_gpu():
    place([actors(10, GPU=0.1)], nodes({"GPU": 1.0}))
    with pytest.raises(ValueError, match="only 10 fit"):
        place([actors(11, GPU=0.1)], nodes({"GPU": 1.0}))


def test_missing_gpu_error_has_the_numbers():
    with pytest.raises(ValueError, match=r"1 GPU .*has 2 CPU and 0 GPU on 1 nodes\. Lower generation\.max_actors"):
        place([actors(1, GPU=1.0, CPU=0.5)], nodes(CPU_NODE))


def test_cpu_work_leaves_gpu_nodes_free():
    place([actors(1, GPU=1, CPU=0.5), workers(1, CPU=4.0)], nodes({"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}))
    place(
        [workers(1, CPU=4.0), actors(2, CPU=0.5), actors(1, GPU=1, CPU=4)],
        nodes({"CPU": 4.0, "GPU": 1.0}, {"CPU": 5.0}),
    )


def test_generation_and_training_are_placed_together():
    with pytest.raises(ValueError, match="fit beside its other processes"):
        place([actors(2, GPU=1, CPU=0.5), workers(1, CPU=1, GPU=1)], nodes(GPU_NODE))
    place([actors(2, GPU=0.25, CPU=0.5), workers(1, CPU=1, GPU=0.5)], nodes({"CPU": 2.0, "GPU": 1.0}))


def test_missing_group_error_lists_the_existing_groups():
    message = (
        r"2 generator actors of 1 GPU each, but the cluster has no node with ray\.io/node-group=gpus \(its 3 nodes "
        r"have ray\.io/node-group: generator, head, trainer\)\. Add such nodes, or change label_selector; .*"
        r"set generation\.wait_for_nodes_seconds\.$"
    )
    with pytest.raises(ValueError, match=message):
        place([actors(2, {GROUP: "gpus"}, GPU=1)], two_groups())
    with pytest.raises(ValueError, match=r"no node with zone=a \(its 3 nodes have zone: none\)"):
        place([actors(2, {"zone": "a"}, GPU=1)], two_groups())


def test_only_nodes_of_the_group_count():
    place([actors(1, {GROUP: "generator"}, GPU=1)], two_groups())
    with pytest.raises(ValueError, match=r"only 1 fit .* has 8 CPU and 1 GPU on 1 nodes with ray\.io/node-group=gen"):
        place([actors(2, {GROUP: "generator"}, GPU=1)], two_groups())


def test_demands_for_a_group_are_placed_before_demands_for_any_node():
    place([workers(4, GPU=1), actors(1, {GROUP: "generator"}, GPU=1)], two_groups())


def test_demands_for_the_fewest_nodes_are_placed_first():
    types = [Node({"CPU": cpus, "GPU": 1.0}, {ACCELERATOR: name}) for cpus, name in ((4.0, "L4"), (8.0, "A100"))]
    generator = actors(1, {ACCELERATOR: "in(L4,A100)"}, GPU=1, CPU=2)
    place([generator, dataclasses.replace(workers(1, GPU=1, CPU=1), label_selector={ACCELERATOR: "L4"})], types)


@pytest.mark.parametrize(
    ("of_generators", "of_workers"),
    [({}, {}), ({GROUP: "generator"}, {}), ({ACCELERATOR: "in(L4,A100)"}, {ACCELERATOR: "!L4"})],
)
def test_pending_actors_that_could_take_trainer_resources_are_refused(
    of_generators: dict[str, str], of_workers: dict[str, str]
):
    late = dataclasses.replace(actors(4, of_generators, CPU=0.5), may_start_late=True)
    training = dataclasses.replace(workers(1, CPU=0.5), label_selector=of_workers)
    message = (
        r"^4 generator actors of .* and 1 training workers of .* may be placed on the same nodes, .* label_selector"
    )
    with pytest.raises(ValueError, match=message):
        check_pending([training, late], nodes(CPU_NODE))
    check_pending([training, dataclasses.replace(late, may_start_late=False)], nodes(CPU_NODE))
    check_pending([training, late], [Node({"CPU": 2.5}, {GROUP: "generator", ACCELERATOR: "A100"})])


@pytest.mark.parametrize(
    ("of_generators", "of_workers"),
    [
        ({GROUP: "generator"}, {GROUP: "trainer"}),
        ({ACCELERATOR: "in(L4, T4)"}, {ACCELERATOR: "A100"}),
        ({ACCELERATOR: "L4"}, {ACCELERATOR: "!in(L4,T4)"}),
        ({ACCELERATOR: "!L4"}, {ACCELERATOR: "L4"}),
    ],
)
def test_demands_separated_by_labels_may_be_pending(of_generators: dict[str, str], of_workers: dict[str, str]):
    training = dataclasses.replace(workers(1, CPU=0.5), label_selector=of_workers)
    check_pending([dataclasses.replace(actors(4, of_generators, CPU=0.5), may_start_late=True), training], nodes())
    check_pending(
        [dataclasses.replace(actors(4, GPU=1), may_start_late=True), workers(1, CPU=4)], nodes()
    )  # different resources


@pytest.mark.parametrize(
    ("value", "num_placed"), [("A100", 4), ("in(L4,A100)", 5), ("!L4", 4), ("!in(L4,A100)", 0), ("H100", 0)]
)
def test_accelerators_are_selected_as_ray_selects_them(value: str, num_placed: int):
    demand = actors(6, {ACCELERATOR: value}, GPU=1)
    with pytest.raises(ValueError, match=f"only {num_placed} fit" if num_placed or value[0] == "!" else "no node"):
        place([demand], two_groups())


def test_timeout_error_depends_on_whether_the_group_exists():
    demand = actors(2, {GROUP: "gpus"}, GPU=1)
    assert timeout_message(demand, 910, two_groups()).startswith(
        "2 generator actors of 1 GPU each could not be placed within 910 s: the cluster has no node with "
        "ray.io/node-group=gpus (its 3 nodes"
    )
    assert "other jobs hold" in timeout_message(actors(9, {GROUP: "generator"}, GPU=1), 10, two_groups())


def test_invalid_label_error_names_the_setting():
    wrong = {GROUP: "two words"}
    demands = {
        "generation": lambda: generation_demand(GenerationConfig(label_selector=wrong)),
        "training": lambda: training_demand(TrainingConfig(label_selector=wrong), 0),
        "evaluation": lambda: evaluation_demand(EvaluationConfig(label_selector=wrong), 0),
    }
    for section, demand in demands.items():
        with pytest.raises(
            ValueError, match=rf"^{section}\.label_selector is .*two words.*Invalid label selector value"
        ):
            demand()
