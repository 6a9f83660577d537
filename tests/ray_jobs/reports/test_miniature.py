"""The committed page of the grid matches its committed results."""

import json
from pathlib import Path

import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.reports.findings import Cell
from ray_jobs.reports.miniature import markdown, write_plots

FOLDER = PROJECT_ROOT / "docs" / "miniature"
RESULTS = json.loads((FOLDER / "results.json").read_text())
CELLS = [Cell(**each) for each in RESULTS["cells"]]
PLOTS = ["clean.svg", "untaught.svg", "taught.svg"]


def test_committed_page_follows_from_committed_results():
    assert (FOLDER / "README.md").read_text() == markdown(CELLS, RESULTS["circumstances"], PLOTS)


def test_each_kind_of_sets_has_a_plot(tmp_path: Path):
    assert write_plots(tmp_path, CELLS) == PLOTS
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PLOTS)
    assert sorted(path.name for path in FOLDER.glob("*.svg")) == sorted(PLOTS)


def test_page_separates_taught_and_untaught_shifts():
    page = (FOLDER / "README.md").read_text()
    first = CELLS[0].top1  # inverted, backgrounds, noisy; blurred, rotated, thinned
    assert CELLS[0].over("taught") == pytest.approx((first["digits/inverted"] + 0.340741 + 0.620370) / 3, abs=1e-5)
    assert CELLS[0].over("untaught") == pytest.approx((0.666667 + 0.835185 + 0.744444) / 3, abs=1e-5)
    assert "| 94.6 / 74.9 / 37.8 |" in page
