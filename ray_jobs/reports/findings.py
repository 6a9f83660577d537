"""Compare a grid of small experiments with the findings of arXiv 2212.08420. Numbers in, sentences out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CLEAN = "digits"
"""The real set without a shift."""

FORMS = ("class_name", "definition", "background")
"""Prompt forms in the grid."""

TAUGHT = ("inverted", "backgrounds", "noisy")
"""Shifts named by prompts with a background; the digits model was trained on them (`generation.digits.backgrounds`)."""

KINDS = {
    "clean": "on clean digits",
    "untaught": "under shifts that no prompt names",
    "taught": "under shifts that prompts name",
}
"""Kinds of real sets and their descriptions; each kind has its own findings."""

AUGMENTATIONS = ("plain", "strong")
"""Augmentations; pairs are formed within each."""

UNTESTED = "one seed, not tested over seeds"
"""Part of each verdict: pairs with the same seed share images, so their number says nothing about other seeds."""


@dataclass(frozen=True)
class Cell:
    """One classifier of the grid; all are trained with the same seed."""

    data: str
    """`generated` or `real`."""

    form: str
    """Prompt form; empty for real images."""

    guidance: float
    """Guidance scale; 0 for real images."""

    size: str
    """Number of training images as a multiple: `1x`."""

    augmentation: str
    """`plain` or `strong`."""

    num_images: int
    top1: Mapping[str, float]
    """Top-1 by real set, 0..1."""

    def over(self, kind: str) -> float:
        """Return mean top-1, 0..1, over the real sets of a kind of `KINDS`; at least one is required."""
        return self.mean_top1(names_of(kind, self.top1))

    def mean_top1(self, sets: Iterable[str]) -> float:
        """Return mean top-1, 0..1, over some real sets."""
        return float(np.mean([self.top1[name] for name in sets]))


@dataclass(frozen=True)
class Finding:
    """A claim of the paper and what the grid shows about it."""

    claim: str
    verdict: str
    """Number of pairs in which it is seen, with `UNTESTED`; or `cannot be shown here`."""

    evidence: str


def kind_of(name: str) -> str:
    """Return a real set's kind, a key of `KINDS`."""
    if name == CLEAN:
        return "clean"
    return "taught" if shift_of(name) in TAUGHT else "untaught"


def names_of(kind: str, names: Iterable[str]) -> list[str]:
    """Return those of the real sets that are of a kind."""
    return [name for name in names if kind_of(name) == kind]


def kinds_of(cells: Sequence[Cell]) -> list[str]:
    """Return the kinds of real sets that a grid was evaluated on."""
    return [kind for kind in KINDS if names_of(kind, cells[0].top1)]


def difference(cells: Iterable[Cell], choice: str, better: object, worse: object, sets: Iterable[str]) -> np.ndarray:
    """Return the gain of one value of the field `choice` over another, per pair of cells that differ only in it.

    Gains are in mean top-1 over `sets`, -1..1, float64 [number of pairs]. ValueError if there is no pair.
    """
    others = [name for name in ("data", "form", "guidance", "size", "augmentation") if name != choice]
    found: dict[object, dict[object, float]] = {better: {}, worse: {}}
    for cell in cells:
        if (value := getattr(cell, choice)) in found:
            found[value][tuple(getattr(cell, name) for name in others)] = cell.mean_top1(sets)
    gains = [top1 - found[worse][alike] for alike, top1 in found[better].items() if alike in found[worse]]
    if not gains:
        raise ValueError(
            f"The grid has no two cells that differ only in {choice} ({better} and {worse}). Run a grid with both."
        )
    return np.array(gains)


def in_points(gains: np.ndarray) -> str:
    """Return the mean over pairs in percentage points as text, with minimum and maximum."""
    mean = f"{100 * gains.mean():+.1f} points"
    if len(gains) == 1:
        return f"{mean} (1 pair)"
    return f"{mean} ({100 * gains.min():+.1f} to {100 * gains.max():+.1f} over {len(gains)} pairs)"


def verdict_of(*found: np.ndarray) -> str:
    """Return in how many of all pairs a choice is better as text, or that it is worse in all."""
    gains = np.concatenate(found)
    if (gains < 0).all():
        return f"the reverse in {len(gains)} of {len(gains)} pairs"
    return f"seen in {(gains > 0).sum()} of {len(gains)} pairs"


def findings(cells: Sequence[Cell]) -> list[Finding]:
    """Return all findings, including those that the grid contradicts or cannot show."""
    generated = [cell for cell in cells if cell.data == "generated"]
    real = [cell for cell in cells if cell.data == "real"]
    kinds = kinds_of(cells)
    return [
        on_guidance(generated),
        *(on_augmentation(generated, real, kind) for kind in kinds),
        *(on_size(generated, kind) for kind in kinds),
        *(on_backgrounds(generated, kind) for kind in kinds if kind != "clean"),
        on_definitions(generated),
        on_real(generated, real),
    ]


def by_augmentation(
    cells: Sequence[Cell], choice: str, better: object, worse: object, kind: str
) -> dict[str, np.ndarray]:
    """Return the gains on one kind of real sets for each augmentation."""
    sets = names_of(kind, cells[0].top1)
    return {
        way: difference([cell for cell in cells if cell.augmentation == way], choice, better, worse, sets)
        for way in AUGMENTATIONS
    }


def verdict_by_augmentation(found: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Return the verdicts for all augmentations as text."""
    verdicts = (f"{verdict_of(*(each[way] for each in found))} with {way}" for way in AUGMENTATIONS)
    return f"{', '.join(verdicts)} augmentation; {UNTESTED}"


def differences(found: Mapping[str, np.ndarray]) -> str:
    """Return the gains for all augmentations as text."""
    return ", ".join(f"{way} augmentation {in_points(each)}" for way, each in found.items())


def on_guidance(cells: Sequence[Cell]) -> Finding:
    """Compare the lowest guidance scale with each higher one.

    The evidence names any scale in between that is better than both ends in all pairs: lower is then not always better.
    """
    scales = sorted({cell.guidance for cell in cells})
    lowest, *higher = scales

    def is_better(scale: float, other: float) -> bool:
        found = by_augmentation(cells, "guidance", scale, other, "clean")
        return all((gains > 0).all() for gains in found.values())

    found = {scale: by_augmentation(cells, "guidance", lowest, scale, "clean") for scale in higher}
    between = [scale for scale in scales[1:-1] if is_better(scale, lowest) and is_better(scale, scales[-1])]
    evidence = "; ".join(
        f"guidance {lowest:g} instead of {scale:g}: {differences(each)}" for scale, each in found.items()
    )
    optimum = f" Better than both ends in all pairs: {', '.join(f'{scale:g}' for scale in between)}." if between else ""
    return Finding(
        "Lower guidance teaches better on clean digits.",
        verdict_by_augmentation(list(found.values())),
        f"{evidence.capitalize()}.{optimum}",
    )


def on_augmentation(generated: Sequence[Cell], real: Sequence[Cell], kind: str) -> Finding:
    """Compare the gain of strong augmentation on generated images with its mean gain on real ones."""
    sets = names_of(kind, real[0].top1)
    gains, of_real = (difference(cells, "augmentation", "strong", "plain", sets) for cells in (generated, real))
    return Finding(
        f"Strong augmentation helps generated images more than real ones {KINDS[kind]}.",
        f"{verdict_of(gains - of_real.mean())}; {UNTESTED}",
        f"Strong instead of plain: {in_points(gains)} on generated, {in_points(of_real)} on real images.",
    )


def on_size(cells: Sequence[Cell], kind: str) -> Finding:
    """Compare the most images with the fewest."""
    by_number = sorted({(cell.num_images, cell.size) for cell in cells})
    (_, fewest), (_, most) = by_number[0], by_number[-1]
    found = by_augmentation(cells, "size", most, fewest, kind)
    return Finding(
        f"More images help {KINDS[kind]}.",
        verdict_by_augmentation([found]),
        f"{most} instead of {fewest}, for the same number of steps: {differences(found)}.",
    )


def on_backgrounds(cells: Sequence[Cell], kind: str) -> Finding:
    """Compare prompts with backgrounds and prompts with the name only, under shifts of one kind.

    The paper's claim is about shifts absent from the prompts; shifts the model learned from such prompts say little.
    """
    choice = "form", "background", "class_name"
    found = by_augmentation(cells, *choice, kind)
    gains = {name: difference(cells, *choice, [name]).mean() for name in names_of(kind, cells[0].top1)}
    each = ", ".join(f"{shift_of(name)} {100 * gain:+.1f}" for name, gain in gains.items())
    return Finding(
        f"Backgrounds in prompts help {KINDS[kind]}.",
        verdict_by_augmentation([found]),
        f"Background instead of name: {differences(found)}; by shift, averaged over both augmentations: {each}. On "
        f"clean digits: {differences(by_augmentation(cells, *choice, 'clean'))}.",
    )


def on_definitions(cells: Sequence[Cell]) -> Finding:
    """Report the effect of definitions without a verdict: to the model, each name has one meaning."""
    found = by_augmentation(cells, "form", "definition", "class_name", "clean")
    return Finding(
        "Definitions help with ambiguous class names.",
        "cannot be shown here",
        f"The digits model has learnt one meaning of each name. Clean digits, definition instead of name: "
        f"{differences(found)}.",
    )


def on_real(generated: Sequence[Cell], real: Sequence[Cell]) -> Finding:
    """Report both accuracies without a verdict: the generator was trained on the images of the real arm."""
    lowest = min(cell.guidance for cell in generated)
    most = {kind: max(cell.num_images for cell in cells) for kind, cells in (("generated", generated), ("real", real))}
    shown = [cell for cell in generated if (cell.form, cell.guidance) == ("class_name", lowest)] + list(real)
    shown = [cell for cell in shown if cell.num_images == most[cell.data]]
    evidence = "; ".join(f"{cell.data} ({_named(cell)}) {100 * cell.over('clean'):.1f}% clean" for cell in shown)
    return Finding(
        "Generated images teach nearly as well as real ones.",
        "cannot be shown here",
        f"The generator was trained on the real images of this comparison; there is one seed. {evidence}.",
    )


def _named(cell: Cell) -> str:
    taught = f"{cell.form}, guidance {cell.guidance:g}, " if cell.data == "generated" else ""
    return f"{taught}{cell.size}, {cell.augmentation}"


def shift_of(name: str) -> str:
    """Return the shift in a set's name: `noisy` for `digits/noisy`."""
    return name.rsplit("/", maxsplit=1)[-1]
