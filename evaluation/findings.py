"""What a grid of small experiments says about the findings of arXiv 2212.08420. Numbers in, sentences out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

CLEAN = "digits"
"""The set without a shift."""

FORMS = ("class_name", "definition", "background")
"""Prompt forms that are compared."""

T_QUANTILES = tuple(
    float(text)
    for text in "12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228 2.201 2.179 2.160 2.145 2.131 2.120 "
    "2.110 2.101 2.093 2.086 2.080 2.074 2.069 2.064 2.060 2.056 2.052 2.048 2.045 2.042".split()
)
"""Student's t, two-sided 95%, for 1 to 30 degrees of freedom; for more, where it falls to 1.960, the last serves."""


@dataclass(frozen=True)
class Cell:
    """One classifier of the grid."""

    data: str
    """`generated` or `real`."""

    form: str
    """Prompt form; empty for real images."""

    guidance: float
    """Guidance scale; 0 for real images."""

    size: str
    """How many images it was taught, as a multiple: `1x`."""

    augmentation: str
    """`plain` or `strong`."""

    num_images: int
    top1: Mapping[str, float]
    """By real set, 0..1."""

    @property
    def shifted(self) -> float:
        """Mean top-1 over the shifted sets, 0..1."""
        return float(np.mean([top1 for name, top1 in self.top1.items() if name != CLEAN]))

    @property
    def clean(self) -> float:
        """Top-1 on the set without a shift, 0..1."""
        return self.top1[CLEAN]


@dataclass(frozen=True)
class Difference:
    """By how much one choice is better than another, all else equal."""

    mean: float
    """In shares, -1..1."""

    error: float
    """Its standard error over the pairs; 0 for one pair, which says nothing of it."""

    num_pairs: int

    @property
    def is_shown(self) -> bool:
        """Whether it is above zero by more than the 95% interval of so few pairs allows."""
        return self.num_pairs > 1 and self.mean > quantile(self.num_pairs - 1) * self.error

    def __str__(self) -> str:
        """Return it in points."""
        spread = f" ± {100 * self.error:.1f}" if self.num_pairs > 1 else ""
        pairs = f"{self.num_pairs} pairs" if self.num_pairs > 1 else "1 pair"
        return f"{100 * self.mean:+.1f}{spread} points over {pairs}"


@dataclass(frozen=True)
class Finding:
    """Something that the paper found, and what the grid has to say of it."""

    claim: str
    verdict: str
    """`shown`, `not shown`, `the contrary`, or `cannot be shown here`."""

    evidence: str


Key = Callable[[Cell], object]


def difference(
    better: Sequence[Cell], worse: Sequence[Cell], match: Key, measure: Callable[[Cell], float]
) -> Difference:
    """Return the mean difference of cells that match; ValueError where none do."""
    others = {match(cell): measure(cell) for cell in worse}
    values = np.array([measure(cell) - others[match(cell)] for cell in better if match(cell) in others])
    if not len(values):
        raise ValueError("No two experiments differ in this alone. Run a grid that has both.")
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return Difference(float(values.mean()), error, len(values))


def quantile(num_degrees: int) -> float:
    """Return how many standard errors from zero a difference counts as shown, for 1 degree of freedom or more."""
    return T_QUANTILES[min(num_degrees, len(T_QUANTILES)) - 1]


def excess(gain: Difference, other: Difference) -> Difference:
    """Return by how much one gain exceeds another, judged by the smaller number of pairs."""
    error = float(np.hypot(gain.error, other.error))
    return Difference(gain.mean - other.mean, error, min(gain.num_pairs, other.num_pairs))


def verdict_of(found: Difference) -> str:
    """Return a verdict in words."""
    if found.is_shown:
        return "shown"
    opposite = Difference(-found.mean, found.error, found.num_pairs)
    return "the contrary" if opposite.is_shown else "not shown"


def findings(cells: Sequence[Cell]) -> list[Finding]:
    """Return what the grid says of each finding, whatever it is."""
    generated = [cell for cell in cells if cell.data == "generated"]
    real = [cell for cell in cells if cell.data == "real"]
    return [
        on_guidance(generated),
        on_augmentation(generated, real),
        on_size(generated),
        on_backgrounds(generated),
        on_definitions(generated),
        on_real(generated, real),
    ]


def on_guidance(cells: Sequence[Cell]) -> Finding:
    """Compare the lowest scale with each higher one."""
    lowest, *higher = sorted({cell.guidance for cell in cells})
    found = [
        (scale, difference(_with(cells, guidance=lowest), _with(cells, guidance=scale), _but("guidance"), _clean))
        for scale in higher
    ]
    evidence = "; ".join(f"guidance {lowest:g} instead of {scale:g}: {each}" for scale, each in found)
    return Finding("Lower guidance teaches better.", verdict_of(found[-1][1]), f"Clean digits, {evidence}.")


def on_augmentation(generated: Sequence[Cell], real: Sequence[Cell]) -> Finding:
    """Compare what strong augmentation adds on generated images with what it adds on real ones."""
    gains = [
        difference(
            _with(cells, augmentation="strong"), _with(cells, augmentation="plain"), _but("augmentation"), measure
        )
        for cells, measure in product((generated, real), (_clean, _shifted))
    ]
    on_clean, on_shifts = excess(gains[0], gains[2]), excess(gains[1], gains[3])
    return Finding(
        "Strong augmentation helps generated images more than real ones.",
        verdict_of(on_clean),
        f"Clean digits: {gains[0]} on generated, {gains[2]} on real images. Shifted digits: {gains[1]} on generated, "
        f"{gains[3]} on real images; the difference there: {verdict_of(on_shifts)}. The fewer pairs, "
        f"{on_clean.num_pairs}, decide how large a difference must be.",
    )


def on_size(cells: Sequence[Cell]) -> Finding:
    """Compare the most images with the fewest."""
    by_number = sorted({(cell.num_images, cell.size) for cell in cells})
    (_, fewest), (_, most) = by_number[0], by_number[-1]
    pairs = _with(cells, size=most), _with(cells, size=fewest), _but("size", "num_images")
    clean, shifted = difference(*pairs, _clean), difference(*pairs, _shifted)
    return Finding(
        "More images help.",
        verdict_of(clean),
        f"{most} instead of {fewest}, for the same number of steps: clean digits {clean}, shifted ones {shifted}.",
    )


def on_backgrounds(cells: Sequence[Cell]) -> Finding:
    """Compare prompts with backgrounds with those that say the name alone."""
    pairs = _with(cells, form="background"), _with(cells, form="class_name"), _but("form")
    clean, shifted = difference(*pairs, _clean), difference(*pairs, _shifted)
    names = [name for name in cells[0].top1 if name != CLEAN]
    each = ", ".join(f"{name.split('/')[-1]} {difference(*pairs, _top1_of(name)).mean * 100:+.1f}" for name in names)
    return Finding(
        "Backgrounds in prompts help under shift.",
        verdict_of(shifted),
        f"Shifted digits {shifted} ({each}); clean ones {clean}.",
    )


def on_definitions(cells: Sequence[Cell]) -> Finding:
    """Say what definitions do, where no name has two meanings for the model."""
    found = difference(_with(cells, form="definition"), _with(cells, form="class_name"), _but("form"), _clean)
    return Finding(
        "Definitions help against names of several meanings.",
        "cannot be shown here",
        f"The digits model has learnt one meaning of each name. Clean digits, definition instead of name: {found}.",
    )


def on_real(generated: Sequence[Cell], real: Sequence[Cell]) -> Finding:
    """Compare the best on generated images with the best on real ones."""
    best = {data: max(cells, key=_clean) for data, cells in (("generated", generated), ("real", real))}
    told = [
        f"{data} {100 * cell.clean:.1f}% clean, {100 * cell.shifted:.1f}% shifted ({_named(cell)})"
        for data, cell in best.items()
    ]
    return Finding(
        "Generated images teach nearly as well as real ones.",
        "shown" if best["generated"].clean > best["real"].clean - 0.02 else "not shown",
        f"The best of each on clean digits: {'; '.join(told)}. Within two points counts as nearly; the best of more "
        "classifiers are those on generated images.",
    )


def _named(cell: Cell) -> str:
    taught = f"{cell.form}, guidance {cell.guidance:g}, " if cell.data == "generated" else ""
    return f"{taught}{cell.size}, {cell.augmentation}"


def _with(cells: Sequence[Cell], **wanted: object) -> list[Cell]:
    return [cell for cell in cells if all(getattr(cell, name) == value for name, value in wanted.items())]


def _but(*names: str) -> Key:
    """Return what is equal for cells that differ in these alone."""
    kept = [name for name in ("data", "form", "guidance", "size", "augmentation") if name not in names]
    return lambda cell: tuple(getattr(cell, name) for name in kept)


def _clean(cell: Cell) -> float:
    return cell.clean


def _shifted(cell: Cell) -> float:
    return cell.shifted


def _top1_of(name: str) -> Callable[[Cell], float]:
    return lambda cell: cell.top1[name]
