"""What a check has scored: counts that add up over batches and actors, and the images at the extremes. No model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from generation.recipes.plan import SamplePlan
from generation.recipes.recipe import Recipe

NUM_SHOWN = 8
"""Number of images per kind in `ScoreCounts.shown`."""

SHOWN_PIXELS = 64
"""Images shown are thinned out to at most twice this size."""

ALL_IMAGES, OFF_CLASS = "all images", "off_class"
"""The group of all images, and the guard's reason for those below `recipe.keep_above`."""

HIGHEST, LOWEST, REFUSED = "highest scores", "lowest accepted scores", "highest refused scores"


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """An image and its score."""

    score: float
    index: int
    attempt: int
    class_name: str
    image: np.ndarray
    """uint8 [h, w, 3]."""


@dataclass
class ScoreCounts:
    """Scores by class and template; all attempts count, refused ones included."""

    num_scored: Counter[str] = field(default_factory=Counter)
    """Images by group, such as `class zero`."""

    thousandths: Counter[str] = field(default_factory=Counter)
    """Total score of each group, in thousandths, the precision of scores."""

    shown: dict[str, list[ScoredImage]] = field(default_factory=dict)
    """Up to `NUM_SHOWN` images of each kind."""

    def add(self, other: "ScoreCounts") -> None:
        """Add the counts of `other`."""
        self.num_scored.update(other.num_scored)
        self.thousandths.update(other.thousandths)
        self.shown = extremes(self.shown, other.shown)

    def leave_new(self, before: "ScoreCounts") -> None:
        """Leave only images that are at the extremes among those shown `before`, and add them there."""
        before.shown = extremes(before.shown, self.shown)
        self.shown = {
            kind: [each for each in images if each in self.shown.get(kind, ())] for kind, images in before.shown.items()
        }

    def share(self, before: "ScoreCounts", factor: float) -> "ScoreCounts":
        """Return `factor` times the images since `before`, with their mean scores; the images shown are unchanged."""
        made, total = self.num_scored - before.num_scored, self.thousandths - before.thousandths
        shared = {group: share for group, number in made.items() if (share := round(factor * number))}
        thousandths = {group: round(total[group] * share / made[group]) for group, share in shared.items()}
        return ScoreCounts(Counter(shared), Counter(thousandths), self.shown)

    def means(self) -> dict[str, float]:
        """Return the mean score of each group, ascending."""
        means = {group: self.thousandths[group] / 1000 / number for group, number in self.num_scored.items()}
        return dict(sorted(means.items(), key=lambda item: item[1]))


def count_scores(
    recipe: Recipe,
    plans: Sequence[SamplePlan],
    images_nhwc: np.ndarray,
    scores: np.ndarray | None,
    reasons: Sequence[str],
) -> ScoreCounts:
    """Return the counts of one batch, empty without scores; `reasons` are the guard's."""
    counts = ScoreCounts()
    if scores is None:
        return counts
    for plan, image, score, reason in zip(plans, images_nhwc, scores.tolist(), reasons, strict=True):
        name = recipe.label_space.class_names[plan.label]
        for group in (ALL_IMAGES, f"class {name}", f"template {plan.template}"):
            counts.num_scored[group] += 1
            counts.thousandths[group] += round(score * 1000)
        stride = max(1, len(image) // SHOWN_PIXELS)
        shown = ScoredImage(score, plan.index, plan.attempt, name, image[::stride, ::stride].copy())
        for kind in (HIGHEST, LOWEST) if not reason else (REFUSED,) if reason == OFF_CLASS else ():
            counts.shown.setdefault(kind, []).append(shown)
    return counts


def extremes(ours: dict[str, list[ScoredImage]], theirs: dict[str, list[ScoredImage]]) -> dict[str, list[ScoredImage]]:
    """Return the images of both that are at the extremes, up to `NUM_SHOWN` of each kind."""
    found: dict[str, list[ScoredImage]] = {}
    for kind in (HIGHEST, LOWEST, REFUSED):
        both = [*ours.get(kind, ()), *theirs.get(kind, ())]
        if both:
            found[kind] = sorted(both, key=lambda each: each.score, reverse=kind != LOWEST)[:NUM_SHOWN]
    return found
