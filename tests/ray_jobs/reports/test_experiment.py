"""An experiment's results, files and page, from runs' folders written by hand."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ray_jobs.cli.config import JobConfig, Prices
from ray_jobs.reports.experiment import write_experiment
from ray_jobs.reports.experiment_results import LearnerRecord, Results, accuracy_at, mean_curve, read_results

HOSTILE = "</script><img src=x onerror=alert(1)> & \"$\\frac'"
SPENT = "seconds,num_trained,num_generated,generation_device_seconds,training_device_seconds,epoch,held_out_top1\n"
PRICED = JobConfig(prices=Prices(generation_device_hour=36.0, training_device_hour=72.0))


def learner(
    run_dir: Path, arm: str, seed: int, top1: float, seconds_per_image: float = 0.01, num_images: int = 1000
) -> LearnerRecord:
    """Write the folder of a learner with two epochs whose training devices were held for 20 s."""
    folder = run_dir / arm.replace("/", "-") / f"seed-{seed}"
    (folder / "evaluation").mkdir(parents=True)
    ends = [(10, num_images // 2, 1, top1 / 2), (20, num_images, 2, top1)]
    rows = "".join(f"{at},{2 * num},{num},50,{at},{epoch},{held_out}\n" for at, num, epoch, held_out in ends)
    (folder / "spent.csv").write_text(SPENT + rows)
    sets = {"digits": {"top1": top1}, "digits/noisy": {"top1": top1 / 2}}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps({"sets": sets}))
    (folder / "report.html").touch()
    color = (round(255 * top1), 0, 0) if seconds_per_image == 0.01 else (0, 0, 255)
    Image.new("RGB", (60, 40), color).save(folder / "samples.png")
    return LearnerRecord(
        arm,
        seed,
        folder.relative_to(run_dir).as_posix(),
        "finished",
        (f"name={arm}",),
        summary(num_images, top1, seconds_per_image),
    )


def summary(num_images: int, top1: float, seconds_per_image: float) -> dict[str, Any]:
    return {
        "num_trained": 2 * num_images,
        "num_generated": num_images,
        "num_refused": {},
        "generation_device_seconds_per_image": seconds_per_image,
        "held_out_top1": top1,
        "waiting_fraction": 0.25,
        "time_to_first_batch_seconds": 5.0,
        "wall_seconds": 30.0,
    }


@pytest.fixture
def records(tmp_path: Path) -> list[LearnerRecord]:
    """Three arms with three seeds each; `slow` generates at half the speed, `weak` is worse at every seed."""
    return [
        *(learner(tmp_path, "plain", seed, top1) for seed, top1 in enumerate((0.50, 0.52, 0.54))),
        *(learner(tmp_path, "slow", seed, top1, 0.02) for seed, top1 in enumerate((0.60, 0.63, 0.66))),
        *(learner(tmp_path, "weak", seed, top1) for seed, top1 in enumerate((0.30, 0.321, 0.342))),
    ]


def results_of(run_dir: Path, records: list[LearnerRecord], **others: Any) -> Results:
    return read_results(run_dir, records, others.get("pairs", ()), others.get("prices", Prices()))


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", " ", page, flags=re.DOTALL)).split())


def test_measures_of_a_learner(tmp_path: Path):
    record = learner(tmp_path, "plain", 0, 0.5, 0.01)
    assert record.summary is not None
    refused = {**record.summary, "num_refused": {"flat": 200}}
    found = results_of(
        tmp_path, [LearnerRecord("plain", 0, record.folder, "finished", (), refused)], prices=PRICED.prices
    )
    measures = found.learners[0].measures
    assert found.accuracies == ["top1/digits", "top1/digits/noisy"]
    assert measures["num_images"] == 800  # of 1000
    assert measures["generation_device_seconds"] == pytest.approx(8.0)
    assert measures["cost"] == pytest.approx(8 * 0.01 + 20 * 0.02)  # an hour costs 36 and 72


def test_measures_of_a_resumed_learner_span_its_jobs(tmp_path: Path):
    record = learner(tmp_path, "plain", 0, 0.5, seconds_per_image=0.0)  # the last job had no images to make
    columns = f"{SPENT.strip()},waiting_seconds,learning_seconds\n"
    (tmp_path / record.folder / "spent.csv").write_text(f"{columns}90,2000,1000,50,90,2,0.5,8,80\n")
    measures = results_of(tmp_path, [record], prices=PRICED.prices).learners[0].measures
    assert (measures["wall_seconds"], measures["waiting_fraction"]) == (90, 0.1)
    assert measures["num_images"] == 1000
    assert measures.keys().isdisjoint({"generation_device_seconds", "device_seconds_per_image", "cost"})


def test_comparisons_are_corrected_together(tmp_path: Path, records: list[LearnerRecord]):
    found = {(each.arm, each.measure): each for each in results_of(tmp_path, records).comparisons}
    assert list(found) == [
        (arm, measure) for arm in ("slow", "weak") for measure in ("top1/digits", "top1/digits/noisy")
    ]
    slow, weak = found["slow", "top1/digits"], found["weak", "top1/digits"]
    # gains 0.10, 0.11, 0.12: t is 0.11 / 0.005774 = 19.05, p 1 - 19.05 / sqrt(19.05^2 + 2) = 0.00274
    assert slow.test.p_value == pytest.approx(0.00274, abs=1e-5)
    # gains -0.200, -0.199, -0.198: t is -344.7, p 8.4e-6: the smallest of four with its half
    assert weak.corrected_p == pytest.approx(4 * 8.417e-6, rel=1e-3)
    assert slow.corrected_p == pytest.approx(2 * 0.00274, abs=1e-5)
    assert (slow.verdict, weak.verdict) == ("better", "worse")


def test_seeds_that_one_arm_lacks_are_left_out_of_its_test(tmp_path: Path, records: list[LearnerRecord]):
    found = results_of(tmp_path, [*records[1:3], *records[3:6]], pairs=[("slow", "plain")]).comparisons
    assert [each.test.num_pairs for each in found] == [2, 2]


def test_arms_rank_at_equal_images_and_at_equal_device_seconds(tmp_path: Path, records: list[LearnerRecord]):
    found = results_of(tmp_path, records)
    at_images, by_images = found.ranking("num_images")
    assert (at_images, list(by_images)) == (1000, ["slow", "plain", "weak"])
    at_seconds, by_seconds = found.ranking("generation_device_seconds")
    assert (at_seconds, list(by_seconds)) == (10, ["plain", "weak"])  # slow spent 20, and has no checkpoints evaluated


def test_accuracy_at_a_budget_is_read_between_evaluated_checkpoints(tmp_path: Path):
    record = learner(tmp_path, "plain", 0, 0.5)
    (tmp_path / record.folder / "curve").mkdir()
    rows = "num_trained,num_generated,set,top1\n1000,500,digits,0.3\n1000,500,digits/noisy,0.1\n2000,1000,digits,0.5\n"
    (tmp_path / record.folder / "curve" / "accuracy.csv").write_text(rows)
    real = results_of(tmp_path, [record]).learners[0].real
    assert [point["top1"] for point in real] == [0.3, 0.5]
    assert accuracy_at(real, "num_images", 750) == pytest.approx(0.4)
    assert accuracy_at(real, "num_images", 1040) == 0.5
    assert accuracy_at(real, "num_images", 100) != accuracy_at(real, "num_images", 100)  # NaN: before the first


def test_front_is_of_means(tmp_path: Path, records: list[LearnerRecord]):
    points, front = results_of(tmp_path, records).front
    assert points["slow"] == pytest.approx((0.02, 0.63))
    assert front == ["plain", "slow"]


def test_curve_is_the_mean_over_seeds_with_its_range():
    (point,) = mean_curve([[{"num_trained": 10, "top1": 0.2}], [{"num_trained": 20, "top1": 0.4}, {"top1": 0.5}]])
    assert point["num_trained"] == 15
    assert point["top1"] == pytest.approx(0.3)
    assert point["top1_interval"] == (0.2, 0.4)


def test_all_files_are_written(tmp_path: Path, records: list[LearnerRecord]):
    failed = LearnerRecord("weak", 3, "weak/seed-3", "failed")
    for _ in range(2):  # again after a resume
        write_experiment(tmp_path, PRICED, [*records, failed])
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("pareto", "top1_over_num_images", "top1_over_num_trained", "top1_over_generation_device_seconds")
    assert figures == {f"{name}.{suffix}" for name in names for suffix in ("svg", "pdf")}
    assert (tmp_path / "figures" / "pareto.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["top1/digits"] for row in rows][:3] == ["0.5", "0.52", "0.54"]
    assert (rows[-1]["status"], rows[-1]["top1/digits"]) == ("failed", "")
    with (tmp_path / "arms.csv").open() as file:
        plain = next(csv.DictReader(file))
    # deviation 0.02, standard error 0.011547, t 4.303
    ends = [float(plain[f"top1/digits{end}"]) for end in ("", "_lo", "_hi")]
    assert ends == pytest.approx([0.52, 0.52 - 0.04969, 0.52 + 0.04969], abs=1e-5)
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["learners"]) == 10
    assert content["pareto_front"] == ["plain", "slow"]
    assert content["comparisons"][0]["verdict"] == "better"


def test_page_says_what_the_experiment_found(tmp_path: Path, records: list[LearnerRecord]):
    stopped = LearnerRecord("plain", 3, "plain/seed-3", "stopped early")
    write_experiment(tmp_path, PRICED, [*records, stopped])
    page = (tmp_path / "report.html").read_text()
    text = text_of(page)
    assert (
        "9 of 10 learners finished. Left out of means, intervals and tests: 1, plain with seed 3 (stopped early)."
        in text
    )
    assert "plain 3 52.00% [47.03, 56.97]" in text
    assert "slow - plain digits 3 +11.00 [8.52, 13.48] 0.0027 0.0055 better" in text
    assert "1 63.00% [55.55, 70.45] -" in text
    assert "On the front: plain; slow." in text
    assert "Overrides: name=slow" in text
    assert page.count("<svg") == 4
    assert page.count('<a href="slow/seed-1/report.html">seed 1</a> finished') == 1
    assert page.count("data:image/png;base64") == 3
    assert re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")https?://', page) == []


def test_single_seed_is_not_tested(tmp_path: Path):
    write_experiment(tmp_path, JobConfig(), [learner(tmp_path, "a", 0, 0.5), learner(tmp_path, "b", 0, 0.75)])
    text = text_of((tmp_path / "report.html").read_text())
    assert "There is one seed: means have no interval, and nothing is tested." in text
    assert "b - a digits 1 +25.00 - - -" in text
    assert "a 1 50.00% 25.00%" in text


def test_experiment_of_which_nothing_finished_has_a_page(tmp_path: Path):
    write_experiment(tmp_path, JobConfig(), [LearnerRecord("a", 0, "a/seed-0", "failed")])
    assert "0 of 1 learners finished." in text_of((tmp_path / "report.html").read_text())


def test_arms_without_real_images_or_generators_have_a_page(tmp_path: Path):
    record = learner(tmp_path, "a", 0, 0.5, seconds_per_image=0.0, num_images=0)
    (tmp_path / record.folder / "evaluation" / "evaluation.json").unlink()
    write_experiment(tmp_path, JobConfig(), [record])
    text = text_of((tmp_path / "report.html").read_text())
    assert "nothing is tested" in text
    assert "No arm has both generators and an accuracy on real images." in text


def test_texts_are_escaped(tmp_path: Path):
    records = [learner(tmp_path, HOSTILE, seed, 0.5 + seed / 10) for seed in (0, 1)]
    write_experiment(tmp_path, JobConfig(output=HOSTILE), records)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count("<img") == page.count('<img alt="Samples of') == 1
