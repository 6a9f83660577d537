"""Shards written and read on a local Ray cluster."""

import dataclasses
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray.data

from generation.indices import IndexSet, SampleRequest
from generation.pool.service import GenerationService
from generation.recipes.recipe import Recipe
from generation.shards.config import DataConfig
from generation.shards.datasets import check_shards, first_samples, read_shards, tee_samples, write_shards
from generation.shards.shard_set import ShardSet, index_name, new_shard_set, shard_name
from generation.shards.storage import Storage, StorageError
from generation.stream.stream import stream_samples
from tests.support.settings import TWO_ACTORS_OF_8

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM_IMAGES = 300
ALL = range(NUM_IMAGES)


def set_in(folder: Path, recipe: Recipe) -> ShardSet:
    """Return a set of ten shards; the last has 12 images."""
    return new_shard_set(Storage(str(folder)), recipe, ALL, batch_size=8, data=DataConfig(shard_size=32))


def rows_of(dataset) -> dict[str, np.ndarray]:
    """Return all rows in the order they arrived."""
    batches = list(dataset.iter_batches(batch_size=16, prefetch_batches=0))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def by_index(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(rows["index"])
    return {name: column[order] for name, column in rows.items()}


def read(shards: ShardSet, *serials: range) -> dict[str, np.ndarray]:
    """Return the samples of these serials, sorted by index."""
    return by_index(rows_of(read_shards(shards, seed=0, num_readers=1, request=SampleRequest.all_of(*serials))))


def assert_rows_are_those_of_their_serials(rows: dict[str, np.ndarray], one_pass: dict[str, np.ndarray]) -> None:
    position = rows["serial"] % len(one_pass["index"])
    for name in ("index", "label", "image", "attempt"):
        np.testing.assert_array_equal(rows[name], one_pass[name][position])


def files_of(shards: ShardSet) -> dict[str, bytes]:
    names = [make(number) for number in range(len(shards.ranges)) for make in (shard_name, index_name)]
    return {name: shards.storage.read(name) for name in names}


def write_all(service: GenerationService, shards: ShardSet) -> None:
    rows = write_shards(service, TWO_ACTORS_OF_8, shards, shards.missing()).take_all()
    assert sum(row["num_images"] for row in rows) > 0


def num_accepted(service: GenerationService) -> int:
    """Return the number of images a pool has generated, without refused images."""
    counts = service.counts()
    return counts.num_images_made - counts.num_refused.total()


@pytest.fixture(scope="module")
def recipe(guarded_digits: Recipe) -> Recipe:
    """A fifth of its images is refused and regenerated."""
    return guarded_digits


@pytest.fixture(scope="module")
def service(digits_pool: GenerationService) -> GenerationService:
    """The session's pool of the digits model."""
    return digits_pool


@pytest.fixture(scope="module")
def written(recipe: Recipe, service: GenerationService, tmp_path_factory) -> ShardSet:
    shards = set_in(tmp_path_factory.mktemp("written"), recipe)
    write_all(service, shards)
    return shards


def test_shards_equal_the_stream_bit_by_bit(recipe: Recipe, service: GenerationService, written: ShardSet):
    streamed = by_index(rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, SampleRequest.all_of(ALL))))
    kept = by_index(rows_of(read_shards(written, seed=0, num_readers=2, request=SampleRequest.all_of(ALL))))
    assert streamed.keys() == kept.keys() == {"serial", "index", "label", "image", "attempt"}
    for name, column in streamed.items():
        assert column.dtype == kept[name].dtype
        np.testing.assert_array_equal(column, kept[name])


def test_teed_shards_equal_generated_shards(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    teed = set_in(tmp_path, recipe)
    for number in (1, 7):  # exist, and stay unchanged
        for name in (shard_name(number), index_name(number)):
            teed.storage.write(name, written.storage.read(name))
    untouched = os.stat(tmp_path / shard_name(7)).st_mtime_ns
    rows = by_index(rows_of(tee_samples(service, TWO_ACTORS_OF_8, teed, NUM_IMAGES, SampleRequest.all_of(ALL))))
    assert rows["index"].tolist() == rows["serial"].tolist() == list(ALL)
    assert files_of(teed) == files_of(written)
    assert os.stat(tmp_path / shard_name(7)).st_mtime_ns == untouched


@pytest.mark.nightly
def test_teed_shards_are_read_in_later_passes(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    made_before = num_accepted(service)
    three_passes = SampleRequest.all_of(range(900))
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, set_in(tmp_path, recipe), NUM_IMAGES, three_passes))
    assert sorted(rows["serial"].tolist()) == list(range(900))
    assert num_accepted(service) - made_before == 304  # whole batches of 8
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))


@pytest.mark.parametrize("in_order", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_partly_requested_shards_are_stored_in_full(
    in_order: bool, recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    made_before = num_accepted(service)
    teed = set_in(tmp_path, recipe)
    serials = IndexSet.of_ranges([range(10, 20), range(250, 258), range(305, 308)])  # of shards 0, 7 and 8, and 0 again
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, teed, NUM_IMAGES, SampleRequest(serials, in_order=in_order)))
    came = rows["serial"].tolist()
    assert (came if in_order else sorted(came)) == [*range(10, 20), *range(250, 258), 305, 306, 307]
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))
    assert num_accepted(service) - made_before == 96
    assert teed.missing() == [1, 2, 3, 4, 5, 6, 9]
    for name in (make(number) for number in (0, 7, 8) for make in (shard_name, index_name)):
        assert teed.storage.read(name) == written.storage.read(name)


@pytest.mark.nightly
def test_only_requested_batches_of_existing_shards_are_regenerated(service: GenerationService, written: ShardSet):
    made_before = num_accepted(service)
    wanted = SampleRequest.all_of(range(10, 12), range(95, 97), range(330, 340), range(890, 910))
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, written, NUM_IMAGES, wanted))
    expected = [10, 11, 95, 96, *range(330, 340), *range(890, 910)]
    assert sorted(rows["serial"].tolist()) == expected
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))
    assert num_accepted(service) - made_before == 24  # samples 8 to 15, 88 to 95 and 96 to 103


@pytest.mark.nightly
def test_serials_start_at_the_first_index_of_a_set(recipe: Recipe, service: GenerationService, tmp_path: Path):
    indices = range(1003, 1043)
    shards = new_shard_set(Storage(str(tmp_path)), recipe, indices, batch_size=8, data=DataConfig(shard_size=32))
    teed = rows_of(tee_samples(service, TWO_ACTORS_OF_8, shards, 40, SampleRequest.all_of(range(30, 45))))
    assert sorted(zip(teed["serial"].tolist(), teed["index"].tolist(), strict=True)) == [
        *zip(range(30, 40), range(1033, 1043), strict=True),
        *zip(range(40, 45), range(1003, 1008), strict=True),
    ]
    streamed = by_index(rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, SampleRequest.all_of(indices))))
    assert_rows_are_those_of_their_serials(teed, streamed)
    kept = read(shards, range(75, 90))
    assert kept["serial"].tolist() == [*range(80, 90), *range(75, 80)]
    assert_rows_are_those_of_their_serials(kept, streamed)


@pytest.mark.nightly
def test_extended_set_keeps_its_shards_and_adds_the_rest(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = dataclasses.replace(set_in(tmp_path, recipe), ends=(64,))
    write_all(service, shards)
    whole = shards.extended(NUM_IMAGES)
    assert whole.missing() == list(range(2, 10))
    write_all(service, whole)
    assert files_of(whole) == files_of(written)


@pytest.mark.nightly
def test_set_extended_within_a_batch_has_the_same_images(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = dataclasses.replace(set_in(tmp_path, recipe), ends=(43,))
    write_all(service, shards)
    whole = shards.extended(101)
    assert [len(part) for part in whole.ranges] == [32, 11, 21, 32, 5]
    write_all(service, whole)
    ours, at_once = read(whole, range(101)), read(written, ALL)
    np.testing.assert_array_equal(ours["image"], at_once["image"][:101])
    streamed = by_index(rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, SampleRequest.all_of(range(43, 101)))))
    np.testing.assert_array_equal(streamed["image"], at_once["image"][43:101])


@pytest.mark.nightly
def test_fewer_samples_than_planned_are_stored_in_full_shards_and_replayed(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    planned = set_in(tmp_path, recipe)
    rows = rows_of(
        tee_samples(service, TWO_ACTORS_OF_8, planned, num_images=40, request=SampleRequest.all_of(range(80)))
    )
    assert sorted(rows["serial"].tolist()) == list(range(80))
    np.testing.assert_array_equal(rows["index"], rows["serial"] % 40)
    assert planned.missing() == list(range(2, 10))
    for number in (0, 1):
        assert planned.storage.read(shard_name(number)) == written.storage.read(shard_name(number))


@pytest.mark.nightly
def test_killed_actor_does_not_change_shards(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = set_in(tmp_path, recipe)
    rows = iter(write_shards(service, TWO_ACTORS_OF_8, shards, shards.missing()).iter_rows())
    next(rows)
    loaded = [int(process.rsplit(":", 1)[1]) for process in service.counts().num_loads]
    os.kill(next(process for process in loaded if psutil.pid_exists(process)), signal.SIGKILL)
    assert len(list(rows)) == 9
    assert files_of(shards) == files_of(written)


@pytest.mark.nightly
def test_killed_asker_does_not_change_shards(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = set_in(tmp_path, recipe)
    rows = iter(write_shards(service, TWO_ACTORS_OF_8, shards, shards.missing()).iter_rows())
    next(rows)
    processes = psutil.Process().children(recursive=True)
    requester = next(
        process for process in processes if "MapWorker(MapBatches(StreamStage))" in " ".join(process.cmdline())
    )
    requester.kill()
    assert len(list(rows)) == 9
    assert files_of(shards) == files_of(written)


@pytest.mark.nightly
def test_ray_data_reads_shards(written: ShardSet):
    paths = [str(path) for path in Path(written.storage.url).glob("*.tar")]
    rows = ray.data.read_webdataset(paths).take_all()
    ours = read(written, ALL)
    assert len(rows) == NUM_IMAGES
    for row in rows:
        index = int(row["__key__"])
        assert int(row["cls"]) == ours["label"][index]
        np.testing.assert_array_equal(row["png"], ours["image"][index])


def order_of(shards: ShardSet, serials: IndexSet, seed: int = 3) -> list[int]:
    return rows_of(read_shards(shards, seed, num_readers=2, request=SampleRequest(serials)))["serial"].tolist()


TWO_PASSES = IndexSet.of_ranges([range(600)])


@pytest.mark.nightly
def test_order_depends_only_on_pass_and_seed(written: ShardSet):
    two_passes = order_of(written, TWO_PASSES)
    assert order_of(written, TWO_PASSES) == two_passes
    assert sorted(two_passes[:300]) == list(ALL)
    assert sorted(two_passes[300:]) == list(range(300, 600))
    assert two_passes[:300] != [serial - 300 for serial in two_passes[300:]]
    assert order_of(written, TWO_PASSES, seed=4) != two_passes
    near = np.abs(np.diff(two_passes[:300]))
    assert np.median(near) > 8  # neighbours in the set are not neighbours in training


@pytest.mark.nightly
@pytest.mark.parametrize("num_taken", [217, 300, 431])
def test_remaining_samples_keep_their_order(written: ShardSet, num_taken: int):
    two_passes = order_of(written, TWO_PASSES)
    assert order_of(written, TWO_PASSES - IndexSet.of(np.array(two_passes[:num_taken]))) == two_passes[num_taken:]


@pytest.mark.nightly
def test_scattered_serials_return_their_own_samples_once(written: ShardSet):
    wanted = IndexSet.of_ranges([range(5, 8), range(290, 310), range(655, 657), range(1499, 1500)])
    rows = rows_of(read_shards(written, 3, num_readers=2, request=SampleRequest(wanted)))
    assert sorted(rows["serial"].tolist()) == [5, 6, 7, *range(290, 310), 655, 656, 1499]
    assert sorted(rows["index"].tolist()) == sorted([5, 6, 7, *range(290, 300), *range(10), 55, 56, 299])
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))
    whole = order_of(written, IndexSet.of_ranges([range(1500)]))
    assert rows["serial"].tolist() == [serial for serial in whole if wanted.contains(np.array([serial]))[0]]


@pytest.mark.nightly
def test_in_order_reading_yields_ascending_serials(written: ShardSet):
    wanted = SampleRequest(IndexSet.of_ranges([range(40), range(250, 340), range(655, 657)]), in_order=True)
    rows = rows_of(read_shards(written, 3, num_readers=2, request=wanted))
    assert rows["serial"].tolist() == [*range(40), *range(250, 340), 655, 656]
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))


@pytest.mark.nightly
def test_two_concurrent_consumers_get_each_serial_once_in_a_reproducible_order(written: ShardSet):
    def samples_of(rank: int) -> list[int]:
        serials = TWO_PASSES.strided(run=16, offset=rank, stride=2)
        rows = rows_of(read_shards(written, 3, num_readers=2, request=SampleRequest(serials, num_consumers=2)))
        return rows["serial"].tolist()

    def both() -> list[list[int]]:
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(samples_of, range(2)))

    first = both()
    assert [len(serials) for serials in first] == [304, 296]  # 19 runs of 16, and 18 with a last one of 8
    assert sorted(first[0] + first[1]) == list(range(600))
    assert both() == first


@pytest.mark.nightly
def test_damaged_shard_stops_readers_and_is_found_by_verification(written: ShardSet, tmp_path: Path):
    shards = dataclasses.replace(written, storage=Storage(str(tmp_path)))
    for name, content in files_of(written).items():
        shards.storage.write(name, content[:9000] if name == shard_name(4) else content)
    with pytest.raises(
        Exception,
        match=r"shard-000004\.tar: sample 1\d\d: the image does not match .*Repair it with ray_jobs\.generate --verify",
    ):
        read(shards, ALL)
    for name in (shard_name(0), index_name(0)):
        shards.storage.write(name, written.storage.read(name.replace("0.", "6.")))
    with pytest.raises(StorageError, match=r"shard-000000\.tar does not contain samples 0 to 31 \(in .*Repair it"):
        first_samples(shards, 4)
    rows = check_shards(shards, range(10), num_readers=2).take_all()
    assert sorted(int(row["number"]) for row in rows) == list(range(10))
    assert [int(row["number"]) for row in rows if row["problems"]] == [0, 4]


def test_unwritable_shard_ends_the_job_with_the_reason(recipe: Recipe, service: GenerationService, tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    shards = dataclasses.replace(set_in(tmp_path, recipe), storage=Storage(str(tmp_path / "file")))
    with pytest.raises(StorageError, match=r"shard-00000\d\.tar' cannot be written"):
        write_shards(service, TWO_ACTORS_OF_8, shards, [0]).take_all()
