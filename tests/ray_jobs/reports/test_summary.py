"""The summary table in the terminal."""

from typing import Any

from ray_jobs.job.evaluation import print_evaluation
from ray_jobs.reports.summary import print_summary


def test_brackets_and_colons_are_printed_verbatim(capsys):
    numbers = dict.fromkeys(("top1", "top5", "mean_per_class_top1", "ece"), 0.5)
    of_set: Any = {"num_images": 10, "num_shared_classes": 2, "top1_interval": [0.4, 0.6], **numbers}
    print_summary({"output": "runs/[/red] :smile:"})
    evaluation: Any = {"sets": {"birds/[/b]": of_set}}
    print_evaluation(evaluation)
    shown = capsys.readouterr().out
    assert "runs/[/red] :smile:" in shown
    assert "birds/[/b]" in shown
