"""Random streams depend on purpose, seed and place alone."""

import numpy as np

from generation.random_streams import Purpose, bits, draws, stream


def test_stream_is_numpys_philox_at_a_key_and_a_counter():
    expected = np.random.Philox(key=np.array([7, 3], np.uint64), counter=np.array([0, 5, 6, 0], np.uint64))
    assert bits(Purpose.SHARD_ORDER, 7, 5, 6).random_raw(8).tolist() == expected.random_raw(8).tolist()


def test_purposes_seeds_and_places_draw_different_numbers():
    places = [(0, 0), (0, 1), (1, 0), (0, 0, 1)]
    drawn = [stream(purpose, seed, *place).random() for purpose in Purpose for seed in (0, 1) for place in places]
    assert len(set(drawn)) == len(drawn)


def test_purpose_values_never_change():
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


INDICES = np.array([3, 2**40, 3, 7])
USES = np.array([0, 0, 1, 5])


def test_row_is_numpys_philox_keyed_by_seed_and_counted_by_sample_and_use():
    expected = np.random.Philox(key=np.array([11, 4], np.uint64), counter=np.array([0, 2**40, 0, 0], np.uint64))
    np.testing.assert_array_equal(draws(11, INDICES, USES, 9)[1], np.random.Generator(expected).random(9))


def test_row_is_independent_of_other_rows():
    among_others = draws(11, INDICES, USES, 50)
    for row in range(4):
        np.testing.assert_array_equal(draws(11, INDICES[row : row + 1], USES[row : row + 1], 50)[0], among_others[row])


def test_row_is_independent_of_numpys_global_state():
    np.random.seed(1)
    first = draws(11, INDICES, USES, 50)
    np.random.seed(2)
    np.testing.assert_array_equal(draws(11, INDICES, USES, 50), first)


def test_more_draws_keep_the_first_ones():
    np.testing.assert_array_equal(draws(11, INDICES, USES, 50)[:, :7], draws(11, INDICES, USES, 7))


def test_seed_sample_use_and_domain_change_the_numbers():
    base = draws(11, np.array([3]), np.array([1]), 8)
    for others in (
        draws(12, np.array([3]), np.array([1]), 8),
        draws(11, np.array([1]), np.array([3]), 8),
        draws(11, np.array([3]), np.array([2]), 8),
        draws(11, np.array([4]), np.array([1]), 8),
        draws(11, np.array([3]), np.array([1]), 8, domains=np.array([True])),
    ):
        assert not np.isin(others, base).any()


def test_draws_are_uniform_from_0_to_below_1():
    numbers = draws(0, np.arange(1000), np.zeros(1000, dtype=np.int64), 200)
    assert numbers.shape == (1000, 200)
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    shares = np.histogram(numbers, bins=10, range=(0, 1))[0] / numbers.size
    np.testing.assert_allclose(shares, 0.1, atol=0.003)  # four deviations are 0.0027
    correlations = np.corrcoef(numbers, rowvar=False) - np.eye(200)
    assert np.abs(correlations).max() < 0.16  # five deviations of 1 / sqrt(1000)
