"""Settings of an experiment: arms, grid and seeds, and the ordinary runs ("learners") that they stand for."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

from generation.config import SharingConfig
from generation.ranges import AtLeastOne, Count, Documented, NotNegative, check_ranges
from ray_jobs.cli.config import JobConfig, nearest, read_config, with_overrides

OWN_SETTINGS = ("output", "resume", "checkpoint", "training.seed")
"""Settings that an experiment decides for each learner."""


@dataclass(frozen=True)
class BudgetConfig(Documented):
    """What each learner may use, in one of three units; with 0 everywhere, `training.num_images` of its settings.

    A run is whole epochs of whole steps, so a learner uses at most its budget.
    """

    images_trained: Count = 0
    """Images that each learner trains on; each reuse of an image counts."""

    images_generated: Count = 0
    """Different generated images that each learner trains on."""

    generator_device_seconds: NotNegative = 0.0
    """Busy time of generator devices that each learner's training images cost, in seconds. Images per second are
    measured when an arm's pool has started.
    """

    def __post_init__(self) -> None:
        check_ranges(self, "budget")
        given = [name for name, amount in dataclasses.asdict(self).items() if amount]
        if len(given) > 1:
            raise ValueError(f"budget has {' and '.join(given)}; set only one of them.")

    @property
    def is_measured(self) -> bool:
        """Whether the number of images depends on a measured rate."""
        return self.generator_device_seconds > 0

    def num_images(self, config: JobConfig, images_per_device_second: float = 0.0) -> int:
        """Return `training.num_images` of a learner; its own while the rate of a device is unknown."""
        measured = self.generator_device_seconds * images_per_device_second
        num_generated = self.images_generated or (max(1, int(measured)) if measured else 0)
        if not num_generated:
            return self.images_trained or config.training.num_images
        training = config.training
        num_generated_per_step = training.global_batch_size - training.num_real_per_step
        num_steps = num_generated * (1 + config.data.replays) * training.least_uses // num_generated_per_step
        return num_steps * training.global_batch_size


@dataclass(frozen=True)
class StoppingConfig(Documented):
    """Stopping learners early by asynchronous successive halving (ASHA, arXiv 1810.05934).

    At `first_images`, and then each time `reduction` times as many images are trained on, a learner goes on only if its
    held-out accuracy is in the best `1 / reduction` of those that have got there. Only learners with the same held-out
    images are compared: of the same recipe and generation settings, or of the same shards or real images.
    """

    reduction: Count = 0
    """The fraction of learners that goes on is one in this many, from 2; 0 stops none."""

    first_images: AtLeastOne = 1
    """Images to train on before a learner may be stopped; decisions are made at the end of epochs."""

    def __post_init__(self) -> None:
        check_ranges(self, "stopping")
        if self.reduction == 1:
            raise ValueError("stopping.reduction is 1, which stops none. Use 2 or more, or 0.")


@dataclass(frozen=True)
class ExperimentConfig(JobConfig):
    """An experiment: the runs of several arms with several seeds, on one page."""

    arms: dict[str, list[str]] = field(default_factory=dict)
    """Arms by name: the settings in which each differs from the config, as on the command line, such as `{plain: [],
    strong: [training.augmentation=multi_crop]}`.
    """

    grid: dict[str, list[str]] = field(default_factory=dict)
    """Values by setting, such as `{recipe.guidance_scale: ["1.0", "2.0"]}`: each arm is run with each combination."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that replace `training.seed`; each arm is run once with each."""

    compare: tuple[list[str], ...] = ()
    """Pairs of arms to compare, such as `[[strong, plain]]`; with a grid, at each of its points. Empty compares each
    arm with the first.
    """

    budget: BudgetConfig = field(default_factory=BudgetConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    sharing: SharingConfig = field(default_factory=SharingConfig)

    def __post_init__(self) -> None:
        if not (self.arms or self.grid) or not self.seeds:
            raise ValueError("The experiment has no arms or no seeds. Set arms, grid or both, and seeds.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}; use each seed once.")


@dataclass(frozen=True)
class Learner:
    """One run of an experiment: an arm with a seed."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    """The arm's settings, as on the command line."""

    config: JobConfig

    @property
    def name(self) -> str:
        """Arm and seed in words."""
        return f"{self.arm}, seed {self.seed}"


def is_experiment(name: str) -> bool:
    """Return whether a config, by its name or path, has arms or a grid."""
    return "=" not in name and any(
        isinstance(content.get("arms"), dict) or "grid" in content for content in read_config(name)
    )


def learners(config: ExperimentConfig, rates: Mapping[str, float] | None = None) -> list[Learner]:
    """Return all runs of an experiment, arm by arm; ValueError for arms that cannot be run or compared.

    `rates` are the measured images per second of one generator device by arm, for a budget in device time.
    """
    base = JobConfig(**{entry.name: getattr(config, entry.name) for entry in dataclasses.fields(JobConfig)})
    overrides = arms(config)
    configs = {arm: _with_budget(config, arm, _settings(base, arm, overrides[arm]), rates or {}) for arm in overrides}
    for (one, ours), (other, theirs) in combinations(configs.items(), 2):
        if dataclasses.replace(ours, output=theirs.output) == theirs:
            raise ValueError(f"The arms '{one}' and '{other}' have the same settings. Remove one of them.")
        if ours.output == theirs.output:
            raise ValueError(f"The names of the arms '{one}' and '{other}' make the same folder. Rename one of them.")
    found = [
        Learner(arm, seed, overrides[arm], _with_seed(settings, seed))
        for arm, settings in configs.items()
        for seed in config.seeds
    ]
    stored = [one.config.data.tee for one in found if one.config.data.tee]
    if len(set(stored)) < len(stored):
        raise ValueError(f"data.tee is '{stored[0]}' in several runs, which would write the same shards. Leave it out.")
    comparisons(config)
    return found


def group_of(config: JobConfig) -> str:
    """Return what runs have in common that share one pool: recipe and generation settings; empty if none is needed."""
    is_streamed = config.data.source == "stream"
    soft_labels = config.training.soft_labels > 0  # else the pool sends none
    return f"{config.recipe_file} {config.recipe} {config.generation} {soft_labels}" if is_streamed else ""


def arms(config: ExperimentConfig) -> dict[str, tuple[str, ...]]:
    """Return the overrides of every arm by name: each arm at each point of the grid."""
    points = [dict(zip(config.grid, values, strict=True)) for values in product(*config.grid.values())]
    if not points:
        raise ValueError("grid has a setting without values. List one or more.")
    return {
        name_at(arm, point): (*overrides, *(f"{setting}={value}" for setting, value in point.items()))
        for arm, overrides in (config.arms or {"": ()}).items()
        for point in points
    }


def name_at(arm: str, point: Mapping[str, str]) -> str:
    """Return the name of an arm at a point of the grid, such as `strong, guidance_scale=1.0`."""
    values = [f"{setting.rpartition('.')[2]}={value}" for setting, value in point.items()]
    return ", ".join([arm, *values] if arm else values)


def comparisons(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Return the pairs of arms to compare; ValueError for unknown ones."""
    names = list(arms(config))
    if not config.compare:
        return [(name, names[0]) for name in names[1:]]
    return [pair for wanted in config.compare for pair in _pairs(wanted, names, config)]


def _pairs(wanted: Sequence[str], names: Sequence[str], config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """Yield a pair of full names, or that of two arms at each point of the grid."""
    if len(wanted) != 2:
        raise ValueError(f"compare has {list(wanted)}; list pairs of arms, such as [[strong, plain]].")
    known = {*names, *config.arms}
    for name in wanted:
        if name not in known:
            raise ValueError(f"compare has '{name}', which is no arm. {nearest(name, known)}")
    one, other = wanted
    points = [name.removeprefix(one) for name in names if name == one or name.startswith(f"{one}, ")]
    pairs = [(one + point, other + point) for point in points if other + point in names]
    yield from [(one, other)] if one in names and other in names else pairs


def _settings(base: JobConfig, arm: str, overrides: Sequence[str]) -> JobConfig:
    """Return the settings of an arm, with its folder as output."""
    for override in overrides:
        if (key := override.partition("=")[0]) in OWN_SETTINGS:
            raise ValueError(f"arm '{arm}': an experiment sets {key} itself. Remove it from the arm.")
    folder = re.sub(r"[^\w.=+-]+", "-", arm).strip("-.")
    try:
        return with_overrides(base, (*overrides, f"output={base.output}/{folder}", "resume=false"))
    except ValueError as error:
        raise ValueError(f"arm '{arm}': {error}") from error


def _with_seed(arm: JobConfig, seed: int) -> JobConfig:
    """Return the settings of an arm's run."""
    training = dataclasses.replace(arm.training, seed=seed)
    return dataclasses.replace(arm, training=training, output=f"{arm.output}/seed-{seed}")


def _with_budget(config: ExperimentConfig, arm: str, settings: JobConfig, rates: Mapping[str, float]) -> JobConfig:
    """Return an arm's settings with the number of images that the budget allows."""
    num_images, training = config.budget.num_images(settings, rates.get(arm, 0.0)), settings.training
    fewest = training.num_epochs * training.global_batch_size
    if num_images < fewest and num_images != training.num_images:
        raise ValueError(
            f"budget allows the arm '{arm}' {num_images:,} images to train on, but {training.num_epochs} epochs of at "
            f"least one batch of {training.global_batch_size} need {fewest:,}. Raise it, or lower training.num_epochs."
        )
    return dataclasses.replace(settings, training=dataclasses.replace(training, num_images=num_images))
