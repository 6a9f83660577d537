"""What a grid of small experiments says about the findings of arXiv 2212.08420. Numbers in, sentences out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

CLEAN = "digits"
"""The set without a shift."""

FORMS = ("class_name", "definition", "background")
"""Prompt forms that are compared."""

TAUGHT = ("inverted", "backgrounds", "noisy")
"""Shifts that prompts with a background name: the digits model was taught them (`generation.digits.backgrounds`)."""

WAYS = ("plain", "strong")
"""Augmentations, each of which has pairs of its own."""


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

    def over(self, is_taught: bool) -> float:
        """Return mean top-1, 0..1, over the shifts that prompts were taught, or over the others."""
        names = [name for name in self.top1 if name != CLEAN and (shift_of(name) in TAUGHT) == is_taught]
        return float(np.mean([self.top1[name] for name in names])) if names else math.nan

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
    """`shown`, `not shown`, `the contrary`, or `cannot be shown here`; for each augmentation where they differ."""

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
    """Return how many standard errors from zero a difference counts as shown: Student's t, two-sided 95%."""
    return float(stats.t.ppf(0.975, num_degrees))


def excess(gain: Difference, other: Difference) -> Difference:
    """Return by how much one gain exceeds another, judged by the smaller number of pairs."""
    error = float(np.hypot(gain.error, other.error))
    return Difference(gain.mean - other.mean, error, min(gain.num_pairs, other.num_pairs))


def verdict_of(*found: Difference) -> str:
    """Return a verdict in words: of several differences all have to be shown, or all to be the contrary."""
    if all(each.is_shown for each in found):
        return "shown"
    opposite = [Difference(-each.mean, each.error, each.num_pairs) for each in found]
    return "the contrary" if all(each.is_shown for each in opposite) else "not shown"


def findings(cells: Sequence[Cell]) -> list[Finding]:
    """Return what the grid says of each finding, whatever it is."""
    generated = [cell for cell in cells if cell.data == "generated"]
    real = [cell for cell in cells if cell.data == "real"]
    return [
        on_guidance(generated),
        on_augmentation(generated, real),
        on_size(generated),
        on_backgrounds(generated, is_taught=False),
        on_backgrounds(generated, is_taught=True),
        on_definitions(generated),
        on_real(generated, real),
    ]


def by_way(
    better: Sequence[Cell], worse: Sequence[Cell], match: Key, measure: Callable[[Cell], float]
) -> dict[str, Difference]:
    """Return a difference for each augmentation."""
    return {
        way: difference(_with(better, augmentation=way), _with(worse, augmentation=way), match, measure) for way in WAYS
    }


def verdict_apart(found: Sequence[Mapping[str, Difference]]) -> str:
    """Return one verdict where both augmentations have the same, else that of each."""
    verdicts = {way: verdict_of(*(each[way] for each in found)) for way in WAYS}
    if len(set(verdicts.values())) == 1:
        return verdicts[WAYS[0]]
    return f"{', '.join(f'{verdict} with {way}' for way, verdict in verdicts.items())} augmentation"


def told(found: Mapping[str, Difference]) -> str:
    """Return the differences of both augmentations as text."""
    return ", ".join(f"{each} ({way} augmentation)" for way, each in found.items())


def on_guidance(cells: Sequence[Cell]) -> Finding:
    """Compare the lowest scale with each higher one: shown if it is better than all.

    A scale between that is better than the lowest and the highest is named: lower is then not better throughout.
    """
    scales = sorted({cell.guidance for cell in cells})
    lowest, *higher = scales

    def instead(scale: float, other: float) -> dict[str, Difference]:
        return by_way(_with(cells, guidance=scale), _with(cells, guidance=other), _but("guidance"), _clean)

    found = {scale: instead(lowest, scale) for scale in higher}
    verdict = verdict_apart(list(found.values()))
    between = [
        scale
        for scale in scales[1:-1]
        if verdict_apart([instead(scale, end) for end in (lowest, scales[-1])]) == "shown"
    ]
    evidence = "; ".join(f"guidance {lowest:g} instead of {scale:g}: {told(each)}" for scale, each in found.items())
    optimum = f" Better than both ends: {', '.join(f'{scale:g}' for scale in between)}." if between else ""
    return Finding("Lower guidance teaches better.", verdict, f"Clean digits, {evidence}.{optimum}")


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
    clean, shifted = by_way(*pairs, _clean), by_way(*pairs, _shifted)
    return Finding(
        "More images help.",
        verdict_apart([clean]),
        f"{most} instead of {fewest}, for the same number of steps: clean digits {told(clean)}; shifted ones "
        f"{told(shifted)}.",
    )


def on_backgrounds(cells: Sequence[Cell], is_taught: bool) -> Finding:
    """Compare prompts with backgrounds with those that say the name alone, under shifts of one kind.

    The paper's claim is about shifts that nobody drew for: those that the model was taught by such prompts say little.
    """
    pairs = _with(cells, form="background"), _with(cells, form="class_name"), _but("form")
    kind = "that prompts were taught" if is_taught else "that no prompt was taught"
    claim = f"Backgrounds in prompts help under shifts {kind}."
    names = [name for name in cells[0].top1 if name != CLEAN and (shift_of(name) in TAUGHT) == is_taught]
    if not names:
        return Finding(claim, "cannot be shown here", "The grid has no such shift.")
    found = by_way(*pairs, lambda cell: cell.over(is_taught))
    each = ", ".join(f"{shift_of(name)} {difference(*pairs, _top1_of(name)).mean * 100:+.1f}" for name in names)
    return Finding(
        claim,
        verdict_apart([found]),
        f"{told(found)}; {each}. Clean digits {told(by_way(*pairs, _clean))}.",
    )


def on_definitions(cells: Sequence[Cell]) -> Finding:
    """Say what definitions do, where no name has two meanings for the model."""
    found = by_way(_with(cells, form="definition"), _with(cells, form="class_name"), _but("form"), _clean)
    return Finding(
        "Definitions help against names of several meanings.",
        "cannot be shown here",
        f"The digits model has learnt one meaning of each name. Clean digits, definition instead of name: "
        f"{told(found)}.",
    )


def on_real(generated: Sequence[Cell], real: Sequence[Cell]) -> Finding:
    """Tell both, without a verdict: the generator was taught by the very images of the real arm."""
    lowest = min(cell.guidance for cell in generated)
    most = {kind: max(cell.num_images for cell in cells) for kind, cells in (("generated", generated), ("real", real))}
    shown = [
        cell
        for cell in [*_with(generated, form="class_name", guidance=lowest), *real]
        if cell.num_images == most[cell.data]
    ]
    evidence = "; ".join(f"{cell.data} ({_named(cell)}) {100 * cell.clean:.1f}% clean" for cell in shown)
    return Finding(
        "Generated images teach nearly as well as real ones.",
        "cannot be shown here",
        f"The generator was taught by the real images that it would be compared with; there is one seed. {evidence}.",
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


def shift_of(name: str) -> str:
    """Return a set's shift, as `noisy` of `digits/noisy`."""
    return name.rsplit("/", maxsplit=1)[-1]


def _top1_of(name: str) -> Callable[[Cell], float]:
    return lambda cell: cell.top1[name]
