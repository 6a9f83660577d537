"""Streams of random numbers: functions of purpose, seed and place alone."""

import numpy as np

from generation.random_streams import Purpose, bits, stream


def test_a_stream_is_numpys_philox_at_a_key_and_a_counter():
    expected = np.random.Philox(key=np.array([7, 3], np.uint64), counter=np.array([0, 5, 6, 0], np.uint64))
    assert bits(Purpose.SHARD_ORDER, 7, 5, 6).random_raw(8).tolist() == expected.random_raw(8).tolist()


def test_purposes_seeds_and_places_share_nothing():
    places = [(0, 0), (0, 1), (1, 0), (0, 0, 1)]
    drawn = [stream(purpose, seed, *place).random() for purpose in Purpose for seed in (0, 1) for place in places]
    assert len(set(drawn)) == len(drawn)


def test_the_numbers_of_purposes_do_not_move():
    assert [(each.name, each.value) for each in Purpose] == [
        ("LABELS", 0),
        ("NOISE_SEEDS", 1),
        ("PROMPTS", 2),
        ("SHARD_ORDER", 3),
        ("AUGMENTATION", 4),
        ("RESERVOIR", 5),
        ("REAL_IMAGE_ORDER", 6),
        ("SHIFTS", 7),
    ]
