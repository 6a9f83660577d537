"""Exported metrics of a run, computed by hand, and their docs and dashboard."""

import json
import re
from typing import Any

import pytest

from generation.pool.keeper import GenerationCounts
from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.monitor.progress import Interval, RunProgress
from ray_jobs.monitor.prometheus import METRICS, RateWindow, increase, values_of
from tests.support.progress import pool_counts, progress_at, prometheus_name

NAMES = {prometheus_name(metric) for metric in METRICS}


def values(before: RunProgress, now: RunProgress) -> dict[str, Any]:
    """Return the metrics of an interval by name, with the tag if there is one."""
    return {f"{metric.name} {tag}".strip(): value for metric, tag, value in values_of(Interval(before, now))}


def test_known_metrics_are_exported():
    before = progress_at(100.0, counts=pool_counts(10.0, num_made=100), epoch=0)
    pool = pool_counts(70.0, num_made=400, black=5, flat=2)
    pool.num_loads.update({"a:1": 1, "b:2": 2})
    pool.load_seconds = 45.0
    pool.batch_sizes = {"a:1": 16, "b:2": 8}
    pool.num_requests = {"a:1": 3, "b:2": 1}
    training = {"num_trained": 1240, "num_trained_before": 1000, "num_delivered": 120, "reuse": 2.0}
    drawn = {"num_in_reservoir": 96, "batch_overlap": 0.25, "num_window_classes": 9}
    now = progress_at(
        130.0, 4, pool, **training, **drawn, waiting_seconds=9.0, held_out_waiting_seconds=3.0, validation_seconds=7.0
    )
    assert values(before, now) == {
        "figment_images_generated": 400,
        "figment_images_refused black": 5,
        "figment_images_refused flat": 2,
        "figment_images_delivered": 120,
        "figment_images_trained": 240,
        "figment_images_generated_per_second": 300 / 30,
        "figment_images_trained_per_second": 240 / 30,
        "figment_trainer_waiting_fraction": (9 - 3) / (30 - 3 - 7),
        "figment_generator_working_fraction": 60 / (4 * 30),
        "figment_generator_requests": 3 + 1,
        "figment_generator_actors": 4,
        "figment_generator_awaited_actors": 0,
        "figment_generator_batch_images": 16,
        "figment_image_uses": 2.0,
        "figment_reservoir_images": 96,
        "figment_batch_overlap_fraction": 0.25,
        "figment_window_classes": 9,
        "figment_model_loads": 3,
        "figment_model_load_seconds": 45.0,
    }


def test_unknown_metrics_are_not_exported():
    exported = values(progress_at(90.0, 0, GenerationCounts()), progress_at(91.0, 0, GenerationCounts()))
    assert not {"figment_images_trained", "figment_image_uses", "figment_trainer_waiting_fraction"} & exported.keys()
    assert "figment_generator_batch_images" not in exported
    assert exported["figment_generator_actors"] == 0


def test_rates_cover_the_last_30_seconds():
    last = RateWindow()
    intervals = [last.until(progress_at(float(at))) for at in range(0, 100, 10)]
    assert [each.before.observed_at for each in intervals] == [0, 0, 0, 0, 10, 20, 30, 40, 50, 60]


def test_counter_increases_by_the_difference_and_restarts_at_zero():
    assert increase(0, 40) == 40
    assert increase(40, 100) == 60
    assert increase(100, 100) == 0
    assert increase(100, 30) == 30


def test_docs_table_matches_the_exported_metrics():
    text = (PROJECT_ROOT / "docs" / "watching.md").read_text()
    rows = re.findall(r"^\| `(ray_figment\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    exported = [(prometheus_name(metric), metric.kind.__name__.lower(), metric.description) for metric in METRICS]
    assert [(name, kind, f"{description} ({unit})") for name, kind, unit, description in rows] == exported


def dashboard() -> dict[str, Any]:
    return json.loads((PROJECT_ROOT / "docs" / "grafana.json").read_text())


def test_dashboard_shows_exactly_the_exported_metrics():
    shown: set[str] = set()
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\bray_\w+", target["expr"]))
            assert names, target["expr"]
            assert names <= NAMES
            assert target["expr"].count('{run=~"$run"}') == len(names)
            shown |= names
    assert shown == NAMES


def test_dashboard_panel_descriptions_are_unique():
    descriptions = [panel["description"] for panel in dashboard()["panels"] if panel["description"]]
    assert len(descriptions) == len(set(descriptions))


def test_dashboard_selects_data_source_and_runs():
    datasource, run = dashboard()["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    query = re.fullmatch(r"label_values\((\w+), run\)", run["query"]["query"])
    assert query
    assert query[1] in NAMES
    uids = {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel["targets"]}
    assert uids == {"${datasource}"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_names_have_prometheus_units(metric):
    assert re.fullmatch(r"figment_[a-z_]+", metric.name)
    assert not metric.name.endswith("_total")  # Ray adds it
    assert ("_fraction" in metric.name) == metric.description.endswith("(0..1)")
    assert metric.name.endswith("_per_second") == metric.description.endswith("(images per second)")
