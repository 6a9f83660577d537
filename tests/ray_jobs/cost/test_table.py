"""What is printed before a run, and where its rates come from."""

import dataclasses
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import plan
from ray_jobs.cli.config import JobConfig, Rates, load_config, open_recipe, to_yaml
from ray_jobs.cost import table as cost
from ray_jobs.cost.prediction import predict
from tests.support.commands import error_line, printed

DIGITS = str(PROJECT_ROOT / "ray_jobs" / "configs" / "digits.yaml")
GIVEN = ["rates.generated_per_second=65", "rates.trained_per_second=128"]
RATES = Rates(75.0, 150.0, 512.0, 40.0, 25.0)


def run_with(folder: Path, *overrides: str, rates: Rates = RATES) -> Path:
    """Write what a run that is through leaves, as far as a prediction reads it."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(load_config(JobConfig, [DIGITS, *overrides])))
    (folder / "summary.json").write_text(json.dumps({"top1": 0.5, "rates": dataclasses.asdict(rates)}))
    return folder


def test_given_rates_lead_to_hours_and_what_is_unknown_says_so(capsys):
    out = printed(plan, capsys, DIGITS, "--cost", *GIVEN)
    for text in (
        "16,640",  # 16,384 and 256 held out
        "unknown: give rates.start_seconds",
        "training alone needs 128.0 s, generation 127.5 s",
        "not counted in it",
        "rates.judged_per_second, rates.start_seconds, rates.end_seconds",
        "unknown: give prices.generation_device_hour, prices.training_device_hour",
    ):
        assert text in out
    assert "USD" not in out


def test_gpus_are_paid_by_the_hour_and_a_price_that_is_missing_is_named(capsys):
    gpus = ["generation.gpus_per_actor=0.5", "training.gpus_per_worker=1", "prices.generation_device_hour=3"]
    hour = [*GIVEN, "rates.start_seconds=3471.0153846"]  # 64 / 130 for the first batch and 128 after it: an hour
    out = printed(plan, capsys, DIGITS, "--cost", *gpus, *hour)
    assert "1.000 GPU-hours" in out
    assert "3.00 USD, without prices.training_device_hour" in out
    out = printed(plan, capsys, DIGITS, "--cost", *gpus, *hour, "prices.training_device_hour=2")
    assert "5.00 USD" in out
    assert "without" not in out


def test_where_generation_binds_the_actors_that_would_keep_up_are_told(capsys):
    out = printed(plan, capsys, DIGITS, "--cost", "rates.generated_per_second=13", GIVEN[1])
    assert "generation: training alone needs 128.0 s, generation 637.5 s; 10 actors would keep up" in out


def test_an_earlier_run_gives_its_rates_and_tells_what_was_otherwise_in_it(capsys, tmp_path: Path):
    earlier = run_with(tmp_path / "earlier", "training.num_images=4096", "recipe.num_inference_steps=8")
    out = printed(plan, capsys, DIGITS, f"--like={earlier}", *GIVEN)
    config = dataclasses.replace(load_config(JobConfig, [DIGITS]), rates=RATES)
    assert f"{predict(config, open_recipe(config)).wall_seconds:.1f} s (0:02:" in out
    assert "others than in earlier: recipe.num_inference_steps, training.num_images" in out
    (line,) = [line for line in out.splitlines() if line.startswith("To have the run compared with this, add: ")]
    added = [word for word in line.split() if word.startswith("rates.")]
    assert load_config(JobConfig, [DIGITS, *added]).rates == RATES


def test_without_rates_the_job_is_rehearsed_as_it_would_run_but_for_a_few_settings(monkeypatch, capsys, tmp_path: Path):
    taken = run_with(tmp_path / "mine-rehearsal")
    asked = []

    def fake_run(command: list[str], check: bool) -> SimpleNamespace:
        asked.append(load_config(JobConfig, command[3:]))
        run_with(Path(asked[-1].output), rates=Rates(100.0, 100.0))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", fake_run)
    wanted = [f"output={tmp_path / 'mine'}", "training.reuse=128", "data.tee=kept", "data.replays=1", "resume=true"]
    out = printed(plan, capsys, DIGITS, "--cost", *wanted)
    (rehearsed,) = asked
    config = load_config(JobConfig, [DIGITS, *wanted])
    expected = dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, num_images=128 * 64, num_epochs=1),
        data=dataclasses.replace(config.data, tee="", replays=0),
        resume=False,
        output=str(taken.with_name("mine-rehearsal-2")),
    )
    assert rehearsed == expected
    assert "128 of 256 steps of 64 images, all held-out images" in out
    assert "rates.generated_per_second=100 rates.trained_per_second=100" in out


def test_a_rehearsal_that_fails_ends_the_job_with_its_status(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit) as ended:
        printed(plan, capsys, DIGITS, "--cost", f"output={tmp_path / 'mine'}")
    assert ended.value.code == 3


def test_what_cannot_be_predicted_is_one_line(capsys, tmp_path: Path):
    assert "summary.json' cannot be read: No such file" in error_line(plan, capsys, DIGITS, "--like=nowhere")
    for number, text in enumerate(("{}", "[", '{"rates": {"made": 1}}')):
        run = run_with(tmp_path / f"run{number}")
        (run / "summary.json").write_text(text)
        assert "has no rates that this version" in error_line(plan, capsys, DIGITS, f"--like={run}")
    assert "rates.generated_per_second is unknown" in error_line(plan, capsys, DIGITS, "--cost", GIVEN[1])
    assert "rates.start_seconds is -1.0" in error_line(plan, capsys, DIGITS, "--cost", "rates.start_seconds=-1")
    assert "prices.stored_gb is nan" in error_line(plan, capsys, DIGITS, "--cost", "prices.stored_gb=nan")


def test_what_cannot_run_is_not_rehearsed(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    message = error_line(plan, capsys, DIGITS, "--cost", "data.tee=kept", "data.replays=2")
    assert "data.replays is 2, but the run's 16384 samples" in message


def test_a_rehearsal_has_no_more_steps_than_the_run():
    config = load_config(JobConfig, [DIGITS, "training.num_images=512", "training.num_epochs=1"])
    assert cost.num_rehearsed_steps(config.training) == 8
