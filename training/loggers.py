"""Where metrics go: CSV and TensorBoard always, Weights & Biases and MLflow where a setting names them."""

import os
from importlib.util import find_spec
from pathlib import Path

from training.config import TrainingConfig


def check_loggers(config: TrainingConfig) -> None:
    """Raise ValueError if a logger that is named is not installed."""
    for name in config.loggers:
        if find_spec(name) is None:
            raise ValueError(f"training.loggers has '{name}', which is not installed. Run pip install {name}.")


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
