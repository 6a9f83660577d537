"""Which learners train at once, and which stop early."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from generation.engine.generator import GenerationFailedError
from generation.engine.scores import ScoreCounts
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.experiment_config import ExperimentConfig, Learner, StoppingConfig, learners
from ray_jobs.cluster.placement import Node
from ray_jobs.experiments.learners import Rungs, num_at_once, rungs_of
from ray_jobs.experiments.run import last_scores
from tests.support.settings import PAINTED

HALVING = StoppingConfig(reduction=2, first_images=64)


def three_learners(folder: Path) -> list[Learner]:
    """Return learners of 256 images: `a, seed 0`, `a, seed 1` and `a, seed 2`."""
    images = ["training.num_images=256", "training.num_epochs=4", f"output={folder}"]
    return learners(load_config(ExperimentConfig, [PAINTED, *images, "arms={a: []}"]))


def report(num_trained: int, top1: float) -> dict[str, Any]:
    return {"num_trained": num_trained, "held_out_top1": top1}


def test_learner_below_the_best_half_at_a_rung_stops(tmp_path: Path):
    rungs = Rungs(HALVING, three_learners(tmp_path))
    assert not rungs.stops("a, seed 0", report(64, 0.5))  # the first
    assert rungs.stops("a, seed 1", report(64, 0.3))
    assert not rungs.stops("a, seed 2", report(64, 0.6))  # above 0.4, the middle of 0.3 and 0.5
    assert not rungs.stops("a, seed 2", report(128, 0.7))
    assert rungs.stops("a, seed 0", report(128, 0.65))
    assert not rungs.stops("a, seed 2", report(192, 0.1))  # no rung
    assert not rungs.stops("a, seed 2", report(256, 0.1))  # the only one at the last


def test_learner_that_was_lost_before_it_heard_of_its_stop_stops_at_its_next_report(tmp_path: Path):
    rungs = Rungs(HALVING, three_learners(tmp_path))
    assert not rungs.stops("a, seed 0", report(64, 0.5))
    assert rungs.stops("a, seed 1", report(64, 0.3))
    assert rungs.stops("a, seed 1", report(96, 0.9))


def test_only_learners_with_the_same_held_out_images_are_compared(tmp_path: Path):
    arms = "arms={s: [], one: [data.source=shards, data.shards=1], two: [data.source=shards, data.shards=2]}"
    found = learners(load_config(ExperimentConfig, [PAINTED, arms, "seeds=[0, 1]", f"output={tmp_path}"]))
    rungs = rungs_of(HALVING, found)
    assert [each.name for each in found if rungs[each.name] is rungs["one, seed 0"]] == ["one, seed 0", "one, seed 1"]
    assert len({id(each) for each in rungs.values()}) == 3
    assert rungs_of(StoppingConfig(), found) == {}


def test_learners_are_compared_with_reports_of_an_earlier_job(tmp_path: Path):
    found = three_learners(tmp_path)
    folder = Path(found[0].config.output)
    folder.mkdir(parents=True)
    columns = "seconds,num_trained,num_generated,generation_device_seconds,training_device_seconds,epoch,held_out_top1"
    (folder / "spent.csv").write_text(f"{columns}\n1,32,32,1,1,0,\n2,64,64,1,1,1,0.5\n3,96,96,1,1,1,0.5\n")
    rungs = Rungs(HALVING, found)
    assert rungs.stops("a, seed 1", report(64, 0.4))
    assert not rungs.stops("a, seed 0", report(64, 0.1))  # resumed: decided before


@pytest.mark.parametrize(("num_cpus", "expected"), [(1.0, 1), (1.4, 1), (1.5, 2), (2.0, 3), (8.0, 4)])
def test_as_many_learners_train_as_fit_beside_the_pool(num_cpus: float, expected: int, monkeypatch):
    """The pool takes 2 x 0.25 CPU and each of four trainers 0.5."""
    monkeypatch.setattr("ray_jobs.experiments.learners.nodes_alive", lambda: [Node({"CPU": num_cpus})])
    job = SimpleNamespace(config=load_config(JobConfig, [PAINTED]))
    assert num_at_once(cast(Any, [job] * 4)) == expected


def test_pool_that_has_ended_has_no_last_scores():
    def fail() -> NoReturn:
        raise GenerationFailedError("the keeper was lost")

    assert last_scores(cast(Any, SimpleNamespace(scores=fail))) is None
    scores = ScoreCounts(Counter({"all images": 1}), Counter({"all images": 900}))
    assert last_scores(cast(Any, SimpleNamespace(scores=lambda: scores))) is scores
