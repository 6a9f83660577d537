"""Load frozen settings from a YAML file and `section.key=value` overrides. The only file that imports OmegaConf.

`load_config` returns dataclasses, not dicts; each package's `config.py` defines its own settings.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from generation.ranges import AtLeastOne, Documented, NotNegative, check_ranges
from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import local_path
from generation.recipes.recipe import Recipe, build_recipe, read_recipe
from generation.shards.config import DataConfig
from ray_jobs.cli.overrides import checked_number, read_overrides, read_yaml
from training.config import TrainingConfig

CONFIGS = Path(__file__).parents[1] / "configs"
"""The configs that ship with Figment."""


@dataclass(frozen=True)
class Rates(Documented):
    """Rates from which `figment plan --cost` predicts a run's time and cost; 0 is unknown.

    Every run writes its own rates to summary.json.
    """

    generated_per_second: NotNegative = 0.0
    """Images that one generator actor generates per second of work; 0 is unknown."""

    trained_per_second: NotNegative = 0.0
    """Images that one training worker trains on per second, without waiting and validation; 0 is unknown."""

    validated_per_second: NotNegative = 0.0
    """Held-out images that one training worker validates per second; 0 is unknown, and counts as no time."""

    start_seconds: NotNegative = 0.0
    """Seconds from the job's start to the first batch, without the time to generate it; 0 is unknown."""

    end_seconds: NotNegative = 0.0
    """Seconds from the last step to the job's end, evaluation included; 0 is unknown."""

    def __post_init__(self) -> None:
        check_ranges(self, "rates")


@dataclass(frozen=True)
class Prices(Documented):
    """Prices of devices and storage, all in one currency; 0 leaves the item out."""

    currency: str = "USD"
    """Name of the currency of all prices; only printed."""

    generation_device_hour: NotNegative = 0.0
    """Price of one hour of a device with a generator actor; 0 leaves it out."""

    training_device_hour: NotNegative = 0.0
    """Price of one hour of a device with a training worker; 0 leaves it out."""

    stored_gb: NotNegative = 0.0
    """Price of storing a gigabyte of shards for as long as they are needed; 0 leaves it out."""

    def __post_init__(self) -> None:
        check_ranges(self, "prices")

    def of_devices(self, generation_hours: float, training_hours: float) -> float:
        """Return the price of all devices, given their total hours."""
        return generation_hours * self.generation_device_hour + training_hours * self.training_device_hour


@dataclass(frozen=True)
class JobConfig(Documented):
    """Settings of a run, common to all commands."""

    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    recipe_file: str = ""
    """Recipe file written by `figment plan`, used instead of the settings in `recipe`; empty uses those."""

    generation: GenerationConfig = field(default_factory=GenerationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    rates: Rates = field(default_factory=Rates)
    prices: Prices = field(default_factory=Prices)
    output: str = "runs/run"
    """Folder for all files of a run; it must be new or empty, unless the run is resumed. `figment generate` also takes
    a URL.
    """

    log_level: Literal["info", "debug"] = "info"
    """`debug` also prints messages of Ray, its workers and other libraries; `info` leaves them to Ray's log files."""

    resume: bool = False
    """Continue the interrupted run in `output` from its newest checkpoint (`figment train`)."""

    checkpoint: str = ""
    """Classifier for `figment evaluate` and `figment judge`: a run's checkpoint. `evaluate` also takes the folder of a
    run, or an external network such as `torchvision:resnet50/IMAGENET1K_V1` (docs/evaluation.md).
    """

    @cached_property
    def opened_recipe(self) -> Recipe:
        """The recipe that the settings describe, or that of `recipe_file`, built on first use."""
        return read_recipe(local_path(self.recipe_file)) if self.recipe_file else build_recipe(self.recipe)


@dataclass(frozen=True)
class CompareConfig(JobConfig):
    """Compare ways to train on the same images."""

    arms: tuple[str, ...] = ("stream", "generate_then_train", "tee_then_replay", "real")
    """Ways to train that are compared: `stream` generates while training, `generate_then_train` generates all images
    first, `tee_then_replay` stores half while training and replays them, `real` trains on real images.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that replace `training.seed`; each arm is trained once with each."""

    real_images: str = "digits"
    """Training images of the arm `real`: `digits`, or a folder as in `training.real_images`."""


@dataclass(frozen=True)
class JudgeConfig(JobConfig):
    """Compare generated images with the first real set by the classifier in `checkpoint`."""

    num_generated: AtLeastOne = 5_000
    """Number of generated images to compare: the first of the recipe, or of the shards."""

    num_neighbours: AtLeastOne = 5
    """Number of nearest neighbours in density, coverage, precision and recall."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class MiniatureConfig(JobConfig):
    """A grid of small classifiers: each template, guidance scale and number of images, with two augmentations."""

    images_per_class: AtLeastOne = 25
    """Number of training images per class at `1x`."""

    multiples: tuple[AtLeastOne, ...] = (1, 3, 10)
    """Sizes of the training sets to compare, as multiples of `images_per_class`: two or more, all different."""

    strong_augmentation: Literal["none", "crop_flip", "affine", "multi_crop", "multi_crop_two_global"] = "multi_crop"
    """Augmentation to compare with `training.augmentation`; must differ from it."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(set(self.multiples)) < max(2, len(self.multiples)):
            raise ValueError(
                f"multiples is {', '.join(map(str, self.multiples))}; use two or more different numbers, such as "
                "[1, 3, 10]."
            )
        if self.strong_augmentation == self.training.augmentation:
            raise ValueError(
                f"strong_augmentation is {self.strong_augmentation}, the same as training.augmentation. Use another "
                "one for either."
            )


Config = TypeVar("Config")

RENAMED = {
    "rates.judged_per_second": "validated_per_second",
    "step.appetite_fraction": "trainer_fraction",
}
"""Settings renamed in version 0.2.0: the old name, which is still accepted, to the new one."""


def renamed(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's settings under their current names; print a note for each old name."""
    found = {}
    for key, value in settings.items():
        old = f"{section}.{key}"
        if old in RENAMED:
            print(f"note: the setting {old} is now called {section}.{RENAMED[old]}", file=sys.stderr)
        found[RENAMED.get(old, key)] = value
    return found


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    return {name: renamed(name, value) if isinstance(value, dict) else value for name, value in content.items()}


def _renamed_override(argument: str) -> str:
    """Return an override with its setting's current name."""
    key, equals, value = argument.partition("=")
    section, _, name = key.partition(".")
    if not equals or key not in RENAMED:
        return argument
    (name,) = renamed(section, {name: value})
    return f"{section}.{name}={value}"


def load_config(schema: type[Config], arguments: Sequence[str]) -> Config:
    """Return the settings of `CONFIG section.key=value ...`; ValueError with a one-line message for invalid settings.

    CONFIG is a YAML file, which may name another as its `base`, or a recipe file, which leaves all else at defaults.
    """
    if not arguments or "=" in arguments[0]:
        raise ValueError("No config given. Usage: python -m ray_jobs.NAME CONFIG.yaml [section.key=value ...]")
    _check_text(arguments)
    with _one_line_errors():
        overrides = read_overrides([_renamed_override(argument) for argument in arguments[1:]], schema)
        return _merged([*read_config(arguments[0]), overrides], schema)


def read_config(name: str) -> list[dict[str, Any]]:
    """Return the content of a config, by its path or shipped name, preceded by its bases, the outermost first."""
    return _read_files(_find_config(name))


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return settings with `section.key=value` overrides; ValueError with a one-line message for invalid ones."""
    schema = type(config)
    with _one_line_errors():
        changes = read_overrides([_renamed_override(override) for override in overrides], schema)
        return _merged([read_yaml(to_yaml(config)), changes], schema)


def _merged(contents: Sequence[dict[str, Any]], schema: type[Config]) -> Config:
    """Return the settings of several sources, of which later ones win."""
    sources = [_fitted(content, schema, prefix="") for content in contents]
    _check_one_recipe(sources)
    _let_last_selector_count(sources)
    return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *sources)))


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn errors of YAML and OmegaConf into ValueError with one line."""
    try:
        yield
    except YAMLError as error:
        raise ValueError(f"An override is not valid YAML: {' '.join(str(error).split())}.") from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{f'{key}: ' if key else ''}{str(error).splitlines()[0]}.") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest names to a mistyped one, or lists all if none is near."""
    near = difflib.get_close_matches(name, known, n=2)
    return f"Did you mean {' or '.join(near)}?" if near else f"Choose from {', '.join(sorted(known))}."


def shipped_configs() -> dict[str, str]:
    """Return the shipped configs: the name that commands take to the first line of the file's comment."""
    return {
        path.relative_to(CONFIGS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        .partition("\n")[0]
        .lstrip("# ")
        for path in sorted(CONFIGS.rglob("*.yaml"))
    }


def _find_config(name: str) -> Path:
    """Return the file of a config, given its path or the name of a shipped one; ValueError if it does not exist."""
    path, shipped = local_path(name), CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    near = nearest(path.stem, shipped_configs())
    raise ValueError(f"There is no config '{name}'. {near} `figment configs` lists the shipped configs.")


def _check_text(arguments: Sequence[str]) -> None:
    """Raise ValueError for arguments that are not UTF-8: they cannot be written to config.yaml."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{argument!r} is not UTF-8. Rename the file or folder that it names.") from error


def _let_last_selector_count(sources: Sequence[dict[str, Any]]) -> None:
    """Let the last `label_selector` of a section win; other mappings merge by key."""
    for section in ("generation", "training", "evaluation"):
        given = [source[section] for source in sources if "label_selector" in source.get(section, {})]
        for earlier in given[:-1]:
            del earlier["label_selector"]


def _check_one_recipe(sources: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError for recipe settings with, or after, the recipe file that replaces them."""
    files = [i for i, source in enumerate(sources) if source.get("recipe_file")]
    if files and any(source.get("recipe") for source in sources[files[0] :]):
        raise ValueError(
            f"Settings in recipe have no effect, because the recipe comes from '{sources[files[-1]]['recipe_file']}'. "
            "Remove them, or plan another recipe."
        )


def _read_files(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Return the content of a config, preceded by its bases, the outermost first."""
    if path.suffix == ".json":
        return [{"recipe_file": str(path)}]
    if path.resolve() in above:
        raise ValueError(f"'{path}' is its own base. Remove its line 'base:'.")
    content = _renamed(_read_yaml(path))
    base = content.pop("base", None)
    return [
        *(_read_files(path.parent / os.path.expanduser(str(base)), (*above, path.resolve())) if base else []),
        content,
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no config '{path}'. `figment configs` lists the shipped configs.") from error
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"'{path}' is not a readable YAML file: {' '.join(str(error).split())}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' contains a {type(content).__name__}; expected sections such as 'recipe:'.")
    return {str(key): value for key, value in content.items()}


def _fitted(content: Any, schema: Any, prefix: str) -> Any:
    """Return settings in the shape of the schema; an empty value becomes an empty list, a single value a list of one.

    Raises ValueError for an unknown key, with the nearest known one, and for a value of the wrong shape.
    """
    name, origin = prefix.removesuffix("."), get_origin(schema)
    if dataclasses.is_dataclass(schema):
        return _fitted_section(content or {}, schema, prefix)
    if origin in (tuple, list):
        return _fitted_list([] if content in (None, "") else content, get_args(schema)[0], name)
    if origin is dict:
        return _fitted_mapping({} if content in (None, "") else content, get_args(schema)[1], name)
    if schema is str and content is None:
        return ""
    if content is None or (content == "" and schema is not str):
        raise ValueError(f"{name} is empty. Set a value, or leave it out.")
    if isinstance(content, list | dict):
        raise ValueError(f"{name} is {content}; use a single value.")
    content = str(content)  # a tag such as !!int makes a number
    if prefix.startswith("recipe.") and "${" in content:
        raise ValueError(f"{name} is '{content}', but a recipe must be self-contained. Write the value itself.")
    if content == "???":  # OmegaConf's sign that a setting is missing
        raise ValueError(f"{name} is '???'. Set a value, or leave it out.")
    if schema == int | str and content.isdecimal():
        return int(checked_number(content, int, name))
    return checked_number(content, schema, name) if schema in (int, float) else content


def _fitted_section(content: Any, schema: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        example = f"{prefix}{dataclasses.fields(schema)[0].name}"
        raise ValueError(f"{prefix.removesuffix('.')} is a section, not {content!r}. Set {example}, for example.")
    fields = get_type_hints(schema)  # without ranges
    for key in content:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1) or sorted(fields)
            raise ValueError(
                f"There is no setting '{prefix}{key}'. Did you mean {' or '.join(prefix + n for n in near)}?"
            )
    return {key: _fitted(value, fields[key], prefix=f"{prefix}{key}.") for key, value in content.items()}


def _fitted_list(content: Any, element: Any, name: str) -> list[Any]:
    if isinstance(content, dict):
        raise ValueError(f"{name} is {content}; use a list. Quote a text that begins with {{.")
    return [_fitted(value, element, name) for value in (content if isinstance(content, list) else [content])]


def _fitted_mapping(content: Any, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name} is {content}; use a mapping.")
    return {str(key): _fitted(each, value, f"{name}.{key}") for key, each in content.items()}


def to_yaml(config: Any) -> str:
    """Return the resolved settings as YAML that `load_config` reads."""
    content = OmegaConf.structured(config)
    if getattr(config, "recipe_file", ""):
        content = OmegaConf.masked_copy(content, [name for name in content if name != "recipe"])
    return OmegaConf.to_yaml(content)
