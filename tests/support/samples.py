"""Painted samples, as an actor returns them."""

from generation.engine.actor import GeneratorActor
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch
from generation.shards.shard import ImageFormat, Shard, ShardWriter
from tests.support.settings import ON_CPU

PNG = ImageFormat("png", 0)


def painted_batch(recipe: Recipe, indices: range) -> SampleBatch:
    return GeneratorActor(recipe, ON_CPU).generate(indices)


def painted_shard(recipe: Recipe, indices: range, batch_size: int = 4, image_format: ImageFormat = PNG) -> Shard:
    writer = ShardWriter(recipe, "shard-000000.tar", image_format)
    for start in range(0, len(indices), batch_size):
        writer.add(painted_batch(recipe, indices[start : start + batch_size]))
    return writer.finish()
