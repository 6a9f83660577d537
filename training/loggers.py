"""Loggers of a run: always CSV and TensorBoard; if configured, also Weights & Biases and MLflow."""

import netrc
import os
import socket
import urllib.request
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from training.config import TrainingConfig
from training.job import run_name

FORWARDED_PREFIXES = ("WANDB_", "MLFLOW_", "DATABRICKS_")
"""Prefixes of environment variables with the loggers' servers and keys, which workers on other nodes need too."""

LOCAL_VARIABLE = "WANDB_SERVICE"
"""Variable that refers to a Weights & Biases process on the driver's machine; not forwarded to other nodes."""

WANDB_KEY = "WANDB_API_KEY"
WANDB_IDENTITY = "WANDB_IDENTITY_TOKEN_FILE"
WANDB_SERVER = "https://api.wandb.ai"
WANDB_MODES_WITHOUT_KEY = ("offline", "dryrun", "disabled")

PORTS = {"http": 80, "https": 443}

CONNECT_TIMEOUT_SECONDS = 5.0
"""Connection timeout of the MLflow server check."""


def check_loggers(config: TrainingConfig) -> None:
    """Raise ValueError if a configured logger is not installed, lacks its API key, or its server does not respond."""
    for name in config.loggers:
        if find_spec(name) is None:
            raise ValueError(f"training.loggers has '{name}', which is not installed. Run pip install {name}.")
    if "wandb" in config.loggers:
        _check_wandb()
    if "mlflow" in config.loggers:
        _check_mlflow(os.environ.get("MLFLOW_TRACKING_URI", ""))


@dataclass(frozen=True)
class LoggerEnvironment:
    """Environment variables to set for the loggers on every node; hidden from the repr, which Ray's dashboard shows."""

    variables: dict[str, str] = field(default_factory=dict, repr=False)


def logger_environment(config: TrainingConfig) -> LoggerEnvironment:
    """Return this process's variables with `FORWARDED_PREFIXES`, or none if no logger is configured.

    With Weights & Biases, the variables include the API key, from the environment or from netrc.
    """
    if not config.loggers:
        return LoggerEnvironment()
    passed = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED_PREFIXES)}
    passed.pop(LOCAL_VARIABLE, None)
    if "wandb" in config.loggers and (key := _wandb_key()):
        passed[WANDB_KEY] = key
    return LoggerEnvironment(passed)


def _check_wandb() -> None:
    if os.environ.get("WANDB_MODE") in WANDB_MODES_WITHOUT_KEY or os.environ.get(WANDB_IDENTITY) or _wandb_key():
        return
    raise ValueError(
        f"training.loggers has 'wandb', but there is no Weights & Biases API key. Set {WANDB_KEY}, run wandb login, or "
        "set WANDB_MODE=offline."
    )


def _wandb_key() -> str:
    """Return the API key from the environment, else from netrc, where `wandb login` writes it; '' if neither has it."""
    if key := os.environ.get(WANDB_KEY):
        return key
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_SERVER)).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path and (file := Path(path).expanduser()).is_file():
            try:
                found = netrc.netrc(str(file)).authenticators(host)
            except (netrc.NetrcParseError, OSError):
                continue
            if found:
                return found[2] or ""
    return ""


def _check_mlflow(server: str) -> None:
    """Raise ValueError if nothing listens at the address of an http or https server.

    Other addresses are not checked, nor is a server if the environment sets a proxy for its scheme.
    """
    url = urlsplit(server)
    if url.scheme not in PORTS or url.scheme in urllib.request.getproxies():
        return
    try:
        host, port = url.hostname or "", url.port or PORTS[url.scheme]
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"MLFLOW_TRACKING_URI points to {url.hostname}, where no server responds ({error}). Start the server, or "
            "unset the variable to log to the run's folder."
        ) from error


def build_loggers(config: TrainingConfig, run_dir: Path) -> list:
    """Return Lightning's loggers; imports Weights & Biases and MLflow only if they are configured.

    MLflow logs to MLFLOW_TRACKING_URI or, if that is not set, to a database in the run's folder. Weights & Biases reads
    its own environment variables. A resumed run writes its CSV into a new folder, because Lightning deletes
    an existing CSV.
    """
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers: list = [
        CSVLogger(run_dir, name=None, version=_new_version(run_dir)),
        TensorBoardLogger(run_dir, name="tensorboard", version=""),
    ]
    if "wandb" in config.loggers:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(name=run_name(run_dir), save_dir=run_dir, project="figment"))
    if "mlflow" in config.loggers:
        from lightning.pytorch.loggers import MLFlowLogger

        server = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run_dir}/mlflow.db")
        loggers.append(MLFlowLogger(experiment_name="figment", run_name=run_name(run_dir), tracking_uri=server))
    return loggers


def _new_version(run_dir: Path) -> str:
    """Return the first of '' (the run's folder itself), `resumed-2`, `resumed-3`, ... that has no metrics.csv yet."""
    version, number = "", 2
    while (run_dir / version / "metrics.csv").exists():
        version, number = f"resumed-{number}", number + 1
    return version
