"""From a YAML file and `section.key=value` overrides to frozen settings. The only file that imports OmegaConf.

After `load_config` there are no dicts; each setting has its home in the `config.py` of its floor.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
"""The configs that ship."""


@dataclass(frozen=True)
class Rates(Documented):
    """How fast a run goes, by which `ray_jobs.plan --cost` predicts it; 0 is unknown.

    Every run's summary.json has its own.
    """

    generated_per_second: NotNegative = 0.0
    """Images that a generator actor makes while it has anything to do."""

    trained_per_second: NotNegative = 0.0
    """Images that a training worker learns from while it neither waits nor judges."""

    validated_per_second: NotNegative = 0.0
    """Held-out images that a training worker judges; where it is unknown, judging is taken to need no time."""

    start_seconds: NotNegative = 0.0
    """From the job's start until the first batch would be there if generating it took no time."""

    end_seconds: NotNegative = 0.0
    """From the last step to the job's end, evaluation included."""

    def __post_init__(self) -> None:
        check_ranges(self, "rates")


@dataclass(frozen=True)
class Prices(Documented):
    """What devices and storage cost, in any one currency; 0 leaves it out."""

    currency: str = "USD"
    """Name of the currency, for printing."""

    generation_device_hour: NotNegative = 0.0
    """A device that holds a generator actor, for an hour."""

    training_device_hour: NotNegative = 0.0
    """A device that holds a training worker, for an hour."""

    stored_gb: NotNegative = 0.0
    """A gigabyte of shards, for as long as they are kept."""

    def __post_init__(self) -> None:
        check_ranges(self, "prices")

    def of_devices(self, generation_hours: float, training_hours: float) -> float:
        """Return what devices cost that are held for so long, added up over them."""
        return generation_hours * self.generation_device_hour + training_hours * self.training_device_hour


@dataclass(frozen=True)
class JobConfig(Documented):
    """A named run: what `ray_jobs/configs/*.yaml` hold, for every job alike."""

    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    recipe_file: str = ""
    """A recipe that `ray_jobs.plan` wrote, in place of the settings in `recipe`."""

    generation: GenerationConfig = field(default_factory=GenerationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    rates: Rates = field(default_factory=Rates)
    prices: Prices = field(default_factory=Prices)
    output: str = "runs/run"
    """Folder for all that a run writes; it must not exist, or be empty, unless the run goes on. For `ray_jobs.generate`
    also a URL.
    """

    log_level: Literal["info", "debug"] = "info"
    """`debug` also prints what Ray, its workers and other libraries log; with `info` only Ray's log files have it."""

    resume: bool = False
    """Whether `ray_jobs.train` goes on with the run in `output`, which was interrupted."""

    checkpoint: str = ""
    """What `ray_jobs.evaluate` evaluates: a run's checkpoint, or a network that Figment did not train, as
    `evaluation.inference.external_models` names them.
    """


@dataclass(frozen=True)
class CompareConfig(JobConfig):
    """A comparison of ways to have the same images."""

    arms: tuple[str, ...] = ("stream", "generate_then_train", "tee_then_replay", "real")
    """What is compared; `ray_jobs/compare.py` says what each is."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each arm is trained once with each, in place of `training.seed`."""

    real_images: str = "digits"
    """What the arm `real` trains on: `digits`, or a place of real images as in `training.real_images`."""


@dataclass(frozen=True)
class JudgeConfig(JobConfig):
    """A look at generated images beside those of the first real set, by the classifier in `checkpoint`."""

    num_generated: AtLeastOne = 5_000
    """Generated images that are looked at: the first of the recipe, or of the shards."""

    num_neighbours: AtLeastOne = 5
    """Neighbours that density, coverage, precision and recall go by."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class MiniatureConfig(JobConfig):
    """A grid of small classifiers: each template, guidance scale and number of images, twice augmented."""

    images_per_class: AtLeastOne = 25
    """How many images `1x` is."""

    multiples: tuple[AtLeastOne, ...] = (1, 3, 10)
    """How many times as many a classifier is taught: two or more, which are compared."""

    strong_augmentation: Literal["none", "crop_flip", "affine", "multi_crop", "multi_crop_two_global"] = "multi_crop"
    """What `training.augmentation` is compared with."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(set(self.multiples)) < max(2, len(self.multiples)):
            raise ValueError(
                f"multiples are {', '.join(map(str, self.multiples))}; give two or more, each once, such as [1, 3, 10]."
            )
        if self.strong_augmentation == self.training.augmentation:
            raise ValueError(
                f"strong_augmentation is {self.strong_augmentation}, and so is training.augmentation: nothing would be "
                "compared. Give another."
            )


Config = TypeVar("Config")

RENAMED = {
    "rates.judged_per_second": "validated_per_second",
    "step.appetite_fraction": "trainer_fraction",
}
"""Settings that had another name before version 0.2.0, which is still read, and their names now."""


def renamed(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's settings under the names that they have now; print a line for each old one."""
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
    """Return an override under its setting's name of now."""
    key, equals, value = argument.partition("=")
    section, _, name = key.partition(".")
    if not equals or key not in RENAMED:
        return argument
    (name,) = renamed(section, {name: value})
    return f"{section}.{name}={value}"


def load_config(schema: type[Config], arguments: Sequence[str]) -> Config:
    """Return the settings of `CONFIG section.key=value ...`; ValueError in one line for what cannot be.

    CONFIG is a YAML file, which may name another as its `base`, or a recipe file, to which all else is default.
    """
    if not arguments or "=" in arguments[0]:
        raise ValueError("No config given. Usage: python -m ray_jobs.NAME CONFIG.yaml [section.key=value ...]")
    _check_text(arguments)
    try:
        overrides = read_overrides([_renamed_override(argument) for argument in arguments[1:]], schema)
        files = _read_files(_find_config(arguments[0]))
        sources = [_fitted(source, schema, prefix="") for source in (*files, overrides)]
        _check_one_recipe(sources)
        _let_last_selector_count(sources)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *sources))
    except YAMLError as error:
        raise ValueError(f"An override is no YAML: {' '.join(str(error).split())}.") from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{f'{key}: ' if key else ''}{str(error).splitlines()[0]}.") from error
    return cast(Config, settings)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the names that a mistyped one is nearest to, or with all if none is near."""
    near = difflib.get_close_matches(name, known, n=2)
    return f"Did you mean {' or '.join(near)}?" if near else f"Choose among {', '.join(sorted(known))}."


def shipped_configs() -> dict[str, str]:
    """Return the configs that ship, by the name that commands take, each with the first line of its comment."""
    return {
        path.relative_to(CONFIGS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        .partition("\n")[0]
        .lstrip("# ")
        for path in sorted(CONFIGS.rglob("*.yaml"))
    }


def _find_config(name: str) -> Path:
    """Return the file of a config: a path, or the name of one that ships; ValueError for neither."""
    path, shipped = local_path(name), CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    near = nearest(path.stem, shipped_configs())
    raise ValueError(f"There is no config '{name}'. {near} `figment configs` lists those that ship.")


def _check_text(arguments: Sequence[str]) -> None:
    """Raise ValueError for bytes that are no UTF-8: they could not be written into config.yaml."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{argument!r} has bytes that are no UTF-8. Rename what it names.") from error


def _let_last_selector_count(sources: Sequence[dict[str, Any]]) -> None:
    """Leave of several label selectors of a section the last alone: their keys are not to add up, as others' do."""
    for section in ("generation", "training", "evaluation"):
        given = [source[section] for source in sources if "label_selector" in source.get(section, {})]
        for earlier in given[:-1]:
            del earlier["label_selector"]


def _check_one_recipe(sources: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError where settings of a recipe come with, or after, the file that stands in their place."""
    files = [i for i, source in enumerate(sources) if source.get("recipe_file")]
    if files and any(source.get("recipe") for source in sources[files[0] :]):
        raise ValueError(
            f"Settings in recipe would change nothing: the recipe is that of '{sources[files[-1]]['recipe_file']}'. "
            "Leave them out, or plan another recipe."
        )


def _read_files(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Return the content of a config, after that of its base and its base's base."""
    if path.suffix == ".json":
        return [{"recipe_file": str(path)}]
    if path.resolve() in above:
        raise ValueError(f"'{path}' is its own base. Take its line 'base:' out.")
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
        raise ValueError(f"There is no config '{path}'. `figment configs` lists those that ship.") from error
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"'{path}' is no YAML: {' '.join(str(error).split())}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold sections such as 'recipe:', but holds a {type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def _fitted(content: Any, schema: Any, prefix: str) -> Any:
    """Return settings in the shape of the schema: nothing stands for an empty one, a single value for a list of one.

    Raises ValueError for a key that the dataclass does not have, with the nearest one that it has, and for a value of
    another shape.
    """
    name, origin = prefix.removesuffix("."), get_origin(schema)
    if dataclasses.is_dataclass(schema):
        return _fitted_section(content or {}, schema, prefix)
    if origin is tuple:
        return _fitted_list([] if content in (None, "") else content, get_args(schema)[0], name)
    if origin is dict:
        return _fitted_mapping({} if content in (None, "") else content, get_args(schema)[1], name)
    if schema is str and content is None:
        return ""
    if content is None or (content == "" and schema is not str):
        raise ValueError(f"{name} is empty. Give a value, or leave it out.")
    if isinstance(content, list | dict):
        raise ValueError(f"{name} is {content}; give a single value.")
    content = str(content)  # a tag such as !!int makes a number
    if prefix.startswith("recipe.") and "${" in content:
        raise ValueError(f"{name} is '{content}', and a recipe is published with its images. Write the value itself.")
    if content == "???":  # OmegaConf's sign that a setting is missing
        raise ValueError(f"{name} is '???'. Give a value, or leave it out.")
    if schema == int | str and content.isdecimal():
        return int(checked_number(content, int, name))
    return checked_number(content, schema, name) if schema in (int, float) else content


def _fitted_section(content: Any, schema: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        example = f"{prefix}{dataclasses.fields(schema)[0].name}"
        raise ValueError(f"{prefix.removesuffix('.')} is a section, not {content!r}. Give its settings, as {example}.")
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
        raise ValueError(f"{name} is {content}; give a list. A text that begins with {{ needs quotes.")
    return [_fitted(value, element, name) for value in (content if isinstance(content, list) else [content])]


def _fitted_mapping(content: Any, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name} is {content}; give a mapping.")
    return {str(key): _fitted(each, value, f"{name}.{key}") for key, each in content.items()}


def open_recipe(config: JobConfig) -> Recipe:
    """Return the recipe that the settings mean, or that of the recipe file they name."""
    return read_recipe(local_path(config.recipe_file)) if config.recipe_file else build_recipe(config.recipe)


def to_yaml(config: Any) -> str:
    """Return the resolved settings, in a form that `load_config` reads."""
    content = OmegaConf.structured(config)
    if getattr(config, "recipe_file", ""):
        content = OmegaConf.masked_copy(content, [name for name in content if name != "recipe"])
    return OmegaConf.to_yaml(content)
