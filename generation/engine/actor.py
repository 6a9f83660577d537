"""One generator on one device, from indices to finished samples.

A plain class without Ray; generation/pool/replica.py makes it an actor.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np

from generation.config import GenerationConfig
from generation.engine.generator import GeneratedImages, GenerationFailedError, ImageGenerator
from generation.engine.scores import OFF_CLASS, ScoreCounts, count_scores
from generation.recipes.model_files import check_on_this_node
from generation.recipes.plan import SamplePlan, plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL, SCORE_DECIMALS, SampleBatch
from generation.work_clock import WorkClock

MAX_BLACK_LEVEL = 2
"""An image whose brightest value (0..255) is at most this is black."""

MIN_CONTRAST = 4
"""An image whose values (0..255) differ by less than this from darkest to brightest is flat."""

MAX_LEFT_OUT = 20
"""End the run when an actor left out this many samples of a class and made no accepted image of it."""


REMEDIES = {"flagged": ", set recipe.safety_checker=false", OFF_CLASS: ", lower recipe.keep_above"}
"""Remedies for some of the guard's reasons."""


class Scorer(Protocol):
    """The model in `recipe.check`, on the generator's device."""

    gives_soft_labels: bool
    """Whether samples carry the probabilities of all classes."""

    def probabilities(self, images_nhwc: np.ndarray) -> np.ndarray:
        """Return the probability of each of the recipe's classes, float32 [N, num_classes], for uint8 [N, H, W, 3].

        Two threads may call it.
        """
        ...


ScorerBuilder = Callable[[Recipe, GenerationConfig], Scorer]
"""Loads a recipe's scorer. Jobs hand it in, pickled by name, since classifiers are above this layer."""


class ImagesRefusedError(GenerationFailedError):
    """The guard refused every attempt at a sample."""


@dataclass
class WorkCounts:
    """The work done by one actor, or by all."""

    num_images_made: int = 0
    num_refused: Counter[str] = field(default_factory=Counter)
    """Images refused by the guard, by reason."""

    working_seconds: float = 0.0
    """Busy time, added up over actors."""

    num_left_out: Counter[str] = field(default_factory=Counter)
    """Samples left out, by class name."""

    scores: ScoreCounts = field(default_factory=ScoreCounts)
    """Of the recipe's check."""

    @property
    def num_accepted(self) -> int:
        """Images that the guard did not refuse."""
        return self.num_images_made - self.num_refused.total()

    def add(self, other: "WorkCounts") -> None:
        """Add the counts of `other`."""
        self.num_images_made += other.num_images_made
        self.num_refused.update(other.num_refused)
        self.num_left_out.update(other.num_left_out)
        self.working_seconds += other.working_seconds
        self.scores.add(other.scores)


class GeneratorActor:
    """Loads its model once, then plans, generates and checks samples; two threads may share it."""

    def __init__(self, recipe: Recipe, config: GenerationConfig, build_scorer: ScorerBuilder | None = None) -> None:
        """Load the models, the scorer first, as the batch size is measured beside it; ValueError if that fails."""
        self.recipe = recipe
        self.max_attempts = recipe.leave_out_after or config.max_attempts
        self.scorer = open_scorer(recipe, config, build_scorer) if recipe.check else None
        self.generator = build_generator(recipe, config)
        self._counts = WorkCounts()
        self._num_made_of, self._num_refused_of, self._num_left_out_of = Counter[int](), Counter[int](), Counter[int]()
        """By label."""

        self._reported = ScoreCounts()
        """The check's extreme images so far, each of which is reported once."""

        self._counts_lock = threading.Lock()
        self._clock = WorkClock()

    @property
    def batch_size(self) -> int:
        """Number of samples per request."""
        return self.generator.batch_size

    def take_counts(self) -> WorkCounts:
        """Return the work done since the last call, and reset the counts."""
        with self._counts_lock:
            taken, self._counts = self._counts, WorkCounts()
        taken.working_seconds = self._clock.take()
        return taken

    def generate(self, indices: Sequence[int]) -> SampleBatch:
        """Return the samples of these indices, in their order."""
        with self._clock:
            plans = [plan_sample(self.recipe, int(index)) for index in indices]
            made = self._make_accepted(plans)
        labels = np.array([plan.label for plan in plans], dtype=np.int64)
        labels[made["attempt"] >= self.max_attempts] = NO_LABEL
        index = np.array([plan.index for plan in plans], dtype=np.int64)
        return cast(SampleBatch, {"index": index, "label": labels, **made})

    def _make_accepted(self, plans: Sequence[SamplePlan]) -> dict[str, np.ndarray]:
        """Return the columns `image`, `attempt` and those of `_scores`.

        The next attempt replaces an image that the guard refuses. A sample that is left out has a black image and the
        attempt number `max_attempts`, which was never made.
        """
        generated = self.generator.generate(plans)
        made = {"image": generated.images_nhwc, "attempt": np.array([plan.attempt for plan in plans], dtype=np.int8)}
        made |= self._scores(generated.images_nhwc, plans)
        reasons = refusals(generated, made.get("score"), self.recipe.keep_above)
        scores = count_scores(self.recipe, plans, made["image"], made.get("score"), reasons)
        with self._counts_lock:
            scores.leave_new(self._reported)
            self._counts.add(WorkCounts(len(plans), Counter(reason for reason in reasons if reason), scores=scores))
            self._num_made_of.update(plan.label for plan in plans)
            self._num_refused_of.update(plan.label for plan, reason in zip(plans, reasons, strict=True) if reason)
        refused = [i for i, reason in enumerate(reasons) if reason]
        if refused and plans[0].attempt + 1 >= self.max_attempts:
            self._give_up([plans[i] for i in refused], reasons[refused[0]])
            for name, column in made.items():
                column[refused] = self.max_attempts if name == "attempt" else 0
        elif refused:
            again = [plan_sample(self.recipe, plans[i].index, plans[i].attempt + 1) for i in refused]
            for name, column in self._make_accepted(again).items():
                made[name][refused] = column
        return made

    def _scores(self, images_nhwc: np.ndarray, plans: Sequence[SamplePlan]) -> dict[str, np.ndarray]:
        """Return the columns `score` and, if requested, `soft_label`; none without a check. NaN counts as 0."""
        if self.scorer is None:
            return {}
        probabilities = np.nan_to_num(self.scorer.probabilities(images_nhwc))
        scores = probabilities[np.arange(len(plans)), [plan.label for plan in plans]]
        made = {"score": scores.round(SCORE_DECIMALS).astype(np.float32)}
        if self.scorer.gives_soft_labels:
            sums = probabilities.sum(axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
            made["soft_label"] = (probabilities / sums).astype(np.float16)
        return made

    def _give_up(self, plans: Sequence[SamplePlan], reason: str) -> None:
        """Count samples as left out; ImagesRefusedError if the recipe allows none, or a class has no accepted image."""
        plan = plans[0]
        if self.recipe.leave_out_after:
            names = self.recipe.label_space.class_names
            with self._counts_lock:
                self._counts.num_left_out.update(names[each.label] for each in plans)
                self._num_left_out_of.update(each.label for each in plans)
            many = [each for each in plans if self._num_left_out_of[each.label] >= MAX_LEFT_OUT]
            hopeless = [each for each in many if self._num_made_of[each.label] == self._num_refused_of[each.label]]
            if not hopeless:
                return
            plan = hopeless[0]
        num_made, num_refused = self._num_made_of[plan.label], self._num_refused_of[plan.label]
        class_name = self.recipe.label_space.classes[plan.label].class_name
        others = "" if self.recipe.leave_out_after else ", raise generation.max_attempts, or set recipe.leave_out_after"
        raise ImagesRefusedError(
            f"All {self.max_attempts} attempts at sample {plan.index} were refused, the last as {reason}. The prompt "
            f"is {plan.prompt!r}. This actor generated {num_made} images of class '{class_name}'; {num_refused} were "
            f"refused. Change recipe.templates or recipe.precision{REMEDIES.get(reason, '')}{others}."
        )


def refusals(generated: GeneratedImages, scores: np.ndarray | None = None, keep_above: float = 0.0) -> list[str]:
    """Return for each image why it must not reach training, or an empty string if it may.

    diffusers replaces images that its safety checker flags by black images. A model in half precision may overflow to
    black or NaN. A classifier would learn these errors.
    """
    is_flat = generated.brightest.astype(int) - generated.darkest < MIN_CONTRAST
    is_black = generated.brightest <= MAX_BLACK_LEVEL
    reasons = {"non_finite": ~generated.finite, "flagged": generated.flagged, "black": is_black, "flat": is_flat}
    if scores is not None:
        reasons[OFF_CLASS] = scores < keep_above
    return np.select(list(reasons.values()), list(reasons), default="").tolist()


def open_scorer(recipe: Recipe, config: GenerationConfig, build_scorer: ScorerBuilder | None) -> Scorer:
    """Return the scorer in `recipe.check`; ValueError if this node has other files, or the job gives no builder."""
    for part in recipe.check_parts:
        check_on_this_node(*part)
    if build_scorer is None:
        raise ValueError(f"recipe.check is '{recipe.check}', but this job cannot score images. Remove the setting.")
    return build_scorer(recipe, config)


def build_generator(recipe: Recipe, config: GenerationConfig) -> ImageGenerator:
    """Return the recipe's generator with its model loaded; the heavy imports happen here."""
    if recipe.generator == "painted":
        from generation.engine.painted_generator import PaintedGenerator

        return PaintedGenerator(
            recipe.image_size,
            recipe.label_space.num_classes,
            config.batch_size,
            config.painted_batch_seconds,
            config.painted_start_seconds,
        )
    for part in recipe.parts:
        check_on_this_node(*part)
    import torch

    from generation.engine.diffusers_generator import DiffusersGenerator

    torch.set_num_threads(config.threads_per_actor)
    return DiffusersGenerator(recipe, config)
