"""Which samples `ray_jobs.regenerate` generates again."""

import pytest

from ray_jobs.regenerate import parse_indices


def test_indices_and_ranges_are_unique_and_in_order():
    assert parse_indices("8,7,1000:1004,1002,7") == [8, 7, 1000, 1001, 1002, 1003]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--index is ''. Use indices and ranges such as 7,8,1000:1016"),
        ("seven", "--index is 'seven'"),
        ("5:5", "--index has '5:5'"),
        ("9:5", "--index has '9:5'"),
        ("-1", "--index has '-1'; use indices from 0 to"),
        ("9223372036854775808", "use indices from 0 to 9223372036854775807"),
        ("0:9223372036854775808", "has more"),
        ("0:9223372036854775809", "use indices from 0 to"),
        ("0:2000000", "has more than 1,000,000 samples"),
    ],
)
def test_invalid_indices_are_named(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_indices(text)
