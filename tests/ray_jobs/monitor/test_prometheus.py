"""What is exported of a run, worked out by hand, and what docs and dashboard say of it."""

import json
import re
from typing import Any

import pytest

from generation.pool.keeper import GenerationCounts
from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.monitor.progress import RunProgress, Stretch
from ray_jobs.monitor.prometheus import METRICS, LastStretch, increase, values_of
from tests.support.looks import looked, prometheus_name, worked

NAMES = {prometheus_name(metric) for metric in METRICS}


def values(before: RunProgress, now: RunProgress) -> dict[str, Any]:
    """Return what is told of a stretch by its name, and its tag if it has one."""
    return {f"{metric.name} {tag}".strip(): value for metric, tag, value in values_of(Stretch(before, now))}


def test_all_that_is_known_of_a_stretch_is_told():
    before = looked(100.0, counts=worked(10.0, num_made=100), epoch=0)
    pool = worked(70.0, num_made=400, black=5, flat=2)
    pool.num_loads.update({"a:1": 1, "b:2": 2})
    pool.load_seconds = 45.0
    pool.batch_sizes = {"a:1": 16, "b:2": 8}
    pool.num_requests = {"a:1": 3, "b:2": 1}
    training = {"num_trained": 1240, "num_trained_before": 1000, "num_delivered": 120, "reuse": 2.0}
    drawn = {"num_in_reservoir": 96, "batch_overlap": 0.25, "num_window_classes": 9}
    now = looked(
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


def test_what_is_not_known_is_not_told():
    told = values(looked(90.0, 0, GenerationCounts()), looked(91.0, 0, GenerationCounts()))
    assert not {"figment_images_trained", "figment_image_uses", "figment_trainer_waiting_fraction"} & told.keys()
    assert "figment_generator_batch_images" not in told
    assert told["figment_generator_actors"] == 0


def test_rates_are_those_of_the_last_half_minute():
    last = LastStretch()
    stretches = [last.until(looked(float(at))) for at in range(0, 100, 10)]
    assert [each.before.observed_at for each in stretches] == [0, 0, 0, 0, 10, 20, 30, 40, 50, 60]


def test_a_counter_gets_what_has_come_and_all_of_what_began_anew():
    assert increase(0, 40) == 40
    assert increase(40, 100) == 60
    assert increase(100, 100) == 0
    assert increase(100, 30) == 30


def test_the_documentation_has_the_table_that_is_exported():
    text = (PROJECT_ROOT / "docs" / "watching.md").read_text()
    rows = re.findall(r"^\| `(ray_figment\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    told = [(prometheus_name(metric), metric.kind.__name__.lower(), metric.description) for metric in METRICS]
    assert [(name, kind, f"{description} ({unit})") for name, kind, unit, description in rows] == told


def dashboard() -> dict[str, Any]:
    return json.loads((PROJECT_ROOT / "docs" / "grafana.json").read_text())


def test_each_panel_of_the_dashboard_shows_what_is_exported_and_each_metric_has_one():
    shown: set[str] = set()
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\bray_\w+", target["expr"]))
            assert names, target["expr"]
            assert names <= NAMES
            assert target["expr"].count('{run=~"$run"}') == len(names)
            shown |= names
    assert shown == NAMES


def test_no_panel_of_the_dashboard_has_the_description_of_another():
    told = [panel["description"] for panel in dashboard()["panels"] if panel["description"]]
    assert len(told) == len(set(told))


def test_the_dashboard_asks_for_its_data_source_and_runs():
    datasource, run = dashboard()["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    asked = re.fullmatch(r"label_values\((\w+), run\)", run["query"]["query"])
    assert asked
    assert asked[1] in NAMES
    uids = {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel["targets"]}
    assert uids == {"${datasource}"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_say_units_as_prometheus_wants_them(metric):
    assert re.fullmatch(r"figment_[a-z_]+", metric.name)
    assert not metric.name.endswith("_total")  # which Ray adds
    assert ("_fraction" in metric.name) == metric.description.endswith("(0..1)")
    assert metric.name.endswith("_per_second") == metric.description.endswith("(images a second)")
