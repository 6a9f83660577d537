"""Shards written and read on a real local cluster."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray.data

from generation.config import DataConfig, GenerationConfig
from generation.recipe import Recipe
from generation.service import GenerationService, start_generation
from generation.shard_set import ShardSet, index_name, new_shard_set, shard_name
from generation.shards import check_shards, first_samples, read_shards, tee_samples, write_shards
from generation.storage import Storage, StorageError
from generation.stream import stream_samples

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TWO_ACTORS = GenerationConfig(min_actors=2, max_actors=2, gpus_per_actor=0, cpus_per_actor=0.1, batch_size=8)
NUM_IMAGES = 300
ALL = range(NUM_IMAGES)


def set_in(folder: Path, recipe: Recipe) -> ShardSet:
    """Return a set of ten shards, the last of 12 images."""
    return new_shard_set(Storage(str(folder)), recipe, ALL, batch_size=8, data=DataConfig(shard_size=32))


def rows_of(dataset) -> dict[str, np.ndarray]:
    """Return all rows in the order in which they came."""
    batches = list(dataset.iter_batches(batch_size=16, prefetch_batches=0))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def by_index(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(rows["index"])
    return {name: column[order] for name, column in rows.items()}


def files_of(shards: ShardSet) -> dict[str, bytes]:
    names = [make(number) for number in range(len(shards.ranges)) for make in (shard_name, index_name)]
    return {name: shards.storage.read(name) for name in names}


def make_all(service: GenerationService, shards: ShardSet) -> None:
    rows = write_shards(service, TWO_ACTORS, shards, shards.missing()).take_all()
    assert sum(row["num_images"] for row in rows) > 0


@pytest.fixture(scope="module")
def service(digits: Recipe, ray_cluster) -> Iterator[GenerationService]:
    with start_generation(digits, TWO_ACTORS) as service:
        yield service


@pytest.fixture(scope="module")
def written(digits: Recipe, service: GenerationService, tmp_path_factory) -> ShardSet:
    shards = set_in(tmp_path_factory.mktemp("written"), digits)
    make_all(service, shards)
    return shards


def test_shards_hold_the_streams_rows_to_the_bit(digits: Recipe, service: GenerationService, written: ShardSet):
    streamed = by_index(rows_of(stream_samples(service, digits, TWO_ACTORS, [ALL])))
    read = by_index(rows_of(read_shards(written, ALL, seed=0, num_readers=2)))
    assert streamed.keys() == read.keys()
    for name, column in streamed.items():
        assert column.dtype == read[name].dtype
        np.testing.assert_array_equal(column, read[name])


def test_what_was_kept_while_streaming_is_what_is_generated_for_the_same_indices(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    teed = set_in(tmp_path, digits)
    for number in (1, 7):  # there already, and not touched
        for name in (shard_name(number), index_name(number)):
            teed.storage.write(name, written.storage.read(name))
    untouched = os.stat(tmp_path / shard_name(7)).st_mtime_ns
    rows = by_index(rows_of(tee_samples(service, TWO_ACTORS, teed, NUM_IMAGES)))
    assert rows["index"].tolist() == list(ALL)
    assert files_of(teed) == files_of(written)
    assert os.stat(tmp_path / shard_name(7)).st_mtime_ns == untouched


def test_what_was_kept_is_replayed_as_often_as_asked(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    made_before = service.counts().num_images_made
    rows = rows_of(tee_samples(service, TWO_ACTORS, set_in(tmp_path, digits), NUM_IMAGES, num_replays=2))
    assert sorted(rows["index"].tolist()) == sorted([*ALL, *ALL, *ALL])
    assert service.counts().num_images_made - made_before == 304  # whole batches of 8
    expected = by_index(rows_of(read_shards(written, ALL, seed=0, num_readers=1)))
    np.testing.assert_array_equal(rows["image"], expected["image"][rows["index"]])
    np.testing.assert_array_equal(rows["label"], expected["label"][rows["index"]])


def test_a_set_that_was_extended_has_the_same_shards_as_before_and_the_rest(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = dataclasses.replace(set_in(tmp_path, digits), ends=(64,))
    make_all(service, shards)
    whole = shards.extended(NUM_IMAGES)
    assert whole.missing() == list(range(2, 10))
    make_all(service, whole)
    assert files_of(whole) == files_of(written)


def test_a_set_that_was_extended_amid_a_batch_has_the_same_images_to_the_bit(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = dataclasses.replace(set_in(tmp_path, digits), ends=(43,))
    make_all(service, shards)
    whole = shards.extended(101)
    assert [len(part) for part in whole.ranges] == [32, 11, 21, 32, 5]
    make_all(service, whole)
    ours = by_index(rows_of(read_shards(whole, range(101), seed=0, num_readers=1)))
    at_once = by_index(rows_of(read_shards(written, ALL, seed=0, num_readers=1)))
    np.testing.assert_array_equal(ours["image"], at_once["image"][:101])
    streamed = by_index(rows_of(stream_samples(service, digits, TWO_ACTORS, [range(43, 101)])))
    np.testing.assert_array_equal(streamed["image"], at_once["image"][43:101])


def test_fewer_samples_than_a_place_is_planned_for_are_kept_in_whole_shards_and_replayed(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    planned = set_in(tmp_path, digits)
    rows = rows_of(tee_samples(service, TWO_ACTORS, planned, num_images=40, num_replays=1))
    assert sorted(rows["index"].tolist()) == sorted([*range(40), *range(40)])
    assert planned.missing() == list(range(2, 10))
    for number in (0, 1):
        assert planned.storage.read(shard_name(number)) == written.storage.read(shard_name(number))


def test_killed_actors_leave_the_same_bytes(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = set_in(tmp_path, digits)
    rows = iter(write_shards(service, TWO_ACTORS, shards, shards.missing()).iter_rows())
    next(rows)
    process = list(service.counts().num_loads)[-1]
    os.kill(int(process.rsplit(":", 1)[1]), signal.SIGKILL)
    assert len(list(rows)) == 9
    assert files_of(shards) == files_of(written)


def test_a_killed_asker_leaves_the_same_bytes(
    digits: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = set_in(tmp_path, digits)
    rows = iter(write_shards(service, TWO_ACTORS, shards, shards.missing()).iter_rows())
    next(rows)
    processes = psutil.Process().children(recursive=True)
    asker = next(process for process in processes if "MapWorker(MapBatches(ShardMaker))" in " ".join(process.cmdline()))
    asker.kill()
    assert len(list(rows)) == 9
    assert files_of(shards) == files_of(written)


def test_rays_own_reader_reads_them(written: ShardSet):
    paths = [str(path) for path in Path(written.storage.url).glob("*.tar")]
    rows = ray.data.read_webdataset(paths).take_all()
    ours = by_index(rows_of(read_shards(written, ALL, seed=0, num_readers=1)))
    assert len(rows) == NUM_IMAGES
    for row in rows:
        index = int(row["__key__"])
        assert int(row["cls"]) == ours["label"][index]
        np.testing.assert_array_equal(row["png"], ours["image"][index])


def test_the_order_is_the_same_each_time_another_in_each_lap_and_taken_up_at_the_exact_sample(written: ShardSet):
    def order(positions: range, seed: int = 3) -> list[int]:
        return rows_of(read_shards(written, positions, seed, num_readers=2))["index"].tolist()

    two_laps = order(range(600))
    assert order(range(600)) == two_laps
    assert sorted(two_laps[:300]) == sorted(two_laps[300:]) == list(ALL)
    assert two_laps[:300] != two_laps[300:]
    assert order(range(217, 500)) == two_laps[217:500]
    assert order(range(600), seed=4) != two_laps
    near = np.abs(np.diff(two_laps[:300]))
    assert np.median(near) > 8  # neighbours in the set are not neighbours in training


def test_two_workers_share_them_without_overlap_and_alike_each_time(written: ShardSet):
    def shares() -> list[list[int]]:
        splits = read_shards(written, ALL, 3, num_readers=2).streaming_split(2, equal=True)
        with ThreadPoolExecutor(2) as threads:
            batches = threads.map(lambda split: list(split.iter_batches(batch_size=10)), splits)
            return [[index for batch in share for index in batch["index"].tolist()] for share in batches]

    first = shares()
    assert [len(share) for share in first] == [150, 150]
    assert sorted(first[0] + first[1]) == list(ALL)
    assert shares() == first


def test_a_damaged_shard_stops_its_readers_and_is_found_by_checking(written: ShardSet, tmp_path: Path):
    shards = dataclasses.replace(written, storage=Storage(str(tmp_path)))
    for name, content in files_of(written).items():
        shards.storage.write(name, content[:9000] if name == shard_name(4) else content)
    with pytest.raises(
        Exception, match=r"shard-000004\.tar: sample 1\d\d: the image is not .*Repair it: ray_jobs\.generate --verify"
    ):
        rows_of(read_shards(shards, ALL, seed=0, num_readers=1))
    for name in (shard_name(0), index_name(0)):
        shards.storage.write(name, written.storage.read(name.replace("0.", "6.")))
    with pytest.raises(StorageError, match=r"shard-000000\.tar does not hold samples 0 to 31, in .*Repair it"):
        first_samples(shards, 4)
    rows = check_shards(shards, range(10), num_readers=2).take_all()
    assert sorted(int(row["number"]) for row in rows) == list(range(10))
    assert [int(row["number"]) for row in rows if row["faults"]] == [0, 4]


def test_a_shard_that_cannot_be_written_ends_the_job_with_the_reason(
    digits: Recipe, service: GenerationService, tmp_path: Path
):
    (tmp_path / "file").write_text("no folder")
    shards = dataclasses.replace(set_in(tmp_path, digits), storage=Storage(str(tmp_path / "file")))
    with pytest.raises(StorageError, match=r"shard-00000\d\.tar' cannot be written"):
        write_shards(service, TWO_ACTORS, shards, [0]).take_all()
