"""Shards written and read on a real local cluster."""

import dataclasses
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray.data

from generation.indices import IndexSet, Wanted
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
    """Return a set of ten shards, the last of 12 images."""
    return new_shard_set(Storage(str(folder)), recipe, ALL, batch_size=8, data=DataConfig(shard_size=32))


def rows_of(dataset) -> dict[str, np.ndarray]:
    """Return all rows in the order in which they came."""
    batches = list(dataset.iter_batches(batch_size=16, prefetch_batches=0))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def by_index(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(rows["index"])
    return {name: column[order] for name, column in rows.items()}


def read(shards: ShardSet, *serials: range) -> dict[str, np.ndarray]:
    """Return these serials of a set, sorted by index."""
    return by_index(rows_of(read_shards(shards, seed=0, num_readers=1, wanted=Wanted.all_of(*serials))))


def assert_rows_are_those_of_their_serials(rows: dict[str, np.ndarray], one_turn: dict[str, np.ndarray]) -> None:
    position = rows["serial"] % len(one_turn["index"])
    for name in ("index", "label", "image", "attempt"):
        np.testing.assert_array_equal(rows[name], one_turn[name][position])


def files_of(shards: ShardSet) -> dict[str, bytes]:
    names = [make(number) for number in range(len(shards.ranges)) for make in (shard_name, index_name)]
    return {name: shards.storage.read(name) for name in names}


def make_all(service: GenerationService, shards: ShardSet) -> None:
    rows = write_shards(service, TWO_ACTORS_OF_8, shards, shards.missing()).take_all()
    assert sum(row["num_images"] for row in rows) > 0


def num_kept(service: GenerationService) -> int:
    """Return how many images a pool has made without those that it refused."""
    counts = service.counts()
    return counts.num_images_made - counts.num_refused.total()


@pytest.fixture(scope="module")
def recipe(guarded_digits: Recipe) -> Recipe:
    """A fifth of its images is refused and made again."""
    return guarded_digits


@pytest.fixture(scope="module")
def service(digits_pool: GenerationService) -> GenerationService:
    """The session's pool of the digits model."""
    return digits_pool


@pytest.fixture(scope="module")
def written(recipe: Recipe, service: GenerationService, tmp_path_factory) -> ShardSet:
    shards = set_in(tmp_path_factory.mktemp("written"), recipe)
    make_all(service, shards)
    return shards


def test_shards_hold_the_streams_rows_to_the_bit(recipe: Recipe, service: GenerationService, written: ShardSet):
    streamed = by_index(rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, Wanted.all_of(ALL))))
    kept = by_index(rows_of(read_shards(written, seed=0, num_readers=2, wanted=Wanted.all_of(ALL))))
    assert streamed.keys() == kept.keys() == {"serial", "index", "label", "image", "attempt"}
    for name, column in streamed.items():
        assert column.dtype == kept[name].dtype
        np.testing.assert_array_equal(column, kept[name])


def test_what_was_kept_while_streaming_is_what_is_generated_for_the_same_indices(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    teed = set_in(tmp_path, recipe)
    for number in (1, 7):  # there already, and not touched
        for name in (shard_name(number), index_name(number)):
            teed.storage.write(name, written.storage.read(name))
    untouched = os.stat(tmp_path / shard_name(7)).st_mtime_ns
    rows = by_index(rows_of(tee_samples(service, TWO_ACTORS_OF_8, teed, NUM_IMAGES, Wanted.all_of(ALL))))
    assert rows["index"].tolist() == rows["serial"].tolist() == list(ALL)
    assert files_of(teed) == files_of(written)
    assert os.stat(tmp_path / shard_name(7)).st_mtime_ns == untouched


@pytest.mark.nightly
def test_what_was_kept_is_read_back_at_each_later_turn(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    made_before = num_kept(service)
    three_turns = Wanted.all_of(range(900))
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, set_in(tmp_path, recipe), NUM_IMAGES, three_turns))
    assert sorted(rows["serial"].tolist()) == list(range(900))
    assert num_kept(service) - made_before == 304  # whole batches of 8
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))


@pytest.mark.parametrize("in_order", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_of_shards_that_are_wanted_in_part_that_part_comes_and_they_are_kept_whole(
    in_order: bool, recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    made_before = num_kept(service)
    teed = set_in(tmp_path, recipe)
    serials = IndexSet.of_ranges([range(10, 20), range(250, 258), range(305, 308)])  # of shards 0, 7 and 8, and 0 again
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, teed, NUM_IMAGES, Wanted(serials, in_order=in_order)))
    came = rows["serial"].tolist()
    assert (came if in_order else sorted(came)) == [*range(10, 20), *range(250, 258), 305, 306, 307]
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))
    assert num_kept(service) - made_before == 96
    assert teed.missing() == [1, 2, 3, 4, 5, 6, 9]
    for name in (make(number) for number in (0, 7, 8) for make in (shard_name, index_name)):
        assert teed.storage.read(name) == written.storage.read(name)


@pytest.mark.nightly
def test_of_shards_that_are_there_only_the_batches_of_what_is_wanted_are_made_again(
    service: GenerationService, written: ShardSet
):
    made_before = num_kept(service)
    wanted = Wanted.all_of(range(10, 12), range(95, 97), range(330, 340), range(890, 910))
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, written, NUM_IMAGES, wanted))
    expected = [10, 11, 95, 96, *range(330, 340), *range(890, 910)]
    assert sorted(rows["serial"].tolist()) == expected
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))
    assert num_kept(service) - made_before == 24  # samples 8 to 15, 88 to 95 and 96 to 103


@pytest.mark.nightly
def test_serials_count_from_a_sets_first_index(recipe: Recipe, service: GenerationService, tmp_path: Path):
    indices = range(1003, 1043)
    shards = new_shard_set(Storage(str(tmp_path)), recipe, indices, batch_size=8, data=DataConfig(shard_size=32))
    teed = rows_of(tee_samples(service, TWO_ACTORS_OF_8, shards, 40, Wanted.all_of(range(30, 45))))
    assert sorted(zip(teed["serial"].tolist(), teed["index"].tolist(), strict=True)) == [
        *zip(range(30, 40), range(1033, 1043), strict=True),
        *zip(range(40, 45), range(1003, 1008), strict=True),
    ]
    streamed = by_index(rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, Wanted.all_of(indices))))
    assert_rows_are_those_of_their_serials(teed, streamed)
    kept = read(shards, range(75, 90))
    assert kept["serial"].tolist() == [*range(80, 90), *range(75, 80)]
    assert_rows_are_those_of_their_serials(kept, streamed)


@pytest.mark.nightly
def test_a_set_that_was_extended_has_the_same_shards_as_before_and_the_rest(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = dataclasses.replace(set_in(tmp_path, recipe), ends=(64,))
    make_all(service, shards)
    whole = shards.extended(NUM_IMAGES)
    assert whole.missing() == list(range(2, 10))
    make_all(service, whole)
    assert files_of(whole) == files_of(written)


@pytest.mark.nightly
def test_a_set_that_was_extended_amid_a_batch_has_the_same_images_to_the_bit(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = dataclasses.replace(set_in(tmp_path, recipe), ends=(43,))
    make_all(service, shards)
    whole = shards.extended(101)
    assert [len(part) for part in whole.ranges] == [32, 11, 21, 32, 5]
    make_all(service, whole)
    ours, at_once = read(whole, range(101)), read(written, ALL)
    np.testing.assert_array_equal(ours["image"], at_once["image"][:101])
    streamed = by_index(rows_of(stream_samples(service, recipe, TWO_ACTORS_OF_8, Wanted.all_of(range(43, 101)))))
    np.testing.assert_array_equal(streamed["image"], at_once["image"][43:101])


@pytest.mark.nightly
def test_fewer_samples_than_planned_are_kept_in_whole_shards_and_replayed(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    planned = set_in(tmp_path, recipe)
    rows = rows_of(tee_samples(service, TWO_ACTORS_OF_8, planned, num_images=40, wanted=Wanted.all_of(range(80))))
    assert sorted(rows["serial"].tolist()) == list(range(80))
    np.testing.assert_array_equal(rows["index"], rows["serial"] % 40)
    assert planned.missing() == list(range(2, 10))
    for number in (0, 1):
        assert planned.storage.read(shard_name(number)) == written.storage.read(shard_name(number))


@pytest.mark.nightly
def test_killed_actors_leave_the_same_bytes(
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
def test_a_killed_asker_leaves_the_same_bytes(
    recipe: Recipe, service: GenerationService, written: ShardSet, tmp_path: Path
):
    shards = set_in(tmp_path, recipe)
    rows = iter(write_shards(service, TWO_ACTORS_OF_8, shards, shards.missing()).iter_rows())
    next(rows)
    processes = psutil.Process().children(recursive=True)
    asker = next(process for process in processes if "MapWorker(MapBatches(Requester))" in " ".join(process.cmdline()))
    asker.kill()
    assert len(list(rows)) == 9
    assert files_of(shards) == files_of(written)


@pytest.mark.nightly
def test_rays_own_reader_reads_them(written: ShardSet):
    paths = [str(path) for path in Path(written.storage.url).glob("*.tar")]
    rows = ray.data.read_webdataset(paths).take_all()
    ours = read(written, ALL)
    assert len(rows) == NUM_IMAGES
    for row in rows:
        index = int(row["__key__"])
        assert int(row["cls"]) == ours["label"][index]
        np.testing.assert_array_equal(row["png"], ours["image"][index])


def order_of(shards: ShardSet, serials: IndexSet, seed: int = 3) -> list[int]:
    return rows_of(read_shards(shards, seed, num_readers=2, wanted=Wanted(serials)))["serial"].tolist()


TWO_TURNS = IndexSet.of_ranges([range(600)])


@pytest.mark.nightly
def test_the_order_depends_on_the_pass_and_the_seed_alone(written: ShardSet):
    two_turns = order_of(written, TWO_TURNS)
    assert order_of(written, TWO_TURNS) == two_turns
    assert sorted(two_turns[:300]) == list(ALL)
    assert sorted(two_turns[300:]) == list(range(300, 600))
    assert two_turns[:300] != [serial - 300 for serial in two_turns[300:]]
    assert order_of(written, TWO_TURNS, seed=4) != two_turns
    near = np.abs(np.diff(two_turns[:300]))
    assert np.median(near) > 8  # neighbours in the set are not neighbours in training


@pytest.mark.nightly
@pytest.mark.parametrize("num_taken", [217, 300, 431])
def test_what_is_left_of_the_order_comes_in_the_same_order(written: ShardSet, num_taken: int):
    two_turns = order_of(written, TWO_TURNS)
    assert order_of(written, TWO_TURNS - IndexSet.of(np.array(two_turns[:num_taken]))) == two_turns[num_taken:]


@pytest.mark.nightly
def test_scattered_serials_over_several_passes_come_once_with_their_own_samples(written: ShardSet):
    wanted = IndexSet.of_ranges([range(5, 8), range(290, 310), range(655, 657), range(1499, 1500)])
    rows = rows_of(read_shards(written, 3, num_readers=2, wanted=Wanted(wanted)))
    assert sorted(rows["serial"].tolist()) == [5, 6, 7, *range(290, 310), 655, 656, 1499]
    assert sorted(rows["index"].tolist()) == sorted([5, 6, 7, *range(290, 300), *range(10), 55, 56, 299])
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))
    whole = order_of(written, IndexSet.of_ranges([range(1500)]))
    assert rows["serial"].tolist() == [serial for serial in whole if wanted.contains(np.array([serial]))[0]]


@pytest.mark.nightly
def test_where_an_order_is_wanted_serials_ascend(written: ShardSet):
    wanted = Wanted(IndexSet.of_ranges([range(40), range(250, 340), range(655, 657)]), in_order=True)
    rows = rows_of(read_shards(written, 3, num_readers=2, wanted=wanted))
    assert rows["serial"].tolist() == [*range(40), *range(250, 340), 655, 656]
    assert_rows_are_those_of_their_serials(rows, read(written, ALL))


@pytest.mark.nightly
def test_two_consumers_at_the_same_time_get_each_serial_once_and_alike_each_time(written: ShardSet):
    def part_of(rank: int) -> list[int]:
        serials = TWO_TURNS.every(run=16, offset=rank, stride=2)
        rows = rows_of(read_shards(written, 3, num_readers=2, wanted=Wanted(serials, num_consumers=2)))
        return rows["serial"].tolist()

    def parts() -> list[list[int]]:
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(part_of, range(2)))

    first = parts()
    assert [len(part) for part in first] == [304, 296]  # 19 runs of 16, and 18 with a last one of 8
    assert sorted(first[0] + first[1]) == list(range(600))
    assert parts() == first


@pytest.mark.nightly
def test_a_damaged_shard_stops_its_readers_and_is_found_by_checking(written: ShardSet, tmp_path: Path):
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


def test_a_shard_that_cannot_be_written_ends_the_job_with_the_reason(
    recipe: Recipe, service: GenerationService, tmp_path: Path
):
    (tmp_path / "file").write_text("no folder")
    shards = dataclasses.replace(set_in(tmp_path, recipe), storage=Storage(str(tmp_path / "file")))
    with pytest.raises(StorageError, match=r"shard-00000\d\.tar' cannot be written"):
        write_shards(service, TWO_ACTORS_OF_8, shards, [0]).take_all()
