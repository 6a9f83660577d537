import pytest

from benchmarks.options import split_options


def test_options_are_found_anywhere_among_the_arguments():
    arguments = ["--index", "7", "config.yaml", "recipe.seed=1", "--out=there"]
    assert split_options(arguments, ("index", "out")) == (
        {"index": "7", "out": "there"},
        ["config.yaml", "recipe.seed=1"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--indx", "7"], "'--indx' is not an option. Options are --index, --out"),
        (["config.yaml", "--index"], "'--index' has no value"),
        (["--index=", "config.yaml"], "'--index' has no value"),
    ],
)
def test_unknown_and_incomplete_options_are_named(arguments: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        split_options(arguments, ("index", "out"))
