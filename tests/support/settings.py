"""Settings shared by tests."""

import dataclasses

from generation.config import GenerationConfig
from generation.recipes.model_files import PROJECT_ROOT

CONFIGS = PROJECT_ROOT / "ray_jobs" / "configs"
PAINTED = str(CONFIGS / "painted.yaml")

ON_CPU = GenerationConfig(gpus_per_actor=0, cpus_per_actor=0.1, batch_size=4)
TWO_ACTORS = GenerationConfig(min_actors=2, max_actors=2, gpus_per_actor=0, cpus_per_actor=0.01, batch_size=16)
"""Settings of the session's painted pool."""

TWO_ACTORS_OF_8 = dataclasses.replace(TWO_ACTORS, batch_size=8, max_attempts=20)
"""Settings of the session's digits pool, 20% of whose images are rejected."""

KEEPING = [
    *("recipe.image_size=16", "training.num_epochs=2", "training.num_held_out=24", "training.global_batch_size=32"),
    *("data.shard_size=32", "generation.batch_size=16"),
]
"""Overrides of the painted config for commands that write shards."""

EIGHTY_STEPS = [
    *("recipe.image_size=16", "training.architecture=timm/resnet10t", "training.cpus_per_worker=0.25"),
    *("training.num_images=2560", "training.global_batch_size=32", "training.reuse=3", "training.num_epochs=2"),
    *("training.num_held_out=16", "training.checkpoint_every_steps=6", "training.journal=true", "evaluation.sets=[]"),
]
"""Overrides of the painted config for a run of 80 steps in two epochs with a journal."""
