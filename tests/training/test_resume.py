"""Runs that lose a training worker or a generator: no use of a sample is lost or repeated."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from generation.pool.service import GenerationService, start_generation
from generation.recipes.recipe import Recipe
from tests.support.fits import FORTY_STEPS, train
from tests.support.journals import expected_uses, has_done, steps_in, uses_of
from tests.support.processes import killing
from tests.support.settings import TWO_ACTORS
from training.run_state import RunState

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TRAINER, GENERATOR = "RayTrainWorker", "GeneratorActor"


@pytest.mark.nightly
def test_worker_loss_changes_no_use_counts(painted: Recipe, painted_pool: GenerationService, tmp_path: Path):
    config = dataclasses.replace(FORTY_STEPS, num_workers=2)
    with killing(TRAINER, has_done(tmp_path / "journal", 15)) as killed:
        last = train(painted_pool, painted, config, tmp_path)
    assert len(killed) == 1
    check_uses(tmp_path, last)
    num_starts = [len(starts) for _, starts in sorted(steps_in(tmp_path / "journal").items())]
    assert num_starts[0] == 1  # it resumed from a checkpoint
    assert max(num_starts) == 2


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(7))
def test_loss_at_any_step_changes_no_use_counts(seed: int, painted: Recipe, tmp_path: Path):
    random = np.random.default_rng(seed)
    config = dataclasses.replace(FORTY_STEPS, num_workers=int(random.choice([1, 2])))
    name = (TRAINER, GENERATOR)[seed % 2]
    with killing(name, has_done(tmp_path / "journal", int(random.integers(2, 36)))) as killed:
        num_actors = int(random.choice([1, 2]))
        pool = dataclasses.replace(TWO_ACTORS, min_actors=num_actors, max_actors=num_actors)
        recipe = dataclasses.replace(painted, seed=seed + 1)
        with start_generation(recipe, pool) as service:
            last = train(service, recipe, config, tmp_path)
    assert len(killed) == 1
    check_uses(tmp_path, last)
    num_starts = {len(starts) for starts in steps_in(tmp_path / "journal").values()}
    assert num_starts <= ({1, 2} if name == TRAINER else {1})


def check_uses(run_dir: Path, last: dict) -> None:
    """Check that a finished run of 40 steps used each sample as often as an undisturbed one."""
    assert last["global_step"] == 40
    assert uses_of(run_dir / "journal") == expected_uses(FORTY_STEPS)
    state = RunState.from_checkpoint(last["run"]).of("synthetic")
    assert len(state.taken) == FORTY_STEPS.num_samples
    assert len(state.begun) == 0
