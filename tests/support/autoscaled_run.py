"""A pool on an autoscaled cluster, for test_autoscaled.py: `python -m tests.support.autoscaled_run FILE`.

Runs in its own process, since a process can connect to one Ray cluster only. Writes the number of nodes and actors in
each phase into FILE.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import psutil
import ray

from generation.pool.service import GenerationService, start_generation
from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import build_recipe
from ray_jobs.cluster.processes import pid_of
from tests.support.trainers import UP_TO_SIX, Trainer
from tests.support.waits import wait_until

ON_GENERATORS = dataclasses.replace(
    UP_TO_SIX,
    max_actors=4,
    gpus_per_actor=1,
    label_selector={"ray.io/node-group": "generator"},
    wait_for_nodes_seconds=60,
)


def num_generator_nodes() -> int:
    """Return the number of live nodes with a GPU."""
    return sum(node["Alive"] and "GPU" in node["Resources"] for node in ray.nodes())


def lose_a_node(service: GenerationService) -> None:
    """Kill all processes of a node that holds an actor."""
    raylet = psutil.Process(pid_of(next(iter(service.counts().num_loads)))).parent()
    assert raylet is not None
    assert raylet.name() == "raylet"
    for process in (raylet, *raylet.children(recursive=True)):
        process.kill()


def main() -> None:
    """Start a pool without nodes for it, let its trainer starve, kill a node, then pause the trainer."""
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    recipe = build_recipe(RecipeConfig(generator="painted", image_size=16, num_inference_steps=1))
    phases: dict[str, tuple[int, int]] = {"before": (num_generator_nodes(), 0)}

    def note(phase: str, service: GenerationService) -> None:
        phases[phase] = (num_generator_nodes(), service.num_actors())

    with start_generation(recipe, ON_GENERATORS) as service:
        note("one", service)
        trainer = Trainer(service, recipe, ON_GENERATORS)
        with trainer.running(images_per_second=60):
            wait_until(lambda: service.num_actors() == 4)
            note("starving", service)
            lose_a_node(service)
            wait_until(lambda: service.num_actors() < 4)
            wait_until(lambda: service.num_actors() == 4)
            note("preempted", service)
            trainer.images_per_second = 0
            wait_until(lambda: num_generator_nodes() == 0)
            note("paused", service)
    Path(sys.argv[1]).write_text(json.dumps(phases))


if __name__ == "__main__":
    main()
