"""What a judge, a classifier trained on real images, makes of generated ones beside real ones.

Arrays in, numbers out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.metrics.likeness import Likeness, compare, diversity
from evaluation.metrics.representation import mean_pairwise_distance


@dataclass(frozen=True, eq=False)
class Judged:
    """Images, as the judge sees them."""

    labels: np.ndarray
    """int64 [N]: what each shows, or was asked to show."""

    features: np.ndarray
    """float [N, D]."""

    predictions: np.ndarray
    """int [N]: the judge's first guess."""

    def recognised(self, label: int | None = None) -> float:
        """Return the share of its images, or those of a class, that the judge takes for what they should show, 0..1."""
        hits = self.predictions == self.labels
        return float(np.mean(hits if label is None else hits[self.labels == label]))


def judgement(real: Judged, generated: Judged, class_names: Sequence[str], num_neighbours: int) -> dict[str, Any]:
    """Return what tables say of generated images, all and by class; ValueError where a class has too few images.

    A class's diversity, and that of its real images, is the mean distance of two features; of all, the mean over
    classes.
    """
    found = compare(real.features, real.labels, generated.features, generated.labels, num_neighbours)
    overall = _told(found.overall, generated.recognised(), real.recognised())
    overall["real_diversity"] = diversity(real.features, real.labels)
    rows = []
    for label, likeness in found.per_class.items():
        told = _told(likeness, generated.recognised(label), real.recognised(label))
        told["real_diversity"] = mean_pairwise_distance(real.features[real.labels == label])
        rows.append({"label": label, "class_name": class_names[label], **told})
    return {"num_neighbours": num_neighbours, "overall": overall, "per_class": rows}


def _told(likeness: Likeness, recognised: float, real_recognised: float) -> dict[str, Any]:
    told = asdict(likeness)
    return {**told.pop("overlap"), **told, "recognised": recognised, "real_recognised": real_recognised}
