from pathlib import Path

import pytest

from benchmarks import augment, engine, nightly
from benchmarks import delivery as benchmark
from benchmarks import shards as benchmark_shards
from benchmarks.floors import below_floor, check_names, floors_of, read_floors
from benchmarks.makers import Maker
from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe


def floors_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "floors.toml"
    file.write_text(text)
    return file


def test_floors_are_read_by_benchmark_and_ratio(tmp_path: Path):
    file = floors_file(tmp_path, '[painting]\n"brush, to roller" = 2\nspray = 0.5\n[sanding]\nbelt = 1.5\n')
    assert read_floors(file) == {"painting": {"brush, to roller": 2.0, "spray": 0.5}, "sanding": {"belt": 1.5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[painting]\nbrush = "0.5"', r"floor of 'brush' in \[painting\] is 0.5; use a number above 0"),
        ("[painting]\nbrush = true", "is True; use a number"),
        ("[painting]\nbrush = 0.0", "is 0.0; use a number"),
        ("[painting]\nbrush = nan", "is nan; use a number"),
        ("brush = 0.5", "floor of 'brush' is outside a section"),
        ("[painting]\nbrush = 0.5\nbrush = 0.6", "is not valid TOML"),
    ],
)
def test_invalid_floor_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_floors(floors_file(tmp_path, text))


def test_benchmark_without_floors_is_refused():
    with pytest.raises(
        ValueError, match=r"no section \[painting\]. Its sections are delivery, shards, engine, augment"
    ):
        floors_of("painting")


def test_ratio_at_its_floor_is_met_and_below_is_missed():
    floors = {"brush": 0.5, "roller": 0.5, "spray": 0.5}
    assert below_floor({"spray": float("nan"), "brush": 0.499, "roller": 0.5}, floors) == ["brush", "spray"]


def test_ratios_and_floors_must_match():
    with pytest.raises(ValueError, match="the ratio 'brush' has no floor; there is no ratio 'brsh'"):
        below_floor({"brush": 0.5}, {"brsh": 0.5})


def test_floors_file_has_a_section_for_each_nightly_benchmark():
    check_names("benchmark", nightly.BENCHMARKS, read_floors())


def test_stream_ratio_uses_the_lower_rate():
    stream = benchmark.Delivery(
        num_samples=640, num_distinct=640, rate_after_first_batch=120.0, steady_rate=96.0, driver_growth_bytes=0
    )
    ratios = benchmark.ratios_of(stream, nominal=128.0)
    assert list(ratios.values()) == [0.75]
    check_names("ratio", ratios, floors_of("delivery"))


def test_shard_ratios_are_rates_over_their_references():
    rates = {
        "written": (96.0, 128.0),
        "with the tee, over the stream": (60.0, 120.0),
        "read, over webdataset": (50.0, 40.0),
    }
    ratios = benchmark_shards.ratios_of(rates)
    assert list(ratios.values()) == [0.75, 0.5, 1.25]
    check_names("ratio", ratios, floors_of("shards"))


def test_engine_ratios_are_medians_over_the_stock_pipeline(digits: Recipe):
    class FourImages(Maker):
        num_images = 4

    case = engine.Case(digits, GenerationConfig(gpus_per_actor=0), [])
    names = [plan.name for plan in engine.plan_rows(case) if not plan.is_variant]
    seconds = [2.0, 2.0, 1.6, 1.0, 0.5]
    rows = [
        engine.Row(name, FourImages(), start_seconds=0.0, seconds=[0.1, median, 9.0])
        for name, median in zip(names, seconds, strict=True)
    ]
    ratios = engine.ratios_of(rows)
    assert ratios == {"engine": 1.0, "+ prompt cache": 1.25, "+ channels last": 2.0, "+ compile": 4.0}
    check_names("ratio", ratios, floors_of("engine"))


def test_augmentation_has_a_floor_for_each_size():
    check_names("size", {augment.title(sizes): sizes for sizes in augment.SIZES}, floors_of("augment"))
