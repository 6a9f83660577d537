"""Virtual devices, the simulated router, and the command's options."""

import threading
import time
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.virtual_devices import Devices, LocalPool, PoolSpec
from benchmarks.virtual_pool import (
    CONTROLLER,
    DRIVER,
    PARTS,
    LocalRows,
    Sizes,
    kind_of,
    main,
    rate_of,
    requesters_of,
    taken,
)
from benchmarks.virtual_router import simulate
from generation.config import GenerationConfig
from generation.sample import SampleBatch
from generation.stream.stream import BatchRequester


def test_batch_goes_to_the_device_that_is_free_first():
    devices = Devices(2, batch_seconds=3.0)
    assert [devices.finish_at(now) for now in (10.0, 11.0, 12.0, 13.0, 20.0)] == [
        (13.0, 0),
        (14.0, 1),
        (16.0, 0),
        (17.0, 1),
        (23.0, 0),
    ]


def test_batch_has_the_columns_and_types_of_a_generators():
    batch = PoolSpec(1, 0.0, image_size=4).batch(range(8, 11))
    assert batch.keys() == SampleBatch.__required_keys__
    assert batch["index"].tolist() == [8, 9, 10]
    assert batch["image"].shape == (3, 4, 4, 3)
    assert [column.dtype for column in cast(dict[str, np.ndarray], batch).values()] == [
        np.int64,
        np.int64,
        np.uint8,
        np.int8,
    ]


def test_requester_takes_batches_of_virtual_devices_in_order():
    pool = LocalPool(PoolSpec(num_devices=2, batch_seconds=0.01, batch_size=4, image_size=1))
    requester = BatchRequester(cast(Any, pool), GenerationConfig(), batch_size=4, window=8)
    began_at = time.monotonic()
    batches = list(requester.request(range(16)))
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == list(range(16))
    assert time.monotonic() - began_at >= 0.02  # four batches of two devices


def test_response_that_is_not_made_in_time_is_a_timeout():
    response = LocalPool(PoolSpec(num_devices=1, batch_seconds=60.0)).request(range(8))
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.01)


def test_router_keeps_four_devices_busy():
    # Each device makes 6 batches; of the 16 batches pending at the end none starts later.
    routing = simulate(num_replicas=4, num_requesters=2, batch_seconds=1.0, num_batches_each=6)
    assert routing.busy_fraction == pytest.approx(1.0)
    assert routing.num_batches == 4 * 6 + 4 * 3
    assert routing.num_tries >= routing.num_batches


def test_loader_takes_rows_that_are_in_memory():
    spec = PoolSpec(1, 0.0, batch_size=4, image_size=2)
    batches = taken(cast(Any, LocalRows(spec)), spec)
    drawn = [next(batches) for _ in range(8)]
    cast(Any, batches).close()
    assert {len(batch["label"]) for batch in drawn} == {4}
    assert len(np.unique(np.concatenate([batch["serial"] for batch in drawn]))) == 32


def test_rate_counts_batches_of_a_generator_whatever_their_size():
    spec = PoolSpec(1, 0.0, batch_size=4)

    def half_batches():
        while True:
            threading.Event().wait(0.005)
            yield cast(Any, spec.batch(range(2)))

    rate = rate_of(half_batches(), spec, seconds=0.2)
    assert rate.batches_per_second <= 100  # at most 200 halves a second
    assert rate.num_processes[DRIVER] == 1


def test_window_fills_all_devices_with_eight_requesters():
    assert requesters_of(PoolSpec(256, 1.0)) == (8, 128)
    assert requesters_of(PoolSpec(1024, 1.0)) == (8, 512)
    assert requesters_of(PoolSpec(4, 1.0)) == (2, 8)


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::ServeReplica:virtual-1:GeneratorActor.handle_request", "virtual devices"),
        ("ray::ServeController.run_control_loop", CONTROLLER),
        ("/lib/ray/core/src/ray/raylet/raylet --session-name=MapWorker", "raylet"),
        ("ray::IDLE", "other"),
    ],
)
def test_process_is_known_by_its_title(title: str, kind: str):
    assert kind_of(title) == kind


def test_options_select_parts_and_sizes(monkeypatch: pytest.MonkeyPatch):
    measured: list[Sizes] = []
    monkeypatch.setitem(PARTS, "take", measured.append)
    ended = CliRunner().invoke(main, ["--part", "take", "--actors=4,8", "--seconds", "0.5"])
    assert ended.exit_code == 0, ended.output
    assert measured == [Sizes([4, 8], [1, 8, 16, 32], 0.5, 8, 32)]
    ended = CliRunner().invoke(main, ["--part", "take", "--actors", "many"])
    assert (ended.exit_code, len(measured)) == (2, 1)
    assert "many is not a list of numbers, such as 256,1024." in ended.output
