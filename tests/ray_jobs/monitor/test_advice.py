"""Advice computed by hand, for intervals of 100 s in which training learns or waits."""

import dataclasses
from collections import Counter

from generation.config import GenerationConfig
from generation.engine.scores import ScoreCounts
from generation.pool.keeper import GenerationCounts
from generation.shards.config import DataConfig
from ray_jobs.cli.config import JobConfig
from ray_jobs.monitor.advice import NO_DATA, Adviser, OverdueActors, advise
from ray_jobs.monitor.progress import Interval
from tests.support.progress import pool_counts, progress_at
from training.config import TrainingConfig

FIXED = JobConfig(generation=GenerationConfig(min_actors=4, max_actors=4))


def growing(max_actors: int) -> JobConfig:
    return dataclasses.replace(FIXED, generation=GenerationConfig(min_actors=0, max_actors=max_actors))


def interval(
    waiting_seconds: float, working_seconds: float, num_actors: int = 4, validation_seconds: float = 0
) -> Interval:
    """100 s of learning and waiting, followed by validation."""
    before = progress_at(100.0, num_actors, pool_counts(0.0), epoch=0)
    until = 200.0 + validation_seconds
    now = progress_at(
        until,
        num_actors,
        pool_counts(working_seconds),
        waiting_seconds=waiting_seconds,
        validation_seconds=validation_seconds,
    )
    return Interval(before, now)


def test_waiting_trainer_with_busy_generators_needs_more():
    assert advise(interval(41, 400), FIXED) == "trainer waited 41%: add about 3 generators"  # 4 / 0.59 = 6.8
    assert advise(interval(20, 400), FIXED) == "trainer waited 20%: add about 1 generator"  # 5


def test_pool_at_its_limit_is_advised_a_higher_limit():
    assert advise(interval(41, 400), growing(4)) == "trainer waited 41%: raise generation.max_actors from 4 to about 7"
    assert advise(interval(41, 400), growing(6)) == "trainer waited 41%: raise generation.max_actors from 6 to about 7"
    assert advise(interval(41, 400), growing(7)) == (
        "trainer waited 41%: about 7 generators would be enough; the pool of 4 grows automatically"
    )


def test_idle_generators_are_not_increased_while_training_waits():
    advice = advise(interval(30, 200), FIXED)  # 2 / 0.7 = 2.9
    assert advice == (
        "trainer waited 30%, but only 2.0 of 4.0 generators were busy on average: images were delayed in transit, so "
        "more generators would not help; raise generation.max_buffered_bytes"
    )
    replays = dataclasses.replace(FIXED, data=DataConfig(tee="somewhere", replays=1))
    assert advise(interval(30, 200), replays).endswith("raise data.num_readers")


def test_growing_pool_is_judged_by_its_mean_size():
    before = dataclasses.replace(progress_at(100.0, 2, pool_counts(0.0), epoch=0), actor_seconds=0.0)
    now = dataclasses.replace(progress_at(200.0, 16, pool_counts(500.0), waiting_seconds=40.0), actor_seconds=500.0)
    assert advise(Interval(before, now), growing(16)) == (  # 5 of 5 busy on average; 5 / 0.6 = 8.3
        "trainer waited 40%: about 9 generators would be enough, and 16 are running now"
    )


def test_advice_is_limited_to_a_hundred_times_the_generators():
    assert advise(interval(100, 400), FIXED) == "trainer waited 100%: add about 396 generators"  # 4 / 0.01


def test_waiting_for_mixed_in_real_images_does_not_add_generators():
    begun, learnt = progress_at(100.0, epoch=0), pool_counts(200.0)
    waited = progress_at(200.0, counts=learnt, waiting_seconds=40.0, pool_waiting_seconds=10.0)
    assert advise(Interval(begun, waited), FIXED) == "trainer waited 30% for real images: raise data.num_readers"
    mostly_pool = progress_at(200.0, counts=pool_counts(400.0), waiting_seconds=52.0, pool_waiting_seconds=41.0)
    assert advise(Interval(begun, mostly_pool), FIXED) == "trainer waited 41%: add about 3 generators"


def test_trainer_without_waiting_is_advised_fewer_generators_or_more_workers():
    advice = advise(interval(1, 320, num_actors=8), FIXED)  # 3.2 / 0.99 = 3.2, half of 8: one worker more, not two
    assert advice == (
        "trainer waited 1%, generators were busy 40% of the time: 4 of 8 would be enough, or add about 1 training "
        "worker"
    )
    alone = advise(interval(0, 30, num_actors=1), FIXED)
    assert alone == "trainer waited 0%, generators were busy 30% of the time: add about 2 training workers"


def test_pool_that_just_keeps_up_is_balanced():
    assert advise(interval(2, 360), FIXED) == "trainer waited 2%, generators were busy 90% of the time: balanced"
    three = dataclasses.replace(FIXED, training=TrainingConfig(num_workers=3, global_batch_size=258))
    assert advise(interval(2, 320), three) == "trainer waited 2%, generators were busy 80% of the time: balanced"
    assert advise(interval(0, 280), three).endswith(
        "busy 70% of the time: 3 of 4 would be enough, or add about 1 training worker"
    )


def test_advice_with_auto_reuse_names_the_actors_for_fresh_images():
    auto = dataclasses.replace(FIXED, training=TrainingConfig(reuse="auto"))
    now = progress_at(200.0, counts=pool_counts(380.0), waiting_seconds=0.0, reuse=3.2)
    assert advise(Interval(progress_at(100.0, epoch=0), now), auto) == (
        "trainer waited 0%, generators were busy 95% of the time: balanced, with images used 3.2 times; about 9 "
        "more generators would lower that to 1"  # 3.8 x 3.2 = 12.2
    )
    assert advise(interval(1, 396), auto).endswith(": balanced")  # each is used once


def test_idle_pool_is_advised_to_shrink_to_one():
    assert (
        advise(interval(0, 0), FIXED)
        == "trainer waited 0%, generators were busy 0% of the time: 1 of 4 would be enough"
    )


def test_validation_time_is_excluded_from_advice():
    assert advise(interval(41, 400, validation_seconds=100), FIXED) == advise(interval(41, 400), FIXED)
    assert advise(interval(2, 360, validation_seconds=900), FIXED).endswith("balanced")
    assert advise(interval(41, 700, validation_seconds=100), FIXED) == advise(
        interval(41, 400), FIXED
    )  # 4 is the limit, not 7


def test_waiting_for_held_out_images_is_excluded_from_advice():
    begun = progress_at(100.0, epoch=0)
    waited = progress_at(300.0, counts=pool_counts(400.0), waiting_seconds=141.0, held_out_waiting_seconds=100.0)
    assert advise(Interval(begun, waited), FIXED) == "trainer waited 41%: add about 3 generators"


def test_run_without_generators_is_advised_on_readers_only():
    shards = dataclasses.replace(FIXED, data=DataConfig(source="shards", shards="somewhere"))
    real = dataclasses.replace(FIXED, data=DataConfig(source="real", real="digits"))
    assert advise(interval(30, 0, 0), shards) == "trainer waited 30% for shards: raise data.num_readers"
    assert advise(interval(30, 0, 0), real) == "trainer waited 30% for real images: raise data.num_readers"
    assert advise(interval(1, 0, 0), shards) == "trainer waited 1% for shards: readers keep up"


def test_advice_is_given_per_epoch_and_for_the_whole_run():
    advice: list[str] = []
    adviser = Adviser(FIXED, advice.append)
    adviser.observe(progress_at(90.0, counts=pool_counts(30.0)))
    assert adviser.run_advice() == NO_DATA
    adviser.observe(progress_at(100.0, counts=pool_counts(40.0), epoch=0))
    adviser.observe(progress_at(150.0, counts=pool_counts(240.0), epoch=0, waiting_seconds=25.0))
    adviser.observe(progress_at(200.0, counts=pool_counts(440.0), epoch=1, waiting_seconds=50.0))
    adviser.observe(progress_at(201.0, counts=pool_counts(440.0), epoch=1, waiting_seconds=50.0))
    adviser.observe(progress_at(300.0, counts=pool_counts(800.0), epoch=2, waiting_seconds=52.0))
    assert advice == [
        "epoch 1: trainer waited 50%: add about 4 generators",
        "epoch 2: trainer waited 2%, generators were busy 90% of the time: balanced",
    ]
    assert adviser.run_advice() == "trainer waited 26%: add about 2 generators"  # 3.8 / 0.74 = 5.1


def test_advice_restarts_after_a_lost_worker():
    advice: list[str] = []
    adviser = Adviser(FIXED, advice.append)
    adviser.observe(progress_at(100.0, counts=pool_counts(0.0), epoch=2, waiting_seconds=70.0))
    again = {"first_batch_at": 6000.0, "num_trained_before": 512}
    adviser.observe(progress_at(200.0, counts=pool_counts(100.0), epoch=2, training_seconds=0.0, **again))
    adviser.observe(
        progress_at(300.0, counts=pool_counts(500.0), epoch=3, training_seconds=100.0, waiting_seconds=41.0, **again)
    )
    assert advice == ["epoch 3: trainer waited 41%: add about 3 generators"]
    assert adviser.run_advice() == "trainer waited 41%: add about 3 generators"


def test_overdue_generators_are_logged_once_until_one_starts():
    pool = GenerationConfig(start_timeout_seconds=20, wait_for_nodes_seconds=40)
    advice: list[str] = []
    overdue = OverdueActors(JobConfig(generation=pool), advice.append)
    snapshots = [(0, 3, 2), (59, 3, 2), (60, 3, 2), (90, 3, 2)]  # seconds, pending actors, loaded actors
    snapshots += [(91, 1, 4), (150, 1, 4), (151, 1, 4), (170, 0, 5), (229, 1, 5), (230, 1, 5)]
    for at, num_pending, num_loads in snapshots:
        snapshot = progress_at(float(at), num_loads, GenerationCounts(num_loads=Counter(a=num_loads)))
        overdue.observe(dataclasses.replace(snapshot, num_pending=num_pending))
    assert advice == [
        "3 more generators did not start within 60 s; check that the cluster has nodes for them. Continuing with 2",
        "1 more generator did not start within 60 s; check that the cluster has nodes for them. Continuing with 4",
        "1 more generator did not start within 60 s; check that the cluster has nodes for them. Continuing with 5",
    ]


def test_epochs_line_has_the_scores_of_the_epoch():
    def counts(num_images: int, thousandths: int, num_off_class: int) -> GenerationCounts:
        scores = ScoreCounts(Counter({"all images": num_images}), Counter({"all images": thousandths}))
        return GenerationCounts(num_refused=Counter(off_class=num_off_class), scores=scores)

    lines: list[str] = []
    adviser = Adviser(FIXED, lines.append)
    adviser.observe(progress_at(100.0, 4, counts(100, 10_000, 50), epoch=1))
    adviser.observe(progress_at(200.0, 4, counts(300, 110_000, 70), waiting_seconds=0.0, epoch=2))
    assert lines[0].endswith("; mean score 0.500, 10.0% off class")
