"""Advice worked out by hand: stretches of 100 s in which training learns or waits."""

import dataclasses
from collections import Counter

from generation.config import GenerationConfig
from generation.pool.keeper import GenerationCounts
from generation.shards.config import DataConfig
from ray_jobs.cli.config import JobConfig
from ray_jobs.monitor.advice import NOTHING_TO_GO_BY, Adviser, MissingActors, advise
from ray_jobs.monitor.progress import Stretch
from tests.support.looks import looked, worked
from training.config import TrainingConfig

FIXED = JobConfig(generation=GenerationConfig(min_actors=4, max_actors=4))


def growing(max_actors: int) -> JobConfig:
    return dataclasses.replace(FIXED, generation=GenerationConfig(min_actors=0, max_actors=max_actors))


def stretch(
    waiting_seconds: float, working_seconds: float, num_actors: int = 4, validation_seconds: float = 0
) -> Stretch:
    """100 s of learning and waiting, after which training has judged for some more."""
    before = looked(100.0, num_actors, worked(0.0), epoch=0)
    until = 200.0 + validation_seconds
    now = looked(
        until,
        num_actors,
        worked(working_seconds),
        waiting_seconds=waiting_seconds,
        validation_seconds=validation_seconds,
    )
    return Stretch(before, now)


def test_a_trainer_that_waits_for_generators_that_are_always_at_work_wants_more():
    assert advise(stretch(41, 400), FIXED) == "trainer waited 41%: add about 3 generators"  # 4 / 0.59 = 6.8
    assert advise(stretch(20, 400), FIXED) == "trainer waited 20%: add about 1 generator"  # 5


def test_a_pool_that_has_grown_as_far_as_it_may_is_to_have_more_room():
    assert advise(stretch(41, 400), growing(4)) == "trainer waited 41%: raise generation.max_actors from 4 to about 7"
    assert advise(stretch(41, 400), growing(6)) == "trainer waited 41%: raise generation.max_actors from 6 to about 7"
    assert advise(stretch(41, 400), growing(7)) == (
        "trainer waited 41%: about 7 generators would do; the pool of 4 grows by itself"
    )


def test_generators_that_idle_while_training_waits_are_not_to_become_more():
    said = advise(stretch(30, 200), FIXED)  # 2 / 0.7 = 2.9
    assert said == (
        "trainer waited 30%, but 2.0 of 4.0 generators were at work in the mean: images were held up on their way, and "
        "more of them would not help; try a larger generation.max_buffered_bytes"
    )
    replays = dataclasses.replace(FIXED, data=DataConfig(tee="somewhere", replays=1))
    assert advise(stretch(30, 200), replays).endswith("try a larger data.num_readers")


def test_a_pool_that_grew_meanwhile_is_judged_by_how_many_it_had_in_the_mean():
    before = dataclasses.replace(looked(100.0, 2, worked(0.0), epoch=0), actor_seconds=0.0)
    now = dataclasses.replace(looked(200.0, 16, worked(500.0), waiting_seconds=40.0), actor_seconds=500.0)
    assert advise(Stretch(before, now), growing(16)) == (  # 5 at work of 5 in the mean; 5 / 0.6 = 8.3
        "trainer waited 40%: about 9 generators would do, and 16 are up by now"
    )


def test_training_that_only_waits_wants_a_hundred_times_the_generators():
    assert advise(stretch(100, 400), FIXED) == "trainer waited 100%: add about 396 generators"  # 4 / 0.01


def test_waiting_for_real_images_that_are_mixed_in_is_no_lack_of_generators():
    begun, learnt = looked(100.0, epoch=0), worked(200.0)
    waited = looked(200.0, counts=learnt, waiting_seconds=40.0, pool_waiting_seconds=10.0)
    assert advise(Stretch(begun, waited), FIXED) == "trainer waited 30% for real images: raise data.num_readers"
    mostly_pool = looked(200.0, counts=worked(400.0), waiting_seconds=52.0, pool_waiting_seconds=41.0)
    assert advise(Stretch(begun, mostly_pool), FIXED) == "trainer waited 41%: add about 3 generators"


def test_a_trainer_that_hardly_waits_leaves_generators_idle_or_wants_company():
    said = advise(stretch(1, 320, num_actors=8), FIXED)  # 3.2 / 0.99 = 3.2, half of 8: one worker more, not two
    assert said == (
        "trainer waited 1%, generators were busy 40% of the time: 4 of 8 would do, or add about 1 training worker"
    )
    alone = advise(stretch(0, 30, num_actors=1), FIXED)
    assert alone == "trainer waited 0%, generators were busy 30% of the time: add about 2 training workers"


def test_a_pool_that_keeps_up_with_little_to_spare_is_balanced():
    assert advise(stretch(2, 360), FIXED) == "trainer waited 2%, generators were busy 90% of the time: balanced"
    three = dataclasses.replace(FIXED, training=TrainingConfig(num_workers=3, global_batch_size=258))
    assert advise(stretch(2, 320), three) == "trainer waited 2%, generators were busy 80% of the time: balanced"
    assert advise(stretch(0, 280), three).endswith(
        "busy 70% of the time: 3 of 4 would do, or add about 1 training worker"
    )


def test_a_trainer_that_reuses_images_is_advised_how_many_actors_fresh_ones_take():
    auto = dataclasses.replace(FIXED, training=TrainingConfig(reuse="auto"))
    now = looked(200.0, counts=worked(380.0), waiting_seconds=0.0, reuse=3.2)
    assert advise(Stretch(looked(100.0, epoch=0), now), auto) == (
        "trainer waited 0%, generators were busy 95% of the time: balanced, by using images 3.2 times; 1 would take "
        "about 9 generators more"  # 3.8 x 3.2 = 12.2
    )
    assert advise(stretch(1, 396), auto).endswith(": balanced")  # each is used once


def test_generators_that_had_nothing_to_make_are_too_many_but_for_one():
    assert advise(stretch(0, 0), FIXED) == "trainer waited 0%, generators were busy 0% of the time: 1 of 4 would do"


def test_judging_is_neither_waiting_nor_time_in_which_generators_are_wanted():
    assert advise(stretch(41, 400, validation_seconds=100), FIXED) == advise(stretch(41, 400), FIXED)
    assert advise(stretch(2, 360, validation_seconds=900), FIXED).endswith("balanced")
    assert advise(stretch(41, 700, validation_seconds=100), FIXED) == advise(stretch(41, 400), FIXED)  # 4 are no 7


def test_waiting_for_held_out_images_does_not_count_as_waiting_to_train():
    begun = looked(100.0, epoch=0)
    waited = looked(300.0, counts=worked(400.0), waiting_seconds=141.0, held_out_waiting_seconds=100.0)
    assert advise(Stretch(begun, waited), FIXED) == "trainer waited 41%: add about 3 generators"


def test_a_run_without_generators_hears_of_readers_alone():
    shards = dataclasses.replace(FIXED, data=DataConfig(source="shards", shards="somewhere"))
    real = dataclasses.replace(FIXED, data=DataConfig(source="real", real="digits"))
    assert advise(stretch(30, 0, 0), shards) == "trainer waited 30% for shards: raise data.num_readers"
    assert advise(stretch(30, 0, 0), real) == "trainer waited 30% for real images: raise data.num_readers"
    assert advise(stretch(1, 0, 0), shards) == "trainer waited 1% for shards: readers keep up"


def test_each_epoch_is_judged_by_itself_and_the_run_from_its_first_step():
    said: list[str] = []
    adviser = Adviser(FIXED, said.append)
    adviser.look(looked(90.0, counts=worked(30.0)))
    assert adviser.of_whole_run() == NOTHING_TO_GO_BY
    adviser.look(looked(100.0, counts=worked(40.0), epoch=0))
    adviser.look(looked(150.0, counts=worked(240.0), epoch=0, waiting_seconds=25.0))
    adviser.look(looked(200.0, counts=worked(440.0), epoch=1, waiting_seconds=50.0))
    adviser.look(looked(201.0, counts=worked(440.0), epoch=1, waiting_seconds=50.0))
    adviser.look(looked(300.0, counts=worked(800.0), epoch=2, waiting_seconds=52.0))
    assert said == [
        "epoch 1: trainer waited 50%: add about 4 generators",
        "epoch 2: trainer waited 2%, generators were busy 90% of the time: balanced",
    ]
    assert adviser.of_whole_run() == "trainer waited 26%: add about 2 generators"  # 3.8 / 0.74 = 5.1


def test_after_a_lost_worker_all_counts_from_where_training_was_taken_up():
    said: list[str] = []
    adviser = Adviser(FIXED, said.append)
    adviser.look(looked(100.0, counts=worked(0.0), epoch=2, waiting_seconds=70.0))
    again = {"first_batch_at": 6000.0, "num_trained_before": 512}
    adviser.look(looked(200.0, counts=worked(100.0), epoch=2, training_seconds=0.0, **again))
    adviser.look(looked(300.0, counts=worked(500.0), epoch=3, training_seconds=100.0, waiting_seconds=41.0, **again))
    assert said == ["epoch 3: trainer waited 41%: add about 3 generators"]
    assert adviser.of_whole_run() == "trainer waited 41%: add about 3 generators"


def test_generators_that_do_not_come_in_their_time_are_said_once_until_one_comes():
    pool = GenerationConfig(start_timeout_seconds=20, wait_for_nodes_seconds=40)
    said: list[str] = []
    missing = MissingActors(JobConfig(generation=pool), said.append)
    looks = [(0, 3, 2), (59, 3, 2), (60, 3, 2), (90, 3, 2)]  # seconds, actors awaited, actors that came
    looks += [(91, 1, 4), (150, 1, 4), (151, 1, 4), (170, 0, 5), (229, 1, 5), (230, 1, 5)]
    for at, num_awaited, num_loads in looks:
        look = looked(float(at), num_loads, GenerationCounts(num_loads=Counter(a=num_loads)))
        missing.look(dataclasses.replace(look, num_awaited=num_awaited))
    assert said == [
        "3 generators more did not come within 60 s: has the cluster such nodes? The run goes on with 2",
        "1 generator more did not come within 60 s: has the cluster such nodes? The run goes on with 4",
        "1 generator more did not come within 60 s: has the cluster such nodes? The run goes on with 5",
    ]
