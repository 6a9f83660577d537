"""Results of runs, worked out by hand, and the HTML page."""

import dataclasses

import numpy as np
import pytest

from generation.config import GenerationConfig
from ray_jobs.cli.config import Prices
from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig, StepConfig
from ray_jobs.scaling.experiments import LoadResult, PoolState
from ray_jobs.scaling.fault_injector import FaultEvent
from ray_jobs.scaling.faults import faults_result
from ray_jobs.scaling.loads import Load
from ray_jobs.scaling.report import ScaleResults, report
from ray_jobs.scaling.step import release_seconds, start_seconds, step_load, step_result
from ray_jobs.scaling.sweep import sweep_point
from ray_jobs.scaling.throughput import Deliveries, Exactness

CONFIG = ScaleConfig(
    generation=GenerationConfig(gpus_per_actor=0.5, batch_size=8, painted_batch_seconds=2.0),
    step=StepConfig(2, 16, few_seconds=20, many_seconds=60, last_seconds=40, trainer_fraction=0.9),
    faults=FaultsConfig(num_actors=4, seconds=100, actor_kills_per_minute=0.15, trainer_kills_per_minute=0.6),
)


def state(at: float, num_actors: int, num_pending: int = 0, num_loads: int = 4, megabytes: int = 100) -> PoolState:
    return PoolState(at, num_actors, num_pending, num_loads, megabytes * 1_000_000, 2_000_000)


def run_of(
    load: Load, delivered_at: np.ndarray, states: list[PoolState], events: tuple[FaultEvent, ...] = ()
) -> LoadResult:
    """Return a run whose batches of 8 arrive at these times, each after half a second of waiting."""
    return LoadResult(
        load=load,
        actor_rate=4.0,
        began_at=0.0,
        up_at=6.0,
        trainers_began_at=[9.0, 55.0],
        deliveries=Deliveries(delivered_at, np.full(len(delivered_at), 8), np.full(len(delivered_at), 0.5)),
        exactness=Exactness.of(np.arange(8 * len(delivered_at)), load.num_images),
        pool_states=states,
        events=list(events),
    )


def at_rate(result: LoadResult, actor_rate: float) -> LoadResult:
    """Return the run with another rate of its actors, in images per second."""
    return dataclasses.replace(result, actor_rate=actor_rate)


def steady(num_actors: int, seconds: float = 1.0) -> LoadResult:
    """Return a complete run of 101 batches, the first at 10 s."""
    pool = dataclasses.replace(CONFIG.generation, min_actors=num_actors, max_actors=num_actors)
    sizes = [50, 60, *[70] * 17, 90]
    states = [state(float(i), num_actors, megabytes=size) for i, size in enumerate(sizes)]
    return run_of(Load(pool, (), 808), 10 + seconds * np.arange(101), states)


def test_pool_that_delivers_its_nominal_rate_meets_the_target():
    prices = Prices(generation_device_hour=3.6, training_device_hour=7.2)
    config = dataclasses.replace(CONFIG, prices=prices)
    point = sweep_point(config, steady(num_actors=2))
    assert (point.num_actors, point.nominal_per_second) == (2, 8.0)
    assert point.delivered_per_second == pytest.approx(8.0)
    assert point.delivered_fraction == pytest.approx(1.0)
    assert (point.time_to_first_batch_seconds, point.first_batch_seconds) == (10.0, 1.0)
    assert point.waiting_fraction == pytest.approx(0.5)
    assert point.device_seconds_per_image == pytest.approx(2 * 0.5 / 8)
    # An hour of one GPU of generators and one of a trainer costs 10.8, and makes 28,800 images.
    assert point.cost_per_thousand == pytest.approx(10.8 / 28.8)
    assert (point.driver_bytes, point.driver_growth_bytes) == (90_000_000, 20_000_000)
    assert point.missed == []


def test_no_cost_without_prices():
    assert sweep_point(CONFIG, steady(num_actors=2)).cost_per_thousand is None


def test_slow_pool_and_lost_or_duplicated_samples_miss_targets():
    late = steady(num_actors=2, seconds=1.04)
    assert sweep_point(CONFIG, late).missed == ["2 actors: delivered 0.962 of the nominal rate, less than 0.97."]
    assert (
        sweep_point(CONFIG, at_rate(steady(num_actors=32, seconds=1.04), 4.0 / 16)).missed == []
    )  # the target of large pools is 0.95
    wrong = dataclasses.replace(steady(num_actors=2), exactness=Exactness(808, num_lost=8, num_doubled=8))
    assert sweep_point(CONFIG, wrong).missed == [
        "2 actors: 8 of 808 samples were lost.",
        "2 actors: 8 of 808 samples were duplicated.",
    ]


def step_load_result(reached_at: float) -> LoadResult:
    """Return a run with its first batch at 10 s, its step up at 30 s and down at 90 s."""
    slow, fast = 8 / 7.2, 8 / 57.6
    delivered_at = np.concatenate(
        [
            np.arange(10, reached_at, slow),
            np.arange(reached_at, 90, fast),
            np.arange(90, 130, slow),
        ]
    )
    states = [
        state(10, 2),
        state(32, 2, 14),
        state(38, 10, 6),
        state(40, 16),
        state(90, 16),
        state(104, 2),
        state(140, 2),
    ]
    return run_of(step_load(CONFIG, 4.0), delivered_at, states)


def exact(result: LoadResult) -> LoadResult:
    """Return the run with every sample delivered once."""
    return dataclasses.replace(result, exactness=Exactness(result.load.num_images, 0, 0))


def test_step_reports_reaction_start_and_release_times():
    result = step_result(CONFIG, step_load_result(reached_at=45.0))
    assert result.reaction_seconds == pytest.approx(15.0, abs=0.7)  # within half a batch's time at 95%
    assert (result.start_seconds, result.release_seconds, result.most_actors) == (8.0, 14.0, 16)
    assert result.appetite_per_second == pytest.approx([7.2, 57.6, 7.2])
    assert result.delivered_per_second == pytest.approx([7.2, 45 / 60 * 57.6 + 15 / 60 * 7.2, 7.2], rel=0.05)
    # 2 actors for 22 s, 16 for 72 s, 2 for the rest, each half a GPU
    seconds = (2 * 22 + 16 * 72 + 2 * (step_load_result(45.0).deliveries.delivered_at[-1] - 104)) / 2
    assert result.device_seconds_per_image == pytest.approx(
        seconds / (step_load_result(45.0).deliveries.nums.sum() - 8)
    )


def test_step_with_an_incomplete_scale_up_misses_its_target():
    states = [state(32, 2, 14), state(38, 15, 1), state(89, 15, 1)]
    assert start_seconds(states, 30, 90) is None
    result = dataclasses.replace(step_load_result(45.0), pool_states=[state(10, 2), *states, state(104, 2)])
    missed = step_result(CONFIG, exact(result)).missed
    assert missed == ["Step: the first scale-up did not complete."]


def test_later_scale_ups_do_not_lengthen_the_first():
    states = [state(32, 2, 4), state(35, 6, 10), state(60, 16, 0)]
    assert start_seconds(states, 30, 90) == 3.0


def test_actors_released_after_the_run_do_not_count_as_released():
    states = [state(90, 16), state(130, 16), state(131, 2)]
    assert release_seconds(states, 90, 130, 2) is None
    assert release_seconds(states, 90, 131, 2) == 41.0


def test_late_or_unreached_step_misses_its_target():
    def missed(reached_at: float) -> list[str]:
        return step_result(CONFIG, exact(step_load_result(reached_at))).missed

    assert missed(45.0) == []
    (late,) = missed(55.0)
    assert late.startswith("Step: the new rate was reached after 2")
    assert late.endswith("more than 10 s beyond the actor start-up time of 8.0 s.")
    assert missed(88.0) == ["Step: the delivery rate did not reach 57.6 images/s."]


def test_throughput_loss_may_exceed_capacity_loss_by_the_spare_fraction():
    # Two of four actors are killed at 20 s and 30 s, and replaced after 10 s each; no trainer from 50 s to 55 s.
    events = (
        FaultEvent("actor_kill", 20, "a:1", 1),
        FaultEvent("actor_kill", 30, "a:2", 1),
        FaultEvent("trainer_kill", 50, "a:3"),
    )
    states = [state(10, 4), state(29, 4, num_loads=4), state(30, 4, num_loads=5), state(40, 4, num_loads=6)]
    load = Load(dataclasses.replace(CONFIG.generation, min_actors=4, max_actors=4), (), 8 * 181)
    delivered_at = np.concatenate([10 + 0.5 * np.arange(81), 55.5 + 0.5 * np.arange(100)])  # 16 images/s, but for 5 s
    result = faults_result(CONFIG, run_of(load, delivered_at, states, events))
    assert result.num_struck == {"actor_kill": 2, "trainer_kill": 1}
    assert result.num_planned == {"actor_kill": 1, "trainer_kill": 1}
    assert result.delivered_per_second == pytest.approx(8 * 180 / 100)
    assert result.loss_fraction == pytest.approx(0.1)
    assert result.lost_actor_fraction == pytest.approx(2 * 10 / (4 * 100))
    assert result.lost_fraction == pytest.approx(0.05 + 0.05)
    assert [fault.began_at for fault in result.struck] == [10, 20, 40]
    assert result.missed == []
    slower = faults_result(CONFIG, at_rate(run_of(load, delivered_at, states, events), 4.5))
    assert slower.missed == ["Faults: throughput loss 20.0% exceeds capacity loss 10.0% by more than 5%."]


def test_page_has_all_experiments_and_missed_targets():
    events = (FaultEvent("node_delay", 20, "node", 2, 23.0),)
    load = Load(dataclasses.replace(CONFIG.generation, min_actors=4, max_actors=4), (), 808)
    faults = faults_result(CONFIG, run_of(load, 10 + 0.5 * np.arange(101), [state(10, 4)], events))
    assert faults.lost_actor_fraction == pytest.approx(2 * 3 / 400)
    points = [sweep_point(CONFIG, steady(num)) for num in (2, 4)]
    results = ScaleResults(tuple(points), step_result(CONFIG, step_load_result(45.0)), faults)
    page = report(CONFIG, {"commit": "abc"}, results)
    assert page.count("<svg") == 3
    assert "4 actors: delivered 0.500 of the nominal rate" in page
    assert "actors released after" in page
    assert "0 of 1 scheduled trainer kills" in page
    assert report(CONFIG, {"commit": "abc"}, ScaleResults((points[0],))).count("All targets were met.") == 1
