import pytest

from generation.labels import ClassEntry
from generation.prompts import render_prompt

SEVEN = ClassEntry("n13744916", "seven.n.01", ("seven", "7"), "the sum of six and one", ("digit", "numeral"))


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ("class_name", "seven, 7"),
        ("hypernym", "seven, 7, digit"),
        ("definition", "seven, 7, the sum of six and one"),
        ("multiple", "multiple seven, 7"),
        ("background", "seven, 7 inside stripes"),
        ("hypernym_background", "seven, 7, digit inside stripes"),
    ],
)
def test_each_form_of_the_paper_reads_as_stated(form: str, prompt: str):
    assert render_prompt(form, SEVEN, "stripes") == prompt


def test_an_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'poem'.*definition"):
        render_prompt("poem", SEVEN, "")
