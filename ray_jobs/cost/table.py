"""The cost of a run before it starts: rates from settings, an earlier run or a rehearsal, and a table.

Part of `ray_jobs.plan`; `ray_jobs.cost.prediction` has the arithmetic.
"""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from generation.files import new_path
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig, Prices, Rates, load_config, renamed
from ray_jobs.cli.run_folder import resolve
from ray_jobs.cost.prediction import Prediction, num_generators, num_images_needed, predict
from ray_jobs.job.tables import print_facts
from training.config import TrainingConfig

SECTIONS = ("recipe", "generation", "data", "training", "evaluation")
"""Config sections that may change a rate."""

NUM_REHEARSED_STEPS = 64
"""Optimization steps of a rehearsal: the first few are slower than those of a long run."""


def print_cost(config: JobConfig, recipe: Recipe, arguments: Sequence[str], like: str) -> None:
    """Print the prediction from the rates of an earlier run, of the settings, or of a rehearsal."""
    num_images_needed(config, recipe)  # raise ValueError before a rehearsal starts
    run_dir = resolve(like) if like else None
    if run_dir is None and config.rates == Rates():
        run_dir = rehearse(config, arguments)
    origin = "from the settings" if run_dir is None else f"from {run_dir}"
    if run_dir is not None:
        config = dataclasses.replace(config, rates=read_rates(run_dir))
    print_facts("Prediction", rows(config, predict(config, recipe), origin))
    if run_dir is not None:
        print(f"Settings that differ from {run_dir.name}: {', '.join(changed_settings(config, run_dir)) or 'none'}")
    rates = [f"rates.{name}={value:.4g}" for name, value in dataclasses.asdict(config.rates).items() if value]
    print(f"To compare the run with this prediction, add: {' '.join(rates)}")


def read_rates(run_dir: Path) -> Rates:
    """Return the rates of a finished run; ValueError if it has none."""
    path = run_dir / "summary.json"
    try:
        return Rates(**renamed("rates", json.loads(path.read_text())["rates"]))
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}. Choose the folder of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' has no rates that this version of Figment can read. Choose a run of this version."
        ) from error


def rehearse(config: JobConfig, arguments: Sequence[str]) -> Path:
    """Run the job with few steps and return its folder, which is kept; exit with its status if it fails."""
    training, num_steps = config.training, num_rehearsed_steps(config.training)
    output = resolve(config.output)
    run_dir = new_path(output.parent, f"{output.name}-rehearsal", "")
    few = [
        f"training.num_images={num_steps * training.global_batch_size}",
        "training.num_epochs=1",
        "training.loggers=[]",
        "evaluation.outputs=''",
        "data.tee=''",
        "data.replays=0",
        "resume=false",
        f"output={run_dir}",
    ]
    print(
        f"No rates given: a rehearsal measures them, with {num_steps:,} of {training.num_steps:,} steps of "
        f"{training.global_batch_size:,} images, all held-out images and the full evaluation",
        flush=True,
    )
    ended = subprocess.run([sys.executable, "-m", "ray_jobs.train", *arguments, *few], check=False)
    if ended.returncode:
        sys.exit(ended.returncode)
    return run_dir


def num_rehearsed_steps(training: TrainingConfig) -> int:
    """Return enough steps to measure rates, and to use an image as often as the run will."""
    return min(training.num_steps, max(NUM_REHEARSED_STEPS, training.least_uses))


def changed_settings(config: JobConfig, run_dir: Path) -> list[str]:
    """Return the names of settings that may change a rate and differ from a run's."""
    theirs = load_config(JobConfig, [str(run_dir / "config.yaml")])
    ours, others = (
        {f"{name}.{key}": value for name in SECTIONS for key, value in vars(getattr(each, name)).items()}
        | {"recipe_file": each.recipe_file}
        for each in (config, theirs)
    )
    return [name for name, value in ours.items() if others[name] != value]


def rows(config: JobConfig, prediction: Prediction, origin: str) -> dict[str, str]:
    """Return the table's values by name, including which are unknown."""
    rates, training, generation = config.rates, config.training, config.generation
    unknown = [
        f"rates.{name}" for name in ("validated_per_second", "start_seconds", "end_seconds") if not getattr(rates, name)
    ]
    first_batch = duration(prediction.time_to_first_batch_seconds)
    found = {
        "rates": origin,
        "images to generate": f"{prediction.num_generated:,}",
        "images to train on": f"{prediction.num_trained:,}",
        "time to first batch": first_batch if rates.start_seconds else "unknown; set rates.start_seconds",
        "bottleneck": bottleneck(config, prediction),
        "wall time": at_most(duration(prediction.wall_seconds), training.early_stop_epochs > 0),
    }
    if unknown:
        found["not included"] = f"unknown {', '.join(unknown)}"
    if num_actors := num_generators(config):
        hours = device_hours_text(prediction.generation_device_hours, generation.gpus_per_actor)
        found[f"generation, {num_actors} actors"] = at_most(hours, generation.min_actors < generation.max_actors)
    hours = device_hours_text(prediction.training_device_hours, training.gpus_per_worker)
    return found | {
        f"training, {training.num_workers} workers": hours,
        "cost of devices": cost(prediction, config.prices),
    }


def duration(seconds: float) -> str:
    """Return seconds, also as hours and minutes."""
    whole = round(seconds)
    return f"{seconds:.1f} s ({whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02})"


def at_most(text: str, is_bound: bool) -> str:
    """Return a value, marked as an upper bound if it is one."""
    return f"at most {text}" if is_bound else text


def bottleneck(config: JobConfig, prediction: Prediction) -> str:
    """Return the slower side, and the time that each side needs alone."""
    sides = f"training alone needs {prediction.training_seconds:.1f} s"
    if num_actors := num_generators(config):
        sides += f", generation {prediction.generation_seconds:.1f} s"
        if prediction.binding_side == "generation":
            enough = math.ceil(num_actors * prediction.generation_seconds / prediction.first_pass_seconds)
            sides += f"; {enough:,} actors would keep up"
    return f"{prediction.binding_side}: {sides}"


def device_hours_text(device_hours: float, gpus_each: float) -> str:
    """Return GPU-hours, or process-hours without GPUs."""
    return f"{device_hours:,.3f} {'GPU-hours' if gpus_each else 'hours of CPU processes, 0 GPU-hours'}"


def cost(prediction: Prediction, prices: Prices) -> str:
    """Return the cost of the devices; name missing prices."""
    hours = {"generation": prediction.generation_device_hours, "training": prediction.training_device_hours}
    names = [f"{side}_device_hour" for side, held_hours in hours.items() if held_hours]
    missing = ", ".join(f"prices.{name}" for name in names if not getattr(prices, name))
    if all(not getattr(prices, name) for name in names):
        return f"unknown; set {missing}"
    found = f"{prices.of_devices(*hours.values()):,.2f} {prices.currency}"
    return f"{found}, without {missing}" if missing else found
