import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from training.config import TrainingConfig
from training.fit import train_on_worker
from training.job import run_name
from training.loggers import LoggerEnvironment, build_loggers, check_loggers, logger_environment

WANDB, MLFLOW = TrainingConfig(loggers=("wandb",)), TrainingConfig(loggers=("mlflow",))

NOT_INSTALLED = """
import sys, builtins
from pathlib import Path
from training.config import TrainingConfig
from training.loggers import build_loggers
names = [type(logger).__name__ for logger in build_loggers(TrainingConfig(), Path(sys.argv[1]))]
assert names == ["CSVLogger", "TensorBoardLogger"], names
assert "wandb" not in sys.modules and "mlflow" not in sys.modules
"""


def test_run_of_an_experiment_is_named_with_its_arm():
    assert run_name(Path("/runs/out/strong/seed-0")) == "strong/seed-0"
    assert run_name(Path("/runs/out")) == "out"


@pytest.mark.nightly
def test_csv_and_tensorboard_are_default_loggers(tmp_path: Path):
    subprocess.run([sys.executable, "-c", NOT_INSTALLED, str(tmp_path)], check=True)


def test_missing_logger_package_is_an_error(monkeypatch):
    monkeypatch.setattr("training.loggers.find_spec", lambda name: None)
    check_loggers(TrainingConfig())
    with pytest.raises(ValueError, match=r"loggers has 'mlflow', which is not installed\. Run pip install mlflow"):
        check_loggers(TrainingConfig(loggers=("mlflow",)))


def test_resumed_run_keeps_earlier_metrics(tmp_path: Path):
    for expected in ("metrics.csv", "resumed-2/metrics.csv", "resumed-3/metrics.csv"):
        csv_logger = build_loggers(TrainingConfig(), tmp_path)[0]
        csv_logger.log_metrics({"loss": 1.0}, step=1)
        csv_logger.save()
        assert (tmp_path / expected).read_text() == "loss,step\n1.0,1\n"


@pytest.fixture
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loggers are installed, with no variables and no netrc."""
    monkeypatch.setattr("training.loggers.find_spec", lambda name: object())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_set")
def test_missing_wandb_key_is_an_error(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"loggers has 'wandb', but there is no .* API key\. Set WANDB_API_KEY"):
        check_loggers(WANDB)
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_loggers(WANDB)


@pytest.mark.usefixtures("nothing_set")
def test_workers_get_variables_of_configured_loggers(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WANDB_API_KEY": "k", "WANDB_ENTITY": "us", "WANDB_SERVICE": "2-1", "OTHER": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////m.db")
    check_loggers(WANDB)
    passed = logger_environment(WANDB)
    assert passed.variables.items() >= {"WANDB_API_KEY": "k", "WANDB_ENTITY": "us"}.items()
    assert not {"WANDB_SERVICE", "OTHER"}.intersection(passed.variables)
    assert logger_environment(MLFLOW).variables["MLFLOW_TRACKING_URI"] == "sqlite:////m.db"
    assert logger_environment(TrainingConfig()).variables == {}
    assert "k" not in repr(passed).removeprefix("LoggerEnvironment")  # which Ray's dashboard shows


def test_worker_starts_with_driver_variables(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    monkeypatch.setenv("WANDB_API_KEY", "of-the-node")
    monkeypatch.setattr("training.loop.run", lambda job: seen.append(os.environ["WANDB_API_KEY"]))
    train_on_worker({"job": None, "environment": LoggerEnvironment({"WANDB_API_KEY": "of-the-driver"})})
    assert seen == ["of-the-driver"]


@pytest.mark.usefixtures("nothing_set")
def test_workers_get_key_of_wandb_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password of-login\n")
    (tmp_path / ".netrc").chmod(0o600)
    check_loggers(WANDB)
    assert logger_environment(WANDB).variables["WANDB_API_KEY"] == "of-login"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(ValueError, match="no Weights & Biases API key"):
        check_loggers(WANDB)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request with 401."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.usefixtures("nothing_set")
def test_unreachable_mlflow_server_is_an_error(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gone = f"http://me:secret@127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gone)
    with pytest.raises(ValueError, match=r"points to 127\.0\.0\.1, where no server responds \(.*refused"):
        check_loggers(MLFLOW)
    with server() as with_password:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password)
        check_loggers(MLFLOW)
