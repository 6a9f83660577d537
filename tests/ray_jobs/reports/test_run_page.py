"""A run's page: in progress, finished, self-contained, and written without harm to other files."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from generation.engine.scores import ScoreCounts, count_scores
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig, Rates
from ray_jobs.monitor.spent import SpentFile, SpentRow
from ray_jobs.reports import run_page_file
from ray_jobs.reports.run_page import RunFacts, run_page
from ray_jobs.reports.run_page_file import RunPage, write_last_page
from tests.support.browser import needs_browser, screenshot
from tests.support.progress import progress_at
from training.config import TrainingConfig

HOSTILE = "</script><img src=x onerror=alert(1)> & \"$\\frac'"
CONFIG = JobConfig(training=TrainingConfig(num_images=1024, num_epochs=4, global_batch_size=256))
ROWS = [
    SpentRow(20, 256, 400, 40, 20, 4, 20, 1, 2, 2.0, 0.25),
    SpentRow(40, 512, 800, 80, 40, 5, 40, 2, 2, 1.0, 0.5),
]
SUMMARY: dict[str, Any] = {
    "num_trained": 1024,
    "num_generated": 1100,
    "time_to_first_batch_seconds": 30.0,
    "wall_seconds": 100.0,
    "advice": "balanced",
}
EVALUATION: Any = {"sets": {"digits": {"num_images": 540, "top1": 0.75, "top1_interval": [0.71, 0.785], "top5": 0.95}}}


@pytest.fixture
def facts(painted: Recipe) -> RunFacts:
    """A run in progress."""
    return RunFacts("birds", CONFIG, painted, ROWS, "add about 2 generators", "2026-12-01 at 10:00:00")


@pytest.fixture
def finished(facts: RunFacts) -> RunFacts:
    return dataclasses.replace(facts, summary=SUMMARY, evaluation=EVALUATION, pages=["evaluation/report.html"])


def text_of(page: str) -> str:
    """Return a page's text, without tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_page_of_a_run_in_progress_has_its_state_and_curves(facts: RunFacts):
    page = run_page(facts)
    text = text_of(page)
    assert "In progress on 2026-12-01 at 10:00:00: 50%, 512 of 1,024 images trained on, epoch 2 of 4." in text
    assert "Advice add about 2 generators" in text
    assert "device hours generation 0.022, training 0.011" in text
    assert page.count("<svg") == 5
    assert "Accuracy on real images" not in text


def test_page_of_a_finished_run_has_its_accuracy(finished: RunFacts):
    page = run_page(finished)
    assert "Finished on 2026-12-01 at 10:00:00, trained on 1,024 images." in text_of(page)
    assert "digits 540 75.00% [71.00, 78.50] 95.00%" in text_of(page)
    assert '<a href="evaluation/report.html">' in page
    assert "In progress" not in page


def test_finished_run_without_evaluation_says_so(finished: RunFacts):
    text = text_of(run_page(dataclasses.replace(finished, evaluation=None, pages=[])))
    assert "Finished on" in text
    assert "Not evaluated by this job." in text


def test_prediction_is_beside_what_it_came_to(finished: RunFacts):
    rates = Rates(generated_per_second=64, trained_per_second=16, start_seconds=10)
    config = dataclasses.replace(CONFIG, rates=rates)
    summary = SUMMARY | {"binding_side": "training", "wall_seconds_error_fraction": -0.12}
    text = text_of(run_page(dataclasses.replace(finished, config=config, summary=summary)))
    # one generator: 256 images at 64 a second, then 1024 at 16 a second
    assert "time to first batch 14.0 s (0:00:14) 30.0 s (0:00:30)" in text
    assert "time of the whole job 78.0 s (0:01:18) 100.0 s (0:01:40)" in text
    assert "bottleneck training training" in text
    assert "Error of the predicted time: -12.0%." in text


def test_run_without_rates_has_its_own_times_only(finished: RunFacts):
    text = text_of(run_page(finished))
    assert "measured time to first batch 30.0 s (0:00:30) time of the whole job 100.0 s (0:01:40)" in text
    assert "The settings had no rates" in text
    resumed = dataclasses.replace(finished, config=dataclasses.replace(CONFIG, resume=True))
    assert "A resumed run has no prediction." in text_of(run_page(resumed))


def test_settings_that_differ_are_listed_with_their_defaults(facts: RunFacts):
    text = text_of(run_page(facts))
    settings = text.partition("Settings that differ from the defaults")[2]
    default = TrainingConfig()
    assert settings.split()[:3] == ["setting", "value", "default"]
    assert f"training.num_images 1024 {default.num_images}" in settings
    assert f"training.num_epochs 4 {default.num_epochs}" in settings
    assert "training.momentum" not in settings


def test_page_needs_no_other_file_and_runs_nothing(finished: RunFacts):
    page = run_page(dataclasses.replace(finished, samples_png=b"\x89PNG"))
    assert 'src="data:image/png;base64,iVBORw=="' in page
    assert "<script" not in page
    assert re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")https?://', page) == []
    assert page.count("<img") == 1


def test_texts_are_escaped(finished: RunFacts, painted: Recipe):
    hostile = dataclasses.replace(
        finished,
        name=HOSTILE,
        config=dataclasses.replace(CONFIG, output=HOSTILE),
        recipe=dataclasses.replace(painted, model=HOSTILE),
        advice=HOSTILE,
        evaluation={"sets": {HOSTILE: EVALUATION["sets"]["digits"]}},
        pages=["javascript:alert(1)//report.html", f"{HOSTILE}/report.html"],
    )
    page = run_page(hostile)
    assert "<img" not in page
    assert "<script" not in page
    assert 'href="javascript:' not in page
    assert page.count("&lt;img src=x") >= 6


def test_page_is_rewritten_at_an_epoch(tmp_path: Path, painted: Recipe):
    spent = SpentFile(tmp_path / "spent.csv", CONFIG)
    page = RunPage(tmp_path, CONFIG, painted, lambda: "balanced", ScoreCounts)
    states = []
    for seconds, num_trained, epoch in ((100, 0, 0), (120, 128, 0), (130, 256, 1), (135, 512, 2), (140, 600, 2)):
        run = progress_at(seconds, num_trained=num_trained, epoch=epoch)
        spent.observe(run)
        page.observe(run)
        states.append(re.findall(r"(\d+)%, ", (tmp_path / "report.html").read_text())[0])
    # after the first step; not in an epoch; at its end; not within 10 s of that; then
    assert states == ["0", "0", "25", "25", "59"]


def test_last_step_is_left_to_the_end_of_the_job(tmp_path: Path, painted: Recipe):
    page = RunPage(tmp_path, CONFIG, painted, lambda: "balanced", ScoreCounts)
    page.observe(progress_at(99.0))
    page.observe(progress_at(200.0, num_trained=1024, epoch=4))
    assert list(tmp_path.iterdir()) == []


def test_end_of_the_job_replaces_the_page(tmp_path: Path, painted: Recipe):
    RunPage(tmp_path, CONFIG, painted, lambda: "balanced", ScoreCounts).observe(progress_at(100.0, num_trained=0))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.html").touch()
    write_last_page(tmp_path, CONFIG, painted, ScoreCounts(), SUMMARY, EVALUATION)
    page = (tmp_path / "report.html").read_text()
    assert "Finished on" in page
    assert '<a href="evaluation/report.html">' in page
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "evaluation"}


def test_page_that_is_not_the_runs_own_is_kept(tmp_path: Path, painted: Recipe):
    (tmp_path / "report.html").write_text("the user's")
    for _ in range(2):
        write_last_page(tmp_path, CONFIG, painted, ScoreCounts(), SUMMARY, None)
    assert (tmp_path / "report.html").read_text() == "the user's"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report-2.html"}


def test_error_in_the_last_page_is_printed(tmp_path: Path, painted: Recipe, monkeypatch, capsys):
    def fails(_: RunFacts) -> str:
        raise RuntimeError("no font")

    monkeypatch.setattr(run_page_file, "run_page", fails)
    write_last_page(tmp_path, CONFIG, painted, ScoreCounts(), SUMMARY, None)
    printed = capsys.readouterr().out
    assert "report.html was not written: no font." in printed
    assert "no font" in (tmp_path / "error.log").read_text()


@pytest.mark.slow
@needs_browser
def test_browser_shows_samples_and_curves(facts: RunFacts, tmp_path: Path):
    Image.new("RGB", (100, 50), (255, 0, 0)).save(tmp_path / "samples.png")
    shown = dataclasses.replace(facts, samples_png=(tmp_path / "samples.png").read_bytes())
    (tmp_path / "page.html").write_text(run_page(shown))
    seen = screenshot(tmp_path / "page.html", 1000, 2400)
    assert (seen == (255, 0, 0)).all(axis=-1).sum() == pytest.approx(960 * 480, rel=0.05)  # as wide as 60 rem
    assert (seen == (31, 119, 180)).all(axis=-1).sum() > 1000  # the first line of each curve


def test_page_shows_scores_by_class_and_template_and_the_extreme_images(facts: RunFacts, painted: Recipe):
    plans, images = [plan_sample(painted, index) for index in range(3)], np.zeros((3, 16, 16, 3), np.uint8)
    scores = count_scores(painted, plans, images, np.array([0.25, 0.5, 0.125]), ["", "", "off_class"])
    page = run_page(dataclasses.replace(facts, scores=scores))
    name = painted.label_space.class_names[plans[0].label]
    text = text_of(page)
    assert "Scores of the check images mean score all images 3 0.292" in text  # 0.25, 0.5 and 0.125 in thousandths
    assert f"class {name} 1 0.250" in text
    assert f"template {painted.templates[0]} 3 0.292" in text
    assert page.count(f'title="{name}, score 0.250, sample 0, attempt 0"') == 2  # among the highest and the lowest
    assert page.count('sample 2, attempt 0"') == 2  # title and alternative text of the refused one
    assert "Scores of the check" not in run_page(facts)
