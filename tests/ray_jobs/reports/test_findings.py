"""Findings of grids with known answers."""

import dataclasses

import numpy as np
import pytest

from ray_jobs.reports.findings import (
    UNTESTED,
    Cell,
    Finding,
    difference,
    findings,
    in_points,
    kinds_of,
    verdict_of,
)

FORMS, SCALES, SIZES, AUGMENTATIONS = (
    ("class_name", "definition", "background"),
    (1.0, 5.0),
    ("1x", "10x"),
    ("plain", "strong"),
)
NUMBERS = {"1x": 100, "10x": 1000}


def cell(
    form: str, guidance: float, size: str, way: str, clean: float, shifts: tuple[float, float] = (0.5, 0.5)
) -> Cell:
    """Return a cell of generated images, or of real images if `form` is empty; `shifts` are noisy, blurred."""
    data, (noisy, blurred) = "generated" if form else "real", shifts
    top1 = {"digits": clean, "digits/noisy": noisy, "digits/blurred": blurred}
    return Cell(data, form, guidance, size, way, NUMBERS[size], top1)


def grid(**gains: float) -> list[Cell]:
    """Return a grid in which each choice adds its value in `gains`, with small differences between pairs."""
    cells = []
    for i, (form, guidance, size, way) in enumerate(
        (form, guidance, size, way) for form in FORMS for guidance in SCALES for size in SIZES for way in AUGMENTATIONS
    ):
        clean = 0.5 + 0.001 * (i % 5)
        clean += gains.get("low", 0.0) * (guidance == 1.0) + gains.get("large", 0.0) * (size == "10x")
        clean += gains.get("strong", 0.0) * (way == "strong")
        noisy = 0.4 + 0.001 * (i % 3) + gains.get("background", 0.0) * (form == "background")
        blurred = 0.4 + 0.001 * (i % 7) + gains.get("untaught", 0.0) * (form == "background")
        cells.append(cell(form, guidance, size, way, clean, (noisy, blurred)))
    for i, (size, way) in enumerate((size, way) for size in SIZES for way in AUGMENTATIONS):
        cells.append(cell("", 0.0, size, way, 0.6 + 0.001 * (i % 3)))
    return cells


def by_claim(cells: list[Cell], begin: str) -> dict[str, Finding]:
    """Return the findings whose claims begin with `begin`, by the rest of the claim."""
    return {each.claim.removeprefix(begin): each for each in findings(cells) if each.claim.startswith(begin)}


def test_difference_is_the_mean_over_pairs_that_differ_in_nothing_else():
    better = [cell("class_name", 1.0, "1x", "plain", 0.9), cell("class_name", 1.0, "10x", "plain", 0.8)]
    worse = [cell("class_name", 5.0, "1x", "plain", 0.7), cell("class_name", 5.0, "10x", "plain", 0.7)]
    unpaired = [cell("definition", 5.0, "1x", "plain", 0.0)]
    found = difference(better + worse + unpaired, "guidance", 1.0, 5.0, ["digits"])
    assert found == pytest.approx([0.2, 0.1])
    assert in_points(found) == "+15.0 points (+10.0 to +20.0 over 2 pairs)"


def test_cells_without_a_pair_are_refused():
    with pytest.raises(ValueError, match="no two cells that differ only in guidance"):
        difference([cell("class_name", 1.0, "1x", "plain", 0.9)], "guidance", 1.0, 5.0, ["digits"])


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.1, 0.2), "seen in 2 of 2 pairs"),
        ((0.1, -0.9), "seen in 1 of 2 pairs"),
        ((0.0, -0.1), "seen in 0 of 2 pairs"),
        ((-0.2, -0.1), "the reverse in 2 of 2 pairs"),
    ],
)
def test_verdict_counts_pairs(values: tuple[float, ...], verdict: str):
    assert verdict_of(np.array(values)) == verdict
    assert verdict_of(np.array(values[:1]), np.array(values[1:])) == verdict


def test_one_pair_has_no_minimum_and_maximum():
    assert in_points(np.array([-0.025])) == "-2.5 points (1 pair)"


def test_strong_augmentation_has_a_finding_for_each_kind_of_sets():
    found = by_claim(grid(strong=-0.1), "Strong augmentation helps generated images more than real ones ")
    assert list(found) == [
        "on clean digits.",
        "under shifts that no prompt names.",
        "under shifts that prompts name.",
    ]
    on_clean = found["on clean digits."]
    assert on_clean.verdict == f"the reverse in 12 of 12 pairs; {UNTESTED}"
    assert on_clean.evidence.endswith("over 2 pairs) on real images.")


def test_all_gains_positive_is_seen_in_all_pairs():
    found = findings(grid(low=0.1, strong=0.1, large=0.1, background=0.1, untaught=0.1))
    assert (
        found[0].verdict
        == f"seen in 6 of 6 pairs with plain, seen in 6 of 6 pairs with strong augmentation; {UNTESTED}"
    )
    assert "Guidance 1 instead of 5: plain augmentation +9.9 points (" in found[0].evidence
    assert found[1].verdict == f"seen in 12 of 12 pairs; {UNTESTED}"
    assert found[4].claim == "More images help on clean digits."
    assert found[4].verdict == found[0].verdict
    assert "10x instead of 1x" in found[4].evidence
    assert "blurred +10" in found[7].evidence
    assert "noisy +10" in found[8].evidence


def test_all_gains_negative_is_the_contrary():
    found = findings(grid(low=-0.1, strong=-0.1, large=-0.1, background=-0.1, untaught=-0.1))
    assert [each.verdict.startswith("the reverse in ") for each in found[:2] + found[4:5] + found[7:9]] == [True] * 5


def test_no_verdict_of_one_seed_claims_proof():
    found = findings(grid(low=0.1, strong=0.1, large=0.1, background=0.1, untaught=0.1))
    assert all(each.verdict.endswith(UNTESTED) or each.verdict == "cannot be shown here" for each in found)


def test_kinds_of_shifts_have_separate_findings():
    cells = [
        dataclasses.replace(
            each, top1={**each.top1, "digits/noisy": 0.2, "digits/blurred": 0.4 + 0.2 * (each.size == "10x")}
        )
        for each in grid()
    ]
    found = by_claim(cells, "More images help ")
    assert "+20.0 points (+20.0 to +20.0 over 6 pairs)" in found["under shifts that no prompt names."].evidence
    assert "+0.0 points (+0.0 to +0.0 over 6 pairs)" in found["under shifts that prompts name."].evidence


def test_missing_kind_of_shifts_has_no_finding():
    cells = [
        dataclasses.replace(each, top1={name: top1 for name, top1 in each.top1.items() if name != "digits/blurred"})
        for each in grid()
    ]
    assert kinds_of(cells) == ["clean", "taught"]
    assert not [each for each in findings(cells) if "no prompt" in each.claim]


def test_gain_under_taught_shifts_does_not_count_for_others():
    found = by_claim(grid(background=0.4, untaught=-0.1), "Backgrounds in prompts help under shifts ")
    assert found["that no prompt names."].verdict.startswith("the reverse in 4 of 4 pairs with plain")
    assert found["that prompts name."].verdict.startswith("seen in 4 of 4 pairs with plain")


def test_each_augmentation_has_its_own_verdict():
    cells = [
        dataclasses.replace(each, top1={**each.top1, "digits": each.over("clean") - 0.2 * (each.guidance == 1.0)})
        if each.augmentation == "strong"
        else each
        for each in grid(low=0.1)
    ]
    found = findings(cells)[0]
    assert found.verdict.startswith("seen in 6 of 6 pairs with plain, the reverse in 6 of 6 pairs with strong aug")
    assert "+9.9" in found.evidence
    assert "-9.9" in found.evidence


def test_optimum_in_between_is_named():
    cells = [each for each in grid(low=0.1) if each.data == "generated"]
    middle = [
        dataclasses.replace(each, guidance=2.0, top1={**each.top1, "digits": each.over("clean") + 0.05})
        for each in cells
        if each.guidance == 1.0
    ]
    found = findings([*cells, *middle, *(each for each in grid() if each.data == "real")])[0]
    assert found.verdict.startswith("seen in 6 of 12 pairs with plain, ")
    assert found.evidence.endswith("Better than both ends in all pairs: 2.")


def test_larger_gain_on_real_images_is_the_contrary():
    cells = [each for each in grid(strong=0.1) if each.data == "generated"]
    real = [cell("", 0.0, size, way, 0.6 + 0.2 * (way == "strong")) for size in SIZES for way in AUGMENTATIONS]
    assert findings(cells + real)[1].verdict == f"the reverse in 12 of 12 pairs; {UNTESTED}"


def test_claims_beyond_this_grid_have_no_verdict():
    found: list[Finding] = findings(grid())
    assert [each.verdict for each in found[9:]] == ["cannot be shown here"] * 2
    assert "generated (class_name, guidance 1, 10x, plain) 50.2% clean" in found[10].evidence
