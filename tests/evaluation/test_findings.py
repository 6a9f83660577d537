"""What a grid says of the paper's findings, on grids whose answer is known."""

import dataclasses

import pytest

from evaluation.findings import Cell, Difference, Finding, difference, excess, findings, verdict_of

FORMS, SCALES, SIZES, WAYS = ("class_name", "definition", "background"), (1.0, 5.0), ("1x", "10x"), ("plain", "strong")
NUMBERS = {"1x": 100, "10x": 1000}


def cell(
    form: str, guidance: float, size: str, way: str, clean: float, shifts: tuple[float, float] = (0.5, 0.5)
) -> Cell:
    """Return a cell of generated images, or, without a form, of real ones; shifts are noisy, blurred."""
    data, (noisy, blurred) = "generated" if form else "real", shifts
    top1 = {"digits": clean, "digits/noisy": noisy, "digits/blurred": blurred}
    return Cell(data, form, guidance, size, way, NUMBERS[size], top1)


def grid(**gains: float) -> list[Cell]:
    """Return a grid in which each choice adds what `gains` says, and pairs differ by a little."""
    cells = []
    for i, (form, guidance, size, way) in enumerate(
        (form, guidance, size, way) for form in FORMS for guidance in SCALES for size in SIZES for way in WAYS
    ):
        clean = 0.5 + 0.001 * (i % 5)
        clean += gains.get("low", 0.0) * (guidance == 1.0) + gains.get("large", 0.0) * (size == "10x")
        clean += gains.get("strong", 0.0) * (way == "strong")
        noisy = 0.4 + 0.001 * (i % 3) + gains.get("background", 0.0) * (form == "background")
        blurred = 0.4 + 0.001 * (i % 7) + gains.get("untaught", 0.0) * (form == "background")
        cells.append(cell(form, guidance, size, way, clean, (noisy, blurred)))
    for i, (size, way) in enumerate((size, way) for size in SIZES for way in WAYS):
        cells.append(cell("", 0.0, size, way, 0.6 + 0.001 * (i % 3)))
    return cells


def verdicts(cells: list[Cell]) -> list[str]:
    return [each.verdict for each in findings(cells)]


def test_a_difference_is_the_mean_over_pairs_that_differ_in_nothing_else():
    better = [cell("class_name", 1.0, "1x", "plain", 0.9), cell("class_name", 1.0, "10x", "plain", 0.8)]
    worse = [cell("class_name", 5.0, "1x", "plain", 0.7), cell("class_name", 5.0, "10x", "plain", 0.7)]
    unpaired = [cell("definition", 5.0, "1x", "plain", 0.0)]
    found = difference(better, worse + unpaired, lambda each: (each.form, each.size), lambda each: each.clean)
    assert (found.mean, found.num_pairs) == (pytest.approx(0.15), 2)  # 0.2 and 0.1
    assert found.error == pytest.approx(0.05)  # their standard deviation 0.0707, over the root of 2
    assert str(found) == "+15.0 ± 5.0 points over 2 pairs"


def test_cells_without_a_pair_are_refused():
    with pytest.raises(ValueError, match="No two experiments differ in this alone"):
        difference([cell("class_name", 1.0, "1x", "plain", 0.9)], [], lambda each: each.form, lambda each: each.clean)


@pytest.mark.parametrize(
    ("mean", "error", "num_pairs", "verdict"),
    [
        (0.05, 0.02, 9, "shown"),
        (0.03, 0.02, 9, "not shown"),
        (-0.03, 0.02, 9, "not shown"),
        (-0.05, 0.02, 9, "the contrary"),
        (0.05, 0.0, 1, "not shown"),
        (0.12, 0.01, 2, "not shown"),
        (-0.12, 0.01, 2, "not shown"),
        (0.13, 0.01, 2, "shown"),  # two pairs need 12.7 errors
        (0.023, 0.01, 9, "not shown"),  # nine need 2.306
        (0.023, 0.01, 18, "shown"),  # eighteen need 2.110
        (0.0195, 0.01, 900, "not shown"),  # and many 1.96
    ],
)
def test_the_fewer_pairs_there_are_the_more_errors_a_difference_must_be_from_zero(
    mean: float, error: float, num_pairs: int, verdict: str
):
    assert verdict_of(Difference(mean, error, num_pairs)) == verdict


def test_the_difference_of_two_gains_has_both_errors_and_the_fewer_pairs():
    found = excess(Difference(-0.07, 0.04, 27), Difference(0.05, 0.03, 2))
    assert (found.mean, found.error, found.num_pairs) == (pytest.approx(-0.12), pytest.approx(0.05), 2)


def test_what_two_pairs_of_real_images_say_of_augmentation_is_not_taken_for_more():
    cells = [each for each in grid(strong=-0.1) if each.data == "generated"]
    real = [
        cell("", 0.0, size, way, 0.6 + harm * (way == "strong"))
        for size, harm in (("1x", 0.0), ("10x", -0.02))
        for way in WAYS
    ]
    told = findings(cells + real)[1]  # -10 on generated and -1 +- 1 on real images: 9 errors, of 12.7
    assert told.verdict == "not shown"
    assert "-1.0 ± 1.0 points over 2 pairs on real images" in told.evidence
    assert "over 12 pairs on generated" in told.evidence
    assert "The fewer pairs, 2, decide" in told.evidence


def test_a_grid_in_which_all_helps_shows_it():
    told = findings(grid(low=0.1, strong=0.1, large=0.1, background=0.1, untaught=0.1))
    assert [each.verdict for each in told[:5]] == ["shown"] * 5
    assert "guidance 1 instead of 5: +9.9 ± 0.1 points over 6 pairs (plain" in told[0].evidence
    assert "10x instead of 1x" in told[2].evidence
    assert "blurred +10" in told[3].evidence
    assert "noisy +10" in told[4].evidence


def test_a_grid_in_which_all_harms_shows_the_contrary():
    told = verdicts(grid(low=-0.1, strong=-0.1, large=-0.1, background=-0.1, untaught=-0.1))
    assert told[:5] == ["the contrary"] * 5


def test_what_helps_under_shifts_that_prompts_were_taught_shows_nothing_of_others():
    told = findings(grid(background=0.4, untaught=-0.1))
    assert [(each.claim.split("shifts ")[-1], each.verdict) for each in told[3:5]] == [
        ("that no prompt was taught.", "the contrary"),
        ("that prompts were taught.", "shown"),
    ]


def test_augmentations_that_show_different_things_have_a_verdict_each():
    cells = [
        dataclasses.replace(each, top1={**each.top1, "digits": each.clean - 0.2 * (each.guidance == 1.0)})
        if each.augmentation == "strong"
        else each
        for each in grid(low=0.1)
    ]
    told = findings(cells)[0]
    assert told.verdict == "shown with plain, the contrary with strong augmentation"
    assert "+9.9" in told.evidence
    assert "-9.9" in told.evidence


def test_an_optimum_between_is_named_and_lower_is_not_better():
    cells = [each for each in grid(low=0.1) if each.data == "generated"]
    middle = [
        dataclasses.replace(each, guidance=2.0, top1={**each.top1, "digits": each.clean + 0.05})
        for each in cells
        if each.guidance == 1.0
    ]
    told = findings([*cells, *middle, *(each for each in grid() if each.data == "real")])[0]
    assert told.verdict == "not shown"
    assert told.evidence.endswith("Better than both ends: 2.")


def test_what_helps_real_images_as_much_does_not_help_generated_ones_more():
    cells = [each for each in grid(strong=0.1) if each.data == "generated"]
    real = [cell("", 0.0, size, way, 0.6 + 0.1 * (way == "strong")) for size in SIZES for way in WAYS]
    assert findings(cells + real)[1].verdict == "not shown"


def test_what_this_grid_cannot_show_has_no_verdict():
    told: list[Finding] = findings(grid())
    assert [each.verdict for each in told[5:]] == ["cannot be shown here"] * 2
    assert "generated (class_name, guidance 1, 10x, plain) 50.2% clean" in told[6].evidence
