"""The printed prediction of a run, and the sources of its rates."""

import dataclasses
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import plan
from ray_jobs.cli.config import JobConfig, Rates, load_config, to_yaml
from ray_jobs.cost import table as cost
from ray_jobs.cost.prediction import predict
from tests.support.commands import error_line, printed

DIGITS = str(PROJECT_ROOT / "ray_jobs" / "configs" / "digits.yaml")
GIVEN = ["rates.generated_per_second=65", "rates.trained_per_second=128"]
RATES = Rates(75.0, 150.0, 512.0, 40.0, 25.0)


def run_with(folder: Path, *overrides: str, rates: Rates = RATES) -> Path:
    """Write the files of a finished run that a prediction reads."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(load_config(JobConfig, [DIGITS, *overrides])))
    (folder / "summary.json").write_text(json.dumps({"top1": 0.5, "rates": dataclasses.asdict(rates)}))
    return folder


def test_given_rates_predict_hours_and_name_unknown_values(capsys):
    out = printed(plan, capsys, DIGITS, "--cost", *GIVEN)
    for text in (
        "16,640",  # 16,384 and 256 held out
        "unknown; set rates.start_seconds",
        "training alone needs 128.0 s, generation 127.5 s",
        "not included",
        "rates.validated_per_second, rates.start_seconds, rates.end_seconds",
        "unknown; set prices.generation_device_hour, prices.training_device_hour",
    ):
        assert text in out
    assert "USD" not in out


def test_gpus_are_priced_per_hour_and_missing_prices_are_named(capsys):
    gpus = ["generation.gpus_per_actor=0.5", "training.gpus_per_worker=1", "prices.generation_device_hour=3"]
    hour = [*GIVEN, "rates.start_seconds=3471.0153846"]  # 64 / 130 for the first batch and 128 after it: an hour
    out = printed(plan, capsys, DIGITS, "--cost", *gpus, *hour)
    assert "1.000 GPU-hours" in out
    assert "3.00 USD, without prices.training_device_hour" in out
    out = printed(plan, capsys, DIGITS, "--cost", *gpus, *hour, "prices.training_device_hour=2")
    assert "5.00 USD" in out
    assert "without" not in out


def test_generation_bottleneck_names_the_actors_that_would_keep_up(capsys):
    out = printed(plan, capsys, DIGITS, "--cost", "rates.generated_per_second=13", GIVEN[1])
    assert "generation: training alone needs 128.0 s, generation 637.5 s; 10 actors would keep up" in out


def test_earlier_run_provides_rates_and_changed_settings(capsys, tmp_path: Path):
    earlier = run_with(tmp_path / "earlier", "training.num_images=4096", "recipe.num_inference_steps=8")
    out = printed(plan, capsys, DIGITS, f"--like={earlier}", *GIVEN)
    config = dataclasses.replace(load_config(JobConfig, [DIGITS]), rates=RATES)
    assert f"{predict(config, config.opened_recipe).wall_seconds:.1f} s (0:02:" in out
    assert "differ from earlier: recipe.num_inference_steps, training.num_images" in out
    (line,) = [line for line in out.splitlines() if line.startswith("To compare the run with this prediction, add: ")]
    added = [word for word in line.split() if word.startswith("rates.")]
    assert load_config(JobConfig, [DIGITS, *added]).rates == RATES


def test_rehearsal_without_rates_changes_few_settings(monkeypatch, capsys, tmp_path: Path):
    taken = run_with(tmp_path / "mine-rehearsal")
    configs = []

    def fake_run(command: list[str], check: bool) -> SimpleNamespace:
        configs.append(load_config(JobConfig, command[3:]))
        run_with(Path(configs[-1].output), rates=Rates(100.0, 100.0))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", fake_run)
    wanted = [f"output={tmp_path / 'mine'}", "training.reuse=128", "data.tee=kept", "data.replays=1", "resume=true"]
    out = printed(plan, capsys, DIGITS, "--cost", *wanted)
    (rehearsed,) = configs
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


def test_failed_rehearsal_sets_the_exit_status(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit) as ended:
        printed(plan, capsys, DIGITS, "--cost", f"output={tmp_path / 'mine'}")
    assert ended.value.code == 3


def test_prediction_errors_are_one_line(capsys, tmp_path: Path):
    assert "summary.json' cannot be read: No such file" in error_line(plan, capsys, DIGITS, "--like=nowhere")
    for number, text in enumerate(("{}", "[", '{"rates": {"made": 1}}')):
        run = run_with(tmp_path / f"run{number}")
        (run / "summary.json").write_text(text)
        assert "has no rates that this version" in error_line(plan, capsys, DIGITS, f"--like={run}")
    assert "rates.generated_per_second is unknown" in error_line(plan, capsys, DIGITS, "--cost", GIVEN[1])
    assert "rates.start_seconds is -1.0" in error_line(plan, capsys, DIGITS, "--cost", "rates.start_seconds=-1")
    assert "prices.stored_gb is nan" in error_line(plan, capsys, DIGITS, "--cost", "prices.stored_gb=nan")


def test_invalid_run_is_not_rehearsed(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    message = error_line(plan, capsys, DIGITS, "--cost", "data.tee=kept", "data.replays=2")
    assert "data.replays is 2, but the run's 16384 samples" in message


def test_rehearsal_has_no_more_steps_than_the_run():
    config = load_config(JobConfig, [DIGITS, "training.num_images=512", "training.num_epochs=1"])
    assert cost.num_rehearsed_steps(config.training) == 8
