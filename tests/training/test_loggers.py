import subprocess
import sys
from pathlib import Path

import pytest

from training.config import TrainingConfig
from training.loggers import build_loggers, check_loggers

NOT_INSTALLED = """
import sys, builtins
from pathlib import Path
from training.config import TrainingConfig
from training.loggers import build_loggers
names = [type(logger).__name__ for logger in build_loggers(TrainingConfig(), Path(sys.argv[1]))]
assert names == ["CSVLogger", "TensorBoardLogger"], names
assert "wandb" not in sys.modules and "mlflow" not in sys.modules
"""


@pytest.mark.nightly
def test_csv_and_tensorboard_are_always_there_and_nothing_else_is_imported(tmp_path: Path):
    subprocess.run([sys.executable, "-c", NOT_INSTALLED, str(tmp_path)], check=True)


def test_a_logger_that_is_not_installed_is_one_line_before_anything_starts(monkeypatch):
    monkeypatch.setattr("training.loggers.find_spec", lambda name: None)
    check_loggers(TrainingConfig())
    with pytest.raises(ValueError, match=r"loggers has 'mlflow', which is not installed\. Run pip install mlflow"):
        check_loggers(TrainingConfig(loggers=("mlflow",)))


def test_the_metrics_of_a_run_that_goes_on_do_not_replace_those_before(tmp_path: Path):
    for expected in ("metrics.csv", "resumed-2/metrics.csv", "resumed-3/metrics.csv"):
        csv_logger = build_loggers(TrainingConfig(), tmp_path)[0]
        csv_logger.log_metrics({"loss": 1.0}, step=1)
        csv_logger.save()
        assert (tmp_path / expected).read_text() == "loss,step\n1.0,1\n"
