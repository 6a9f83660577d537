"""The GPU benchmark, run on a CPU; its arithmetic worked out by hand."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import copies, device, training_step
from benchmarks.copies import MatrixBatches, hidden_fraction, num_products
from benchmarks.deadline import Deadline, deadlines
from benchmarks.device import choose_parts, run_parts
from benchmarks.device_parts import (
    PLANNED_PARTS,
    TINY,
    Lines,
    PlannedPart,
    Run,
    compare,
    lines_of,
    outcome,
    with_ratios,
)
from benchmarks.device_report import Line, Part, Report, failed, in_words, not_measured, to_markdown
from benchmarks.engine import Case, Row, RowPlan, plan_rows
from benchmarks.gpu_tests import files_with_gpu_tests, read_junit
from benchmarks.makers import Maker
from benchmarks.tf32 import float32_error, relative_error, tf32
from benchmarks.training_step import StepRate, Steps, measure_steps
from generation.config import GenerationConfig
from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import PROJECT_ROOT
from generation.recipes.recipe import build_recipe
from training.config import TrainingConfig

NEVER = Deadline(float("inf"))
OVER = Deadline(0.0)

ABSENT = ("ray", "nltk", "webdataset", "moto", "s3fs", "boto3", "alembic", "sqlalchemy", "xformers")
"""Packages that the script and the tests marked `gpu` must not import."""


@pytest.fixture
def restored_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def run_in(folder: Path) -> Run:
    return Run(TINY, folder, folder)


def call_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run the benchmark; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.device", *arguments])
    with pytest.raises(SystemExit) as ended:
        device.main()
    return ended.value.code


@pytest.mark.nightly
@pytest.mark.usefixtures("restored_threads")
def test_tiny_run_has_every_part_and_reasons_for_those_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    out = tmp_path / "device"
    assert call_main(monkeypatch, "--tiny", "--out", str(out), "--commit", "abc1234") == 0
    report = json.loads((out / "device.json").read_text())
    assert report["circumstances"]["commit"] == "abc1234"
    assert report["circumstances"]["torch"] == version("torch")
    lines = {(part["name"], line["name"]): line for part in report["parts"] for line in part["lines"]}
    assert {name: line["reason"] for (_, name), line in lines.items() if line["outcome"] != "measured"} == {
        "pytest -m gpu": "needs a GPU",
        "with xformers": "xformers needs a GPU",
        "+ compile": "--tiny does not compile",
        "with CUDA graphs": "CUDA graphs need a GPU",
        "arithmetic of the engine": "skipped by --tiny",
        "copies overlapping the next batch": "needs a GPU",
        "engine, TF32 on": "needs a GPU",
    }
    rates = {key: line["images_per_second"] for key, line in lines.items() if line["outcome"] == "measured"}
    assert {part for part, _ in rates} == {"engine", "presets", "training", "batch sizes", "float32"}
    assert min(rates.values()) > 0
    assert lines["float32", "engine"]["values"]["most_apart_levels"] <= 2
    table = (out / "device.md").read_text()
    assert all(name in table for _, name in lines)


def test_missing_gpu_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call_main(monkeypatch, "--out", str(tmp_path / "device")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: torch finds no GPU.")
    assert "--tiny" in line
    assert not (tmp_path / "device").exists()


def test_folder_with_files_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    (tmp_path / "mine").touch()
    assert call_main(monkeypatch, "--tiny", "--out", str(tmp_path)) == 2
    assert "already contains files" in capsys.readouterr().err


def test_parts_are_chosen_by_name():
    assert [planned.name for planned in choose_parts("batch_sizes,engine")] == ["batch sizes", "engine"]
    assert choose_parts("") == list(PLANNED_PARTS)
    with pytest.raises(ValueError, match=r"--parts has the unknown part 'x'\. Use gpu_tests, engine, "):
        choose_parts("engine,x")


def test_part_times_add_up_to_the_limit():
    assert sum(planned.seconds for planned in PLANNED_PARTS) == device.TOTAL_SECONDS < device.HARD_SECONDS < 480


@pytest.mark.nightly
def test_script_and_gpu_tests_need_no_absent_packages():
    files = [str(path) for path in files_with_gpu_tests(PROJECT_ROOT / "tests")]
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
import benchmarks.device
for file in {files!r}:
    runpy.run_path(file)
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True)


def test_files_with_gpu_tests_are_found_by_their_mark(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "test_a.py").write_text("@pytest.mark." + "gpu\ndef test_x(): ...")
    (tmp_path / "test_b.py").write_text("def test_y(): ...")
    assert files_with_gpu_tests(tmp_path) == [tmp_path / "inner" / "test_a.py"]
    assert Path(__file__) not in files_with_gpu_tests(PROJECT_ROOT / "tests")


def test_results_of_tests_are_read_from_junit():
    text = """<testsuites><testsuite>
      <testcase name="test_a[float16]" time="1.5"/>
      <testcase name="test_b" time="0.25"><failure message="assert 9 &lt;= 8">in line 3</failure></testcase>
      <testcase name="test_c" time="0"><skipped message="there is no CUDA device"/></testcase>
    </testsuite></testsuites>"""
    assert read_junit(text) == [
        Line("test_a[float16]", values={"_seconds": 1.5}, outcome="passed"),
        Line("test_b", values={"_seconds": 0.25}, outcome="failed", reason="assert 9 <= 8 in line 3"),
        not_measured("test_c", "there is no CUDA device"),
    ]


def test_part_may_use_time_left_by_earlier_parts_only():
    assert deadlines(100.0, [10.0, 20.0, 30.0]) == [Deadline(50.0), Deadline(70.0), Deadline(100.0)]


def test_deadline_allows_work_that_ends_before_it():
    deadline = Deadline(time.monotonic() + 1000)
    assert deadline.allows(900)
    assert not deadline.allows(1100)


def test_failed_part_is_recorded_and_the_others_run(tmp_path: Path):
    def breaks(run: Run, deadline: Deadline) -> Lines:
        yield [Line("first", 2.0)]
        raise RuntimeError("CUDA error:\n  unspecified")

    def works(run: Run, deadline: Deadline) -> Lines:
        yield [Line("second", 3.0)]

    report = Report({"commit": "abc"})
    run_parts(
        [PlannedPart("a", 1.0, breaks), PlannedPart("b", 1.0, works)], run_in(tmp_path), report, time.monotonic() + 100
    )
    assert report.failed
    assert [(part.name, part.lines, part.error) for part in report.parts] == [
        ("a", [Line("first", 2.0)], "RuntimeError: CUDA error: unspecified"),
        ("b", [Line("second", 3.0)], ""),
    ]
    assert json.loads((tmp_path / "device.json").read_text())["parts"][0]["error"].startswith("RuntimeError")
    assert "failed: RuntimeError: CUDA error: unspecified" in (tmp_path / "device.md").read_text()


def test_results_are_on_disk_while_a_part_runs(tmp_path: Path):
    seen = []

    def part(run: Run, deadline: Deadline) -> Lines:
        yield [Line("first", 2.0)]
        seen.append(json.loads((run.out / "device.json").read_text())["parts"][0]["lines"][0]["images_per_second"])

    run_parts([PlannedPart("a", 1.0, part)], run_in(tmp_path), Report({}), time.monotonic() + 100)
    assert seen == [2.0]


class Painter(Maker):
    """Makes two uniform grey images."""

    num_images = 2

    def __init__(self, level: int) -> None:
        self.level = level

    def __call__(self) -> np.ndarray:
        return np.full((2, 4, 4, 3), self.level, np.uint8)


def breaks() -> Maker:
    raise ValueError("no such kernel")


def last(lines: Iterator[Sequence[Line]]) -> Sequence[Line]:
    return list(lines)[-1]


def test_row_that_fails_to_load_is_reported_and_the_others_compared():
    plans = [
        RowPlan("stock", lambda: Painter(7)),
        RowPlan("broken", breaks),
        RowPlan("engine", lambda: Painter(9)),
        RowPlan("elsewhere", breaks, missing="needs wings"),
    ]
    stock, broken, engine, elsewhere = last(compare([], plans, TINY, NEVER))
    assert (stock.outcome, stock.ratio, engine.outcome) == ("measured", 1.0, "measured")
    assert (engine.values["mean_apart_levels"], engine.values["most_apart_levels"]) == (2.0, 2)
    assert broken == failed("broken", ValueError("no such kernel"))
    assert elsewhere == not_measured("elsewhere", "needs wings")


def test_images_of_different_recipes_are_not_compared():
    plans = [RowPlan("paper", lambda: Painter(7)), RowPlan("fast", lambda: Painter(9))]
    assert "most_apart_levels" not in last(compare([], plans, TINY, NEVER, same_images=False))[1].values


@pytest.mark.parametrize("found", [None, object()])
def test_only_xformers_may_be_missing_on_a_gpu(monkeypatch: pytest.MonkeyPatch, found: object):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    case = Case(build_recipe(RecipeConfig()), GenerationConfig(), [])
    rows = plan_rows(case)
    assert [row.name for row in rows] == [
        "stock pipeline",
        "engine",
        "+ prompt cache",
        "+ channels last",
        "with fused QKV",
        "with xformers",
        "+ compile",
        "with CUDA graphs",
    ]
    assert [row.name for row in rows if row.compiles] == ["+ compile", "with CUDA graphs"]
    missing = {row.name: row.missing for row in rows if row.missing}
    assert missing == ({} if found else {"with xformers": "xformers is not installed"})


def test_nothing_is_loaded_after_the_deadline():
    assert outcome(RowPlan("late", breaks), OVER, TINY) == not_measured("late", "out of time")


def test_ratios_refer_to_the_first_measured_line():
    lines = [not_measured("a", "out of time"), Line("b", 4.0), Line("c", 6.0)]
    assert [line.ratio for line in with_ratios(lines)] == [None, 1.0, 1.5]


def test_failed_line_fails_the_report_and_an_unmeasured_one_does_not():
    skipped = Part("a", [not_measured("x", "out of time")])
    assert not Report({}, [skipped]).failed
    assert Report({}, [skipped, Part("b", [failed("y", ValueError("no"))])]).failed


def test_table_has_one_row_per_line():
    parts = [
        Part("engine", [Line("stock pipeline", 2.5, 1.0), Line("engine", 1234.5, 493.8, {"text_ms": 0.5})]),
        Part("copies", [not_measured("copies", "needs a | GPU")], error="RuntimeError: lost"),
        Part("float32"),
    ]
    assert to_markdown(Report({"driver": "580.1"}, parts)).splitlines() == [
        "# One device",
        "",
        "- driver: 580.1",
        "",
        "| part |  | images/s | ratio |  |",
        "| --- | --- | ---: | ---: | --- |",
        "| engine | stock pipeline | 2.5 | 1.00 |  |",
        "|  | engine | 1,234 | 493.80 | text 0.5 ms |",
        "| copies | copies |  |  | not measured: needs a \\| GPU |",
        "|  |  |  |  | failed: RuntimeError: lost |",
        "| float32 |  |  |  | not measured yet |",
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("text_ms", 0.25, "text 0.25 ms"),
        ("augmentation_fraction", 0.125, "augmentation 12.5%"),
        ("most_apart_levels", 2, "most apart 2 of 255 levels"),
        ("_seconds", 1.5, "1.5 s"),
        ("batch_size", 256, "batch size 256"),
    ],
)
def test_values_are_shown_with_their_unit(name: str, value: float, words: str):
    assert in_words(name, value) == words


def test_hidden_fraction_of_copies():
    assert hidden_fraction(only_compute=10.0, wait_for_each=16.0, beside_the_next=11.0) == pytest.approx(5 / 6)


def test_batch_takes_one_and_a_half_copies_to_compute():
    assert num_products(copy_seconds=0.006, product_seconds=0.001) == 9
    assert num_products(copy_seconds=0.001, product_seconds=1.0) == 1


def test_next_batch_starts_before_waiting_for_a_copy(monkeypatch: pytest.MonkeyPatch):
    batches, events = MatrixBatches(2, 4, 8, torch.device("cpu")), []

    def compute() -> int:
        number = sum(event.startswith("compute") for event in events)
        events.append(f"compute {number}")
        return number

    def start_copying(tensors: dict[str, int], stream: object):
        return lambda: events.append(f"wait {tensors['pixels']}")

    monkeypatch.setattr(batches, "compute", compute)
    monkeypatch.setattr(copies, "start_copying", start_copying)
    batches.copy_beside_the_next(3)
    assert events == ["compute 0", "compute 1", "wait 0", "compute 2", "wait 1", "wait 2"]
    events.clear()
    batches.wait_for_each(2)
    assert events == ["compute 0", "wait 0", "compute 1", "wait 1"]


def test_batch_is_halved_until_the_step_fits(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def measure(config: TrainingConfig, batch_size: int, *sizes: object) -> StepRate:
        tried.append(batch_size)
        if batch_size > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return StepRate(batch_size, 1.0, 0.1, 1)

    monkeypatch.setattr(training_step, "_measure", measure)
    config = TrainingConfig(global_batch_size=256, gpus_per_worker=0)
    assert measure_steps(config, 8, 10, Steps(1, 1, 1)).batch_size == 64
    assert tried == [256, 128, 64]


def test_relative_error_is_over_the_largest_value():
    assert relative_error(torch.tensor([1.0, -2.0]), torch.tensor([1.5, -2.0])) == 0.25


def test_tf32_is_off_inside_and_restored_afterwards():
    torch.backends.cudnn.allow_tf32 = True
    with tf32(allowed=False):
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert float32_error(torch.device("cpu")) < 1e-5
    assert torch.backends.cudnn.allow_tf32


def test_products_with_ten_bits_are_detected(monkeypatch: pytest.MonkeyPatch):
    def in_ten_bits(a: torch.Tensor) -> torch.Tensor:
        return (a.view(torch.int32) & ~0x1FFF).view(torch.float32)  # keeps 10 of 23 mantissa bits

    exact = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: exact(in_ten_bits(a), in_ten_bits(b)) if a.dtype == torch.float32 else exact(a, b),
    )
    with pytest.raises(RuntimeError, match=r"relative error of .* as with TF32"), tf32(allowed=False):
        pass


def test_row_without_timings_has_no_rate():
    row = Row("engine", Painter(1), start_seconds=2.0)
    (line,) = lines_of([row])
    assert (line.images_per_second, line.outcome, line.reason) == (None, "not measured", "loaded, but not timed yet")
