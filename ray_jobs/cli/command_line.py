"""The command line: `figment COMMAND ...`, the same as `python -m ray_jobs.COMMAND ...`.

Parses and checks arguments and settings without importing torch and Ray, which takes seconds; then imports
`ray_jobs.COMMAND` and runs it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import click

from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import (
    CompareConfig,
    JobConfig,
    JudgeConfig,
    MiniatureConfig,
    load_config,
    nearest,
    shipped_configs,
    to_yaml,
)
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.experiment_config import ExperimentConfig, is_experiment, learners
from ray_jobs.cli.reference import find_settings, print_settings
from ray_jobs.cli.run_folder import check_output, resolve
from ray_jobs.cli.scale_config import ScaleConfig

POOL = ("generation.max_actors", "generation.gpus_per_actor", "generation.batch_size")
IMAGES = (
    "recipe.label_space",
    "recipe.model",
    "recipe.templates",
    "recipe.guidance_scale",
    "recipe.num_inference_steps",
)
TRAINING = ("training.architecture", "training.num_images", "training.reuse", "training.num_workers")


def check_run_folder(config: JobConfig) -> None:
    """Raise ValueError if `output` cannot be the folder of a new run; a resumed run's is checked by its command."""
    if not config.resume:
        check_output(resolve(config.output), to_yaml(config))


def check_arms(config: JobConfig) -> None:
    """Raise ValueError for arms that cannot be run or compared."""
    learners(cast(ExperimentConfig, config))


Checks = tuple[Callable[[JobConfig], object], ...]
RECIPE_CHECKS: Checks = (attrgetter("opened_recipe"),)
RUN_CHECKS: Checks = (attrgetter("opened_recipe"), check_run_folder)


class NewFolder(click.ParamType):
    """A folder that does not exist, or is empty."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the absolute path; ValueError if it cannot be a new folder."""
        folder = resolve(str(value))
        check_output(folder)
        return folder


@dataclass(frozen=True)
class Work:
    """A command with checked arguments and settings, ready to run."""

    name: str
    parameters: dict[str, Any]
    needs_ray: bool

    def __call__(self) -> None:
        """Import the command's module and run its `main`."""
        if self.needs_ray:
            announce(f"{self.name}: settings read; importing torch and Ray")
        import_module(f"ray_jobs.{self.name}").main(**self.parameters)


class Commands(click.Group):
    """A group that suggests the nearest command for a mistyped one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command named by the first argument; UsageError if there is none."""
        if not args[0].startswith("-") and args[0] not in self.commands:
            raise click.UsageError(f"There is no command '{args[0]}'. {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class Job(click.Command):
    """A command that takes `CONFIG [section.key=value ...]` and passes the settings to its function as `config`.

    `ctx.obj` has the raw arguments.
    """

    def __init__(
        self, *args: Any, schema: type[JobConfig], often_changed: tuple[str, ...], checks: Checks, **kwargs: Any
    ) -> None:
        """`--help` lists the settings in `often_changed`; `checks` raise ValueError for settings that cannot work."""
        super().__init__(*args, **kwargs)
        self.schema, self.often_changed, self.checks = schema, often_changed, checks
        config = click.Argument(["config"], metavar="CONFIG")
        overrides = click.Argument(["overrides"], nargs=-1, metavar="[section.key=value ...]")
        self.params = [config, overrides, *self.params]

    def invoke(self, ctx: click.Context) -> Any:
        """Load the settings and call the function with them; ValueError for invalid settings."""
        ctx.obj = [ctx.params["config"], *ctx.params.pop("overrides")]
        ctx.params["config"] = load_config(self.schema_of(ctx.obj[0]), ctx.obj)
        CONSOLE.shows_libraries = ctx.params["config"].log_level == "debug"
        for check in self.checks:
            check(ctx.params["config"])
        return super().invoke(ctx)

    def schema_of(self, config: str) -> type[JobConfig]:
        """Return the settings of a config, given its name or path."""
        return self.schema

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the most changed settings, and where to find the others."""
        with formatter.section("CONFIG"):
            formatter.write_text(
                "A YAML file, a recipe file written by `figment plan`, or the name of a config that ships with "
                "Figment, such as digits; `figment configs` lists those."
            )
        with formatter.section("Settings that people change most"):
            formatter.write_dl(
                [(each.name_and_default, each.summary) for each in find_settings(self.schema, self.often_changed)]
            )
        with formatter.section("All settings"):
            formatter.write_text(
                "`figment settings` lists all of them, `figment settings training` one section; docs/settings.md has "
                "the same list."
            )


class PlanJob(Job):
    """A command that also takes the config of an experiment."""

    def schema_of(self, config: str) -> type[JobConfig]:
        """Return the settings of an experiment or of a run."""
        return ExperimentConfig if is_experiment(config) else self.schema


@click.group(
    "figment",
    cls=Commands,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"max_content_width": 120},
)
@click.version_option(package_name="figment-stream")
@click.pass_context
def figment(ctx: click.Context) -> None:
    """Train image classifiers on generated images that never touch a disk."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def job(
    often_changed: tuple[str, ...],
    schema: type[JobConfig] = JobConfig,
    checks: Checks = RUN_CHECKS,
    kind: type[Job] = Job,
) -> Callable[[Callable[..., Work]], click.Command]:
    """Return a decorator that makes a function a command with a config."""
    return figment.command(cls=kind, schema=schema, often_changed=often_changed, checks=checks)


def recipe_job(*often_changed: str) -> Callable[[Callable[..., Work]], click.Command]:
    """Return the decorator of a command that needs a recipe, and has its own check of the place it writes to."""
    return job(often_changed, checks=RECIPE_CHECKS)


def work(name: str, needs_ray: bool = True, **parameters: Any) -> Work:
    """Return a command's work without running it."""
    return Work(name, parameters, needs_ray)


@job((*IMAGES[:3], *TRAINING, *POOL[:2], "output"))
def train(config: JobConfig) -> Work:
    """Train a classifier on generated images, then evaluate it.

    The images are generated while it trains; the evaluation uses real images. Writes the folder `output`: checkpoint,
    metrics, report.html, summary.json. resume=true continues an interrupted run in that folder.
    """
    return work("train", config=config)


@recipe_job(*IMAGES, "training.num_images", "data.shard_size", *POOL[:2], "output")
@click.option("--verify", is_flag=True, help="Check every stored sample first, and generate damaged shards again.")
def generate(config: JobConfig, verify: bool) -> Work:
    """Generate a data set as WebDataset shards.

    Writes to `output`, a folder or a URL, the samples that training with the same config would stream, and its held-out
    samples. Run the command again to generate missing shards: after a kill, or after raising training.num_images.
    """
    return work("generate", config=config, verify=verify)


@job(
    (
        "checkpoint",
        "evaluation.sets",
        "evaluation.paths",
        "evaluation.transfer",
        "evaluation.representation",
        "evaluation.batch_size",
        "evaluation.num_actors",
        "evaluation.gpus_per_actor",
        "evaluation.outputs",
        "recipe.label_space",
    ),
    checks=(),
)
def evaluate(config: JobConfig) -> Work:
    """Evaluate the classifier in checkpoint=FILE on real images.

    Writes a new folder beside the checkpoint: evaluation.json, evaluation.csv, report.html. Predictions are stored, so
    an interrupted evaluation continues where it stopped. If checkpoint is a run's folder, each checkpoint stored by
    evaluation.every_images is evaluated, also while the run is still training.
    """
    return work("evaluate", config=config)


@job(
    (
        "checkpoint",
        "num_generated",
        "num_neighbours",
        "data.shards",
        "evaluation.sets",
        "evaluation.batch_size",
        *IMAGES[:2],
        *POOL[:2],
    ),
    JudgeConfig,
)
def judge(config: JudgeConfig) -> Work:
    """Compare generated with real images by a classifier.

    The classifier is checkpoint=FILE, trained on real images; the generated images are the first of the recipe, or the
    first of data.shards. Writes judgement.json and report.html.
    """
    return work("judge", config=config)


@job(("arms", "seeds", "real_images", *TRAINING[:3], *IMAGES[:2], *POOL[:1], "output"), CompareConfig)
def compare(config: CompareConfig) -> Work:
    """Compare training on streamed, stored and real images.

    Trains each arm (`arms`) once per seed (`seeds`). Writes results.json and report.html.
    """
    return work("compare", config=config)


@job(
    (
        *("arms", "grid", "seeds", "compare"),
        *("budget.images_trained", "budget.images_generated", "budget.generator_device_seconds"),
        *("stopping.reduction", "stopping.first_images", "output"),
    ),
    ExperimentConfig,
    (attrgetter("opened_recipe"), check_arms, check_run_folder),
)
def experiment(config: ExperimentConfig) -> Work:
    """Train several arms with several seeds, and compare them.

    Runs each arm (`arms`, `grid`) once per seed (`seeds`), as `train` does, in its own folder within `output`. Runs of
    the same recipe share their generated images. Writes results.json; resume=true continues where it was. Exit status 1
    if a run failed.
    """
    return work("experiment", config=config)


@job(
    (
        "images_per_class",
        "multiples",
        "strong_augmentation",
        "recipe.templates",
        "recipe.guidance_scale",
        "training.architecture",
        *POOL,
        "output",
    ),
    MiniatureConfig,
)
def miniature(config: MiniatureConfig) -> Work:
    """Repeat the paper's experiments on a small scale.

    Trains a classifier, which takes seconds, for each prompt form, guidance scale, number of images and augmentation,
    and some on real images. Writes README.md, results.json and plots.
    """
    return work("miniature", config=config)


@job(
    (
        "num_local_nodes",
        "sweep.actors",
        "sweep.seconds",
        "step.few_actors",
        "step.many_actors",
        "faults.actor_kills_per_minute",
        "faults.node_drops_per_minute",
        "generation.painted_batch_seconds",
        "generation.batch_size",
        "output",
    ),
    ScaleConfig,
)
def scale(config: ScaleConfig) -> Work:
    """Measure throughput, autoscaling and recovery from faults.

    Runs on local nodes that it starts (num_local_nodes), or on the running cluster. Writes scale.json and report.html.
    Exit status 1 if a target is missed.
    """
    return work("scale", config=config)


@recipe_job(*IMAGES, "recipe.seed", "recipe.image_size", *POOL)
@click.option("--out", type=NewFolder(), default="runs/gallery", show_default=True, help="New folder for the page.")
@click.option(
    "--columns",
    type=click.Choice(["templates", "guidance_scale"]),
    default="templates",
    show_default=True,
    help="What the columns of the page compare.",
)
@click.option(
    "--classes", default="10", show_default=True, help="Class names (cat,dog), or a number of evenly spread classes."
)
@click.option("--images", type=click.IntRange(min=1), default=3, show_default=True, help="Images per cell.")
def gallery(config: JobConfig, **options: Any) -> Work:
    """Generate a few images of each class, side by side.

    Columns are prompt templates or guidance scales. Writes gallery.html, gallery.png and recipe.json; each image is a
    sample of that recipe, shown with its index.
    """
    return work("gallery", config=config, **options)


@recipe_job(
    *POOL,
    "generation.min_actors",
    "generation.cpus_per_actor",
    "generation.channels_last",
    "generation.compile",
    "generation.attention",
    "generation.label_selector",
    "generation.start_timeout_seconds",
)
@click.option("--index", required=True, help="Indices and ranges, such as 7,8,1000:1016.")
@click.option("--out", type=NewFolder(), required=True, help="New folder for the images.")
def regenerate(config: JobConfig, index: str, out: Path) -> Work:
    """Generate chosen samples of a recipe again.

    Writes a PNG, and a JSON file with the plan, per sample. CONFIG is usually the recipe.json of a run or a data set.
    """
    return work("regenerate", config=config, index=index, out=out)


@job(
    (
        *IMAGES,
        "recipe.seed",
        "recipe.image_size",
        "training.num_images",
        "rates.generated_per_second",
        "prices.generation_device_hour",
    ),
    checks=RECIPE_CHECKS,
    kind=PlanJob,
)
@click.option("--index", type=int, help="Explain the sample with this index, and exit.")
@click.option("--compare", metavar="RECIPE", help="List the fields in which another recipe file differs, and exit.")
@click.option("--out", metavar="FILE", help="Where to write the recipe.  [default: runs/recipe-HASH.json]")
@click.option("--cost", is_flag=True, help="Predict the run's time and cost; without known rates, rehearse it first.")
@click.option("--like", metavar="RUN", help="Predict time and cost from the rates of this finished run.")
@click.pass_obj
def plan(arguments: list[str], config: JobConfig, **options: Any) -> Work:
    """Show a data set before it is generated; write its recipe.

    Prints classes, prompts, token counts and size. Needs no cluster, except to rehearse the run with --cost. Of an
    experiment, predicts each arm's images, time and cost, and their sum.
    """
    return work("plan", needs_ray=False, config=config, arguments=arguments, **options)


@figment.command()
@click.argument("places", metavar="EVALUATION ...", nargs=-1, required=True)
@click.option("--out", type=NewFolder(), required=True, help="New folder for the page.")
def report(places: tuple[str, ...], out: Path) -> Work:
    """Show several evaluations side by side on one page.

    EVALUATION is a folder written by evaluate or train, or a run's folder for its newest evaluation. Writes
    report.html, evaluations.json and evaluations.csv; needs no cluster.
    """
    return work("report", needs_ray=False, places=places, out=out)


@figment.command()
def configs() -> None:
    """List the configs that ship with Figment.

    Every command takes them by name.
    """
    found = shipped_configs()
    width = max(map(len, found))
    for name, text in found.items():
        click.echo(f"{name:{width}}  {text}")


@figment.command()
@click.argument("word", metavar="[SECTION|WORD]", default="")
def settings(word: str) -> None:
    """List all settings, a section, or those that match a word.

    WORD is searched in names and meanings.
    """
    print_settings(word)


def read(arguments: list[str], program: str = "figment") -> Work | None:
    """Return the command to run, or None if its output is already printed; ValueError for bad arguments."""
    try:
        found = figment.main(arguments, prog_name=program, standalone_mode=False)
    except click.UsageError as error:
        program = error.ctx.command_path if error.ctx else program
        message = error.format_message()
        raise ValueError(f"{message}{'' if message.endswith(('.', '?')) else '.'} See {program} --help.") from error
    return found if isinstance(found, Work) else None


def run(arguments: list[str]) -> None:
    """Run the command named by the arguments."""
    with user_errors():
        found = read(arguments)
    if found:
        found()


def run_and_exit(name: str) -> None:
    """Run a command as `python -m ray_jobs.NAME` and exit: the rest of its module is not executed."""
    CONSOLE.detach_stderr()
    run([name, *sys.argv[1:]])
    sys.exit()


def main() -> None:
    """Run the console command `figment`."""
    CONSOLE.detach_stderr()
    run(sys.argv[1:])
