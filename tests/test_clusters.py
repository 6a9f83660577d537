"""The shipped cluster configs, parsed by Ray's code, and the nodes its autoscaler would add for a run."""

import copy
import functools
import json
import operator
from collections import Counter
from importlib.metadata import version
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import autoscaler_pb2, common_pb2

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cluster.placement import Demand, Node, place
from ray_jobs.cluster.room import evaluation_demand, generation_demand, training_demand

RAY_JOB = yaml.safe_load((PROJECT_ROOT / "docs" / "kuberay.yaml").read_text())
"""The KubeRay RayJob, which contains the cluster."""


def launched() -> dict[str, Any]:
    return yaml.safe_load((PROJECT_ROOT / "cluster.yaml").read_text())


def kuberay() -> dict[str, Any]:
    """Return the autoscaler config that Ray derives from the RayJob's cluster."""
    return _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "figment", "namespace": "default"}, "spec": RAY_JOB["spec"]["rayClusterSpec"]}
    )


CLUSTERS = pytest.mark.parametrize("cluster", [launched, kuberay], ids=["cluster.yaml", "kuberay.yaml"])


def demands() -> list[Demand]:
    """Return the resource demands of the run for these clusters."""
    config = load_config(JobConfig, [str(PROJECT_ROOT / "ray_jobs" / "configs" / "cluster.yaml")])
    return [
        generation_demand(config.generation),
        training_demand(config.training, 0),
        evaluation_demand(config.evaluation, 0),
    ]


def requests(demand: Demand) -> list[Any]:
    """Return a demand as the resource requests that Ray sends to its autoscaler."""
    is_in = common_pb2.LABEL_OPERATOR_IN  # pyright: ignore[reportAttributeAccessIssue]
    selector = [(key, is_in, [value]) for key, value in demand.label_selector.items()]
    resources = {name: amount for name, amount in demand.resources.items() if amount}
    return [ResourceRequestUtil.make(resources, label_selectors=[selector])] * demand.count


@CLUSTERS
def test_ray_accepts_the_cluster_and_its_head_runs_no_tasks(cluster):
    config = AutoscalingConfig(cluster(), skip_content_hash=True)  # validated by Ray's schema
    types = config.get_node_type_configs()
    assert types[config.get_head_node_type()].resources["CPU"] == 0
    assert {name: types[name].labels["ray.io/node-group"] for name in types} == {name: name for name in types}
    assert types["generator"].resources["GPU"] == 1
    assert (types["generator"].min_worker_nodes, types["generator"].max_worker_nodes) == (0, 8)


@CLUSTERS
def test_autoscaler_adds_nodes_of_the_requested_groups(cluster):
    config = AutoscalingConfig(cluster(), skip_content_hash=True)
    generation, training, _ = demands()
    gang: Any = autoscaler_pb2.GangResourceRequest  # pyright: ignore[reportAttributeAccessIssue]
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(requests(generation)),
            gang_resource_requests=[gang(requests=requests(training))],
        )
    )
    brought = Counter({launch.instance_type: launch.count for launch in reply.to_launch})
    assert brought - Counter({config.get_head_node_type(): 1}) == {"generator": 8, "trainer": 1}
    assert not reply.infeasible_resource_requests
    assert not reply.infeasible_gang_resource_requests


@CLUSTERS
def test_largest_cluster_has_room_for_the_run_then_its_evaluation(cluster):
    types = AutoscalingConfig(cluster(), skip_content_hash=True).get_node_type_configs().values()

    def nodes() -> list[Node]:
        return [Node(dict(each.resources), dict(each.labels)) for each in types for _ in range(each.max_worker_nodes)]

    *run, evaluation = demands()
    place(run, nodes())
    place([evaluation], nodes())


def test_cluster_needs_a_token_and_its_dashboard_listens_on_loopback():
    config = launched()
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_ray_job_runs_an_existing_config_behind_a_token():
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    *command, config = RAY_JOB["spec"]["entrypoint"].split()
    assert command == ["python", "-m", "ray_jobs.train"]
    assert (PROJECT_ROOT / config).is_file()
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert (cluster["enableInTreeAutoscaling"], cluster["autoscalerOptions"]["version"]) == (True, "v2")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        claimed = {each["name"] for each in spec["volumes"]}
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == claimed


RAY_JOB_SCHEMA = json.loads((PROJECT_ROOT / "tests" / "support" / "kuberay_rayjob.json").read_text())
"""Schema of a RayJob from KubeRay 1.6.2 (custom resource definition, v1): names, types, enums, required fields.

Kubernetes' own parts, such as pod templates, accept any object.
"""


def test_kuberay_schema_accepts_the_ray_job():
    jsonschema.validate(RAY_JOB, RAY_JOB_SCHEMA)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["authOptions", "mode"], "tokens", "'tokens' is not one of"),
        (["headGroupSpec", "rayStartParams", "num-cpus"], 0, "0 is not of type 'string'"),
        (["workerGroupSpecs", 0, "minReplica"], 0, "'minReplica' was unexpected"),
    ],
)
def test_kuberay_schema_refuses_wrong_fields(path: list[str | int], value: object, message: str):
    changed = copy.deepcopy(RAY_JOB)
    *parents, name = path
    functools.reduce(operator.getitem, parents, changed["spec"]["rayClusterSpec"])[name] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(changed, RAY_JOB_SCHEMA)


def test_models_are_stored_on_a_large_disk():
    config = launched()
    assert "--env HF_HOME=/weights" in config["docker"]["run_options"]
    assert "--volume /home/ubuntu/weights:/weights" in config["docker"]["run_options"]
    assert any("mkdir -p /home/ubuntu/weights" in command for command in config["initialization_commands"])
    for name, node_type in config["available_node_types"].items():
        (disk,) = node_type["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 100, name  # GB


def test_both_clusters_use_the_locked_ray_version():
    locked = dict(line.split("==") for line in (PROJECT_ROOT / "requirements.lock").read_text().splitlines())["ray"]
    assert locked == version("ray") == RAY_JOB["spec"]["rayClusterSpec"]["rayVersion"]
    image = f"rayproject/ray:{locked}-py311-gpu"
    assert launched()["docker"]["image"] == image
    assert f"FROM {image}" in (PROJECT_ROOT / "docs" / "Dockerfile").read_text()
