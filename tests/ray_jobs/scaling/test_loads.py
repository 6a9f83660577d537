"""The load of each experiment."""

import dataclasses
import math

import pytest

from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import Rates
from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig, StepConfig, SweepConfig
from ray_jobs.scaling.faults import faults_load
from ray_jobs.scaling.loads import Phase, rate_per_actor, trainer_rate_at
from ray_jobs.scaling.step import step_load
from ray_jobs.scaling.sweep import sweep_load
from training.config import TrainingConfig

CONFIG = ScaleConfig(
    generation=GenerationConfig(batch_size=8, painted_batch_seconds=2.0, max_actors=5, initial_actors=3),
    training=TrainingConfig(global_batch_size=16),
    sweep=SweepConfig(seconds=60),
    step=StepConfig(few_actors=2, many_actors=16, few_seconds=30, many_seconds=60, last_seconds=50),
    faults=FaultsConfig(num_actors=8, seconds=180),
)


def test_trainer_rate_follows_the_phases_and_is_unlimited_afterwards():
    phases = [Phase(30, 7.2), Phase(60, 57.6), Phase(10, 7.2)]
    times = [0, 29.9, 30, 89.9, 90, 99.9, 100, 1000]
    assert [trainer_rate_at(phases, seconds) for seconds in times] == [7.2, 7.2, 57.6, 57.6, 7.2, 7.2, 0.0, 0.0]


def test_actor_rate_is_nominal_for_painted_generators_and_configured_for_others(painted: Recipe, digits: Recipe):
    assert rate_per_actor(CONFIG, painted) == 4.0
    with pytest.raises(ValueError, match=r"Set generation\.painted_batch_seconds and generation\.batch_size above 0"):
        rate_per_actor(ScaleConfig(), painted)
    with pytest.raises(ValueError, match=r"Set rates\.generated_per_second"):
        rate_per_actor(CONFIG, digits)
    assert rate_per_actor(dataclasses.replace(CONFIG, rates=Rates(generated_per_second=9.5)), digits) == 9.5


def test_sweep_pool_is_fixed_and_makes_its_images_in_the_configured_time():
    load = sweep_load(CONFIG, 4.0, num_actors=4)
    pool = load.generation
    assert (pool.min_actors, pool.max_actors, pool.num_initial_actors) == (4, 4, 4)
    assert load.num_images == 4 * 4 * 60
    assert (load.phases, load.faults.is_on) == ((Phase(math.inf, 0.0),), False)


def test_number_of_images_is_a_multiple_of_the_trainer_batch():
    assert sweep_load(CONFIG, 4.0, num_actors=1).num_images == 240  # 15 of 16
    assert sweep_load(CONFIG, 0.25, num_actors=1).num_images == 32  # at least two batches


def test_step_goes_from_few_actors_to_many_and_back_with_spare_capacity():
    load = step_load(CONFIG, 4.0)
    pool = load.generation
    assert (pool.min_actors, pool.max_actors, pool.num_initial_actors) == (2, 16, 2)
    assert [(phase.seconds, phase.images_per_second) for phase in load.phases] == [
        (30, pytest.approx(6.8)),  # 0.85 of 2 x 4
        (60, pytest.approx(54.4)),
        (50, pytest.approx(6.8)),
    ]
    assert load.num_images == 3808  # 204 + 3264 + 340


def test_run_with_faults_has_a_fixed_pool_and_duration():
    load = faults_load(CONFIG, 4.0)
    assert (load.generation.min_actors, load.generation.max_actors) == (8, 8)
    assert load.num_images == 8 * 4 * 180
    assert load.faults == CONFIG.faults


def test_largest_pool_counts_only_enabled_experiments():
    assert CONFIG.largest_pool == 32
    small = dataclasses.replace(CONFIG, sweep=SweepConfig(actors=(1, 2)))
    assert small.largest_pool == 16
    alone = dataclasses.replace(small, step=StepConfig(few_actors=4, many_actors=4))
    assert alone.largest_pool == 2
    assert dataclasses.replace(alone, faults=FaultsConfig(trainer_kills_per_minute=1)).largest_pool == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SweepConfig(actors=(2, 0)), r"sweep\.actors is 2, 0; use distinct numbers of 1 or more"),
        (lambda: SweepConfig(actors=(2, 2)), r"sweep\.actors is 2, 2"),
        (lambda: SweepConfig(seconds=0), r"sweep\.seconds is 0; "),
        (lambda: StepConfig(few_actors=3, many_actors=2), r"few_actors is 3, more than step\.many_actors, 2"),
        (lambda: StepConfig(many_seconds=9), r"step\.many_seconds is 9; use 10 or more"),
        (lambda: StepConfig(trainer_fraction=1.1), r"trainer_fraction is 1\.1"),
        (lambda: FaultsConfig(num_actors=0), r"faults\.num_actors is 0"),
        (lambda: FaultsConfig(actor_kills_per_minute=-1), r"faults\.actor_kills_per_minute is -1; "),
        (lambda: ScaleConfig(sweep=SweepConfig(actors=()), step=StepConfig(1, 1)), r"nothing to measure"),
    ],
)
def test_wrong_setting_is_refused_with_a_remedy(wrong, message: str):
    with pytest.raises(ValueError, match=message):
        wrong()
