"""Where metrics go: CSV and TensorBoard always, Weights & Biases and MLflow where a setting names them."""

import netrc
import os
import socket
import urllib.request
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from training.config import TrainingConfig

FORWARDED_PREFIXES = ("WANDB_", "MLFLOW_", "DATABRICKS_")
"""Environment variables that begin so say where metrics go and who sends them: workers on other nodes get them too."""

LOCAL_VARIABLE = "WANDB_SERVICE"
"""Names a process of Weights & Biases that the driver's parent may have started."""

WANDB_KEY = "WANDB_API_KEY"
WANDB_IDENTITY = "WANDB_IDENTITY_TOKEN_FILE"
WANDB_SERVER = "https://api.wandb.ai"
WANDB_MODES_WITHOUT_KEY = ("offline", "dryrun", "disabled")

PORTS = {"http": 80, "https": 443}

CONNECT_TIMEOUT_SECONDS = 5.0
"""How long a tracking server may take to answer."""


def check_loggers(config: TrainingConfig) -> None:
    """Raise ValueError if a logger that is named is not installed, has no key, or its server does not answer."""
    for name in config.loggers:
        if find_spec(name) is None:
            raise ValueError(f"training.loggers has '{name}', which is not installed. Run pip install {name}.")
    if "wandb" in config.loggers:
        _check_wandb()
    if "mlflow" in config.loggers:
        _check_mlflow(os.environ.get("MLFLOW_TRACKING_URI", ""))


@dataclass(frozen=True)
class LoggerEnvironment:
    """Variables that loggers need on any node; not in its repr, which Ray shows in its dashboard."""

    variables: dict[str, str] = field(default_factory=dict, repr=False)


def logger_environment(config: TrainingConfig) -> LoggerEnvironment:
    """Return what the loggers named here find in this process's environment, and in netrc."""
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
        f"training.loggers has 'wandb', and there is no key of Weights & Biases. Set {WANDB_KEY}, run wandb login, or "
        "set WANDB_MODE=offline."
    )


def _wandb_key() -> str:
    """Return the key in the environment, else the one that `wandb login` has left in netrc; '' without one."""
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
    """Raise ValueError if nothing listens where a server is said to be; a proxy is not asked."""
    place = urlsplit(server)
    if place.scheme not in PORTS or place.scheme in urllib.request.getproxies():
        return
    try:
        host, port = place.hostname or "", place.port or PORTS[place.scheme]
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"MLFLOW_TRACKING_URI names {place.hostname}, where no server answers ({error}). Start it, or unset it: "
            "metrics then go into the run's folder."
        ) from error


def build_loggers(config: TrainingConfig, run_dir: Path) -> list:
    """Return Lightning's loggers; what is not named is not imported.

    MLflow's go to MLFLOW_TRACKING_URI, or into a database in the run's folder; Weights & Biases has its own variables.
    A run that goes on writes its rows of CSV into a folder of their own: Lightning deletes those it finds.
    """
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers: list = [
        CSVLogger(run_dir, name=None, version=_new_version(run_dir)),
        TensorBoardLogger(run_dir, name="tensorboard", version=""),
    ]
    if "wandb" in config.loggers:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(name=run_dir.name, save_dir=run_dir, project="figment"))
    if "mlflow" in config.loggers:
        from lightning.pytorch.loggers import MLFlowLogger

        server = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run_dir}/mlflow.db")
        loggers.append(MLFlowLogger(experiment_name="figment", run_name=run_dir.name, tracking_uri=server))
    return loggers


def _new_version(run_dir: Path) -> str:
    """Return the first folder without metrics: the run's own, `resumed-2`, and so on."""
    version, number = "", 2
    while (run_dir / version / "metrics.csv").exists():
        version, number = f"resumed-{number}", number + 1
    return version
