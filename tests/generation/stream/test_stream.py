"""The generation service and the sample stream on a local Ray cluster."""

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from ray import serve

from generation.engine.painted_generator import PaintedGenerator
from generation.indices import IndexSet, SampleRequest
from generation.pool.service import REQUESTS_PER_ACTOR, GenerationFailedError, GenerationService, start_generation
from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import PROJECT_ROOT, files_sha256
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe, build_recipe
from generation.sample import NO_LABEL
from generation.stream.stream import fetch_samples, stream_samples
from tests.support.hub import COMMIT, serve_hub
from tests.support.nodes import joined_node
from tests.support.settings import TWO_ACTORS, TWO_ACTORS_OF_8
from tests.support.waits import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def rows_of(dataset, meanwhile: Callable[[], None] | None = None) -> dict[str, np.ndarray]:
    """Return all rows of a dataset, sorted by index; call `meanwhile` once, after the first batch."""
    batches = []
    for batch in dataset.iter_batches(batch_size=16, prefetch_batches=0):
        batches.append(batch)
        if meanwhile is not None and len(batches) == 1:
            meanwhile()
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(columns["index"])
    return {name: column[order] for name, column in columns.items()}


def processes(service: GenerationService) -> list[int]:
    """Return the process ids of running actors, without actors that earlier tests killed."""
    loaded = [int(process.rsplit(":", 1)[1]) for process in service.counts().num_loads]
    return [process for process in loaded if psutil.pid_exists(process)]


def test_each_requested_index_is_delivered_once_with_its_own_image(painted: Recipe, painted_pool: GenerationService):
    wanted = SampleRequest.all_of(range(300), range(1000, 1010))
    rows = rows_of(stream_samples(painted_pool, painted, TWO_ACTORS, wanted))
    indices = [*range(300), *range(1000, 1010)]
    assert rows["index"].tolist() == rows["serial"].tolist() == indices
    assert rows["label"].tolist() == [plan_sample(painted, index).label for index in indices]
    painter = PaintedGenerator(16, 10)
    for row, index in enumerate(indices):
        np.testing.assert_array_equal(rows["image"][row], painter.paint(plan_sample(painted, index)))


def test_ordered_stream_delivers_scattered_indices_in_order(painted: Recipe, painted_pool: GenerationService):
    wanted = SampleRequest(
        IndexSet.of_ranges([range(3, 20), range(500, 640), range(1030, 1040), range(5000, 5001)]), 1, True
    )
    made_before = painted_pool.counts().num_images_made
    dataset = stream_samples(painted_pool, painted, TWO_ACTORS, wanted)
    batches = list(dataset.iter_batches(batch_size=16, prefetch_batches=0))
    indices = [index for batch in batches for index in batch["index"].tolist()]
    assert indices == [*range(3, 20), *range(500, 640), *range(1030, 1040), 5000]
    num_made = 16 * (2 + 9 + 1 + 1)  # batches 0 and 1, 31 to 39, 64 and 312
    wait_until(lambda: painted_pool.counts().num_images_made - made_before == num_made)


@pytest.mark.nightly
def test_two_consumers_get_each_sample_once(painted: Recipe, painted_pool: GenerationService):
    everything = IndexSet.of_ranges([range(1010)])

    def part_of(rank: int) -> list[int]:
        wanted = SampleRequest(everything.strided(run=32, offset=rank, stride=2), num_consumers=2)
        return rows_of(stream_samples(painted_pool, painted, TWO_ACTORS, wanted))["index"].tolist()

    with ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(part_of, range(2)))
    assert [len(part) for part in parts] == [512, 498]  # 16 runs of 32, and 15 runs of 32 with one of 18
    assert sorted(parts[0] + parts[1]) == list(range(1010))


@pytest.mark.nightly
def test_two_consumers_share_slow_actors_from_the_first_batches_on(painted: Recipe):
    slow, recipe = dataclasses.replace(TWO_ACTORS, painted_batch_seconds=1.0), dataclasses.replace(painted, seed=1)
    delivered: list[int] = []
    pending: list[int] = []

    def consume(rank: int) -> None:
        wanted = SampleRequest(IndexSet.of_ranges([range(rank * 10_000, rank * 10_000 + 640)]), num_consumers=2)
        for _ in stream_samples(service, recipe, slow, wanted).iter_batches(batch_size=16, prefetch_batches=0):
            delivered.append(rank)
            if len(delivered) >= 24:  # of 80 batches
                pending.append(sum(service.counts().num_requests.values()))
                return

    with start_generation(recipe, slow) as service, ThreadPoolExecutor(2) as threads:
        list(threads.map(consume, range(2)))
    assert min(delivered[:24].count(rank) for rank in range(2)) >= 6
    assert 0 < pending[0] <= 2 * REQUESTS_PER_ACTOR


def test_killed_actor_costs_a_retry_and_no_sample(guarded_digits: Recipe, digits_pool: GenerationService):
    stream = stream_samples(digits_pool, guarded_digits, TWO_ACTORS_OF_8, SampleRequest.all_of(range(240)))
    undisturbed, before = rows_of(stream), digits_pool.counts()
    num_made_at_kill = []

    def kill() -> None:
        num_made_at_kill.append(digits_pool.counts().num_images_made - before.num_images_made)
        os.kill(victim, signal.SIGKILL)

    victim = processes(digits_pool)[-1]
    disturbed = rows_of(stream, meanwhile=kill)
    assert 0 < num_made_at_kill[0] < 240  # the actor was killed during the stream
    assert not Path(f"/proc/{victim}").exists()
    assert disturbed["index"].tolist() == list(range(240))
    for name in ("label", "attempt", "image"):
        np.testing.assert_array_equal(disturbed[name], undisturbed[name])


@pytest.mark.nightly
def test_killed_actor_is_replaced(painted: Recipe):
    with start_generation(dataclasses.replace(painted, seed=1), TWO_ACTORS) as service:
        os.kill(processes(service)[0], signal.SIGKILL)
        wait_until(lambda: service.counts().num_loads.total() == 3)  # two actors and the replacement
        assert set(service.counts().num_loads.values()) == {1}


def test_class_quotas_are_exact_when_a_fifth_of_images_is_refused(
    guarded_digits: Recipe, digits_pool: GenerationService
):
    refused_before = digits_pool.counts().num_refused["flagged"]
    rows = rows_of(stream_samples(digits_pool, guarded_digits, TWO_ACTORS_OF_8, SampleRequest.all_of(range(120))))
    assert rows["index"].tolist() == list(range(120))
    assert np.bincount(rows["label"]).tolist() == [12] * 10
    num_refused = int(rows["attempt"].sum())
    assert num_refused > 0
    wait_until(lambda: digits_pool.counts().num_refused["flagged"] - refused_before == num_refused)
    refused, kept = (np.flatnonzero(rows["attempt"] > 0)[0], np.flatnonzero(rows["attempt"] == 0)[0])
    for row in (refused, kept):
        plan = plan_sample(guarded_digits, int(rows["index"][row]), int(rows["attempt"][row]))
        assert rows["label"][row] == plan.label


@pytest.mark.nightly
def test_left_out_samples_keep_their_rows_and_are_counted(guarded_digits: Recipe):
    recipe = dataclasses.replace(guarded_digits, leave_out_after=1)
    with start_generation(recipe, TWO_ACTORS_OF_8) as service:
        rows = rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, SampleRequest.all_of(range(120))))
        num_left_out = int((rows["label"] == NO_LABEL).sum())
        wait_until(lambda: service.counts().num_left_out.total() == num_left_out)
    assert rows["index"].tolist() == list(range(120))
    assert 0 < num_left_out < 60
    np.testing.assert_array_equal(rows["attempt"], rows["label"] == NO_LABEL)
    kept = np.flatnonzero(rows["label"] != NO_LABEL)
    assert rows["label"][kept].tolist() == [plan_sample(recipe, index).label for index in kept.tolist()]


@pytest.mark.nightly
def test_lost_node_with_results_in_memory_costs_a_retry_and_no_sample(painted: Recipe):
    num_cpus = int(ray.cluster_resources()["CPU"])
    one_per_node = dataclasses.replace(TWO_ACTORS, cpus_per_actor=0.75 * num_cpus, painted_batch_seconds=0.1)
    large = dataclasses.replace(painted, image_size=96)  # batches of 442 kB travel through a node's object store
    indices = range(1600)
    with joined_node(num_cpus) as kill_node, start_generation(large, one_per_node) as service:
        dataset = stream_samples(service, large, one_per_node, SampleRequest.all_of(indices))
        rows = rows_of(dataset, meanwhile=kill_node)
        wait_until(lambda: service.num_actors() == 1)  # Serve's controller notices a lost node later than the stream
    assert rows["index"].tolist() == list(indices)
    painter = PaintedGenerator(96, 10)
    for index in range(0, 1600, 16):
        np.testing.assert_array_equal(rows["image"][index], painter.paint(plan_sample(large, index)))


@pytest.mark.nightly
def test_damaged_model_fails_the_start_within_a_minute(digits: Recipe, tmp_path: Path):
    shutil.copytree(PROJECT_ROOT / "generation" / "digits" / "model", tmp_path / "model")
    (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    model = tmp_path / "model"
    broken = dataclasses.replace(digits, model=str(model), revision=files_sha256(model))
    started_at = time.monotonic()
    with pytest.raises(GenerationFailedError, match=r"^recipe\.model '.*model' cannot be loaded on cpu") as caught:
        start_generation(broken, TWO_ACTORS)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started_at < 60


@pytest.mark.nightly
def test_start_times_out_if_no_actor_runs(painted: Recipe):
    too_large = dataclasses.replace(TWO_ACTORS, cpus_per_actor=1000.0, start_timeout_seconds=3.0)
    started_at = time.monotonic()
    with pytest.raises(
        GenerationFailedError, match=r"^No generator actor was running after 3 s: .*start_timeout_seconds"
    ):
        start_generation(dataclasses.replace(painted, seed=1), too_large)
    assert time.monotonic() - started_at < 20  # the pool stops before DRAIN_TIMEOUT_SECONDS are over


def test_actor_error_ends_the_stream_with_its_message(painted: Recipe):
    empty = dataclasses.replace(painted, image_size=0)
    with start_generation(empty, TWO_ACTORS) as service, pytest.raises(Exception, match="zero-size"):
        rows_of(stream_samples(service, empty, TWO_ACTORS, SampleRequest.all_of(range(4))))


@pytest.mark.nightly
def test_pool_stops_itself_after_its_driver_died(painted: Recipe):
    service = start_generation(dataclasses.replace(painted, seed=1), TWO_ACTORS)
    ray.kill(service.keeper)  # the keeper also dies when the driver's job ends
    wait_until(lambda: service.app_name not in serve.status().applications)


def test_more_samples_than_a_batch_are_fetched_in_order(painted_pool: GenerationService):
    samples = fetch_samples(painted_pool, TWO_ACTORS, range(5, 45))
    assert samples["index"].tolist() == list(range(5, 45))
    assert samples["image"].shape == (40, 16, 16, 3)


@pytest.mark.nightly
def test_model_is_downloaded_once_per_node_from_the_drivers_mirror(tmp_path: Path, monkeypatch):
    with serve_hub(PROJECT_ROOT / "generation" / "digits" / "model") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        recipe = build_recipe(
            RecipeConfig(model="figment/digits", revision=COMMIT, image_size=32, num_inference_steps=1)
        )
        with start_generation(recipe, TWO_ACTORS) as service:
            assert service.counts().num_loads.total() == 2
            assert fetch_samples(service, TWO_ACTORS, range(3))["image"].shape == (3, 32, 32, 3)
    assert hub.num_fetched["unet/diffusion_pytorch_model.safetensors"] == 1
    assert set(hub.num_fetched.values()) == {1}
