"""The page of an experiment: self-contained, without scripts. Results and figures in, HTML out."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from matplotlib.figure import Figure

from evaluation.metrics.paired import paired_test
from evaluation.pages.html import details, html_table, page, percent, points, section
from evaluation.pages.plots import svg
from ray_jobs.cli.config import JobConfig, to_yaml
from ray_jobs.reports.experiment_results import (
    BUDGETS,
    NEAR_FRACTION,
    LearnerRecord,
    Results,
    curve_kind,
    differences,
    interval_of,
)
from ray_jobs.reports.run_page import PAGE_STYLE

COLUMNS = {
    "held_out_top1": ("top-1 on held-out samples", "%"),
    "num_images": ("images generated", ",.0f"),
    "num_trained": ("images trained on", ",.0f"),
    "generation_device_seconds": ("generator device-seconds", ",.1f"),
    "device_seconds_per_image": ("generator device-seconds per image", ",.4g"),
    "training_device_seconds": ("training device-seconds", ",.1f"),
    "waiting_fraction": ("waiting for images", "%"),
    "time_to_first_batch_seconds": ("first batch after, s", ",.1f"),
    "wall_seconds": ("whole run, s", ",.1f"),
    "cost": ("cost", ",.4f"),
}
"""Titles and number formats of measures; all others are accuracies on real images."""

STYLE = f"""{PAGE_STYLE}
.sheets {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.sheets figure {{ margin: 0; }}
.sheets img {{ width: 34rem; max-width: 92vw; height: auto; }}
"""
FRONT = (
    "<p>On the front: {}. No other arm is as accurate for fewer device-seconds per image, or more accurate for as "
    "many. By means over seeds; bars are Student's 95% intervals.</p>"
)
UNTESTED = "There is one seed: means have no interval, and nothing is tested. Add seeds to the config."


def experiment_page(
    run_dir: Path,
    config: JobConfig,
    facts: Mapping[str, str],
    results: Results,
    records: Sequence[LearnerRecord],
    figures: Mapping[str, Figure],
) -> str:
    """Return the page."""
    drawn = {name: svg(figure) for name, figure in figures.items()}
    pareto = drawn.pop("pareto", "")
    parts = [
        f"<p>{escape('; '.join(f'{name} {value}' for name, value in facts.items()))}.</p>",
        f"<p><b>{escape(state(records))}</b></p>",
        section("Arms", arms_table(results, config.prices.currency)),
        section("Comparisons", comparison_table(results)),
        section("Leaderboard", leaderboard(results)),
        section("Pareto plot", pareto + FRONT.format(escape("; ".join(results.front[1])))) if pareto else "",
        section("Accuracy over what was spent", "".join(drawn.values()) + curves_note(results)) if drawn else "",
        section("Samples and their prompts", sheets(run_dir, records)),
        section("Learners", learner_list(run_dir, records)),
        details("Settings of the experiment", f"<pre>{escape(to_yaml(config))}</pre>"),
    ]
    return page(run_dir.name, "\n".join(part for part in parts if part), STYLE)


def state(records: Sequence[LearnerRecord]) -> str:
    """Return in a sentence how many learners finished, and which are left out."""
    others = [f"{each.arm} with seed {each.seed} ({each.status})" for each in records if each.status != "finished"]
    left_out = f" Left out of means, intervals and tests: {len(others)}, {'; '.join(others)}." if others else ""
    seeds = " " + UNTESTED if len({each.seed for each in records}) == 1 else ""
    return f"{len(records) - len(others)} of {len(records)} learners finished.{left_out}{seeds}"


def title_of(measure: str) -> str:
    """Return a measure's title in tables."""
    kind, _, name = measure.partition("/")
    return COLUMNS[measure][0] if measure in COLUMNS else f"{name}, transfer" if kind == "transfer" else name


def cell(measure: str, values: Sequence[float]) -> str:
    """Return the mean of a measure, and its interval on a second line unless all values are equal."""
    if not values:
        return "-"
    how, mean = COLUMNS.get(measure, ("", "%"))[1], fmean(values)
    interval = interval_of(measure, values) if max(values) > min(values) else None
    if how == "%":
        return percent(mean, interval)
    ends = ",\N{NO-BREAK SPACE}".join(format(end, how) for end in interval or ())
    return f"{mean:{how}}" + (f"\n[{ends}]" if ends else "")


def arms_table(results: Results, currency: str) -> str:
    """Return a table with a row per arm and a column per measure."""
    titles = [f"{title_of(name)}, {currency}" if name == "cost" else title_of(name) for name in results.measures]
    rows = [
        [arm, f"{len(results.of_arm(arm))}"]
        + [cell(name, list(results.by_seed(arm, name).values())) for name in results.measures]
        for arm in results.arms
    ]
    note = (
        "<p>Means over seeds with Student's 95% interval. Accuracies are top-1 on real images, unless they are on "
        "held-out samples, which an arm's own recipe generates. Device-seconds of generators are those of their work "
        "on this arm's images, without waiting; those of training workers include waiting.</p>"
    )
    return html_table(["arm", "seeds", *titles], rows) + note


def comparison_table(results: Results) -> str:
    """Return a table of the paired tests."""
    rows = [
        [f"{each.arm} - {each.other}", title_of(each.measure), f"{each.test.num_pairs}"]
        + [points(each.test.difference, each.test.interval)]
        + ["-" if p is None else f"{p:.2g}" for p in (each.test.p_value, each.corrected_p)]
        + [each.verdict]
        for each in results.comparisons
    ]
    if not rows:
        return "<p>No two arms to compare have a seed in common on real images: nothing is tested.</p>"
    num = sum(each.corrected_p is not None for each in results.comparisons)
    note = (
        "<p>In percentage points of top-1 on real images, paired by seed, with Student's 95% interval. p is of the "
        f"paired t test; Holm's correction is for all {num} tests of this table. Better and worse: the corrected p is "
        "below 0.05. Not told apart does not mean equal: fewer comparisons or more seeds tell more apart. Intervals "
        "are not corrected; seeds that all differ by the same have none.</p>"
    )
    head = ["arms", "real images", "seeds", "difference", "p", "corrected p", "the first is"]
    return html_table(head, rows) + (note if num else f"<p>{UNTESTED}</p>")


def leaderboard(results: Results) -> str:
    """Return a table of arms ranked by top-1 on the first real set, at equal images and at equal device-seconds."""
    rankings = {title: results.ranking(budget) for budget, title in BUDGETS.items()}
    arms = list(dict.fromkeys(arm for _, top1 in rankings.values() for arm in top1))
    if not arms:
        return "<p>No arm has both generators and an accuracy on real images.</p>"
    costs = [name for name in ("device_seconds_per_image", "cost") if name in results.measures]
    heads = [["rank", f"top-1 at {at:,.4g} {title}", "behind the first, points"] for title, (at, _) in rankings.items()]
    rows = [
        [arm, *(text for _, top1 in rankings.values() for text in ranked_cells(arm, top1))]
        + [cell(name, list(results.by_seed(arm, name).values())) for name in costs]
        for arm in arms
    ]
    note = (
        f"<p>By mean top-1 on {escape(title_of(results.accuracies[0]))}, at what every learner has spent. An accuracy "
        "before a run's end is read between its evaluated checkpoints (<code>evaluation.every_images</code>, then "
        "<code>figment evaluate</code>); there the learning rate is not at its end. Without them, arms are ranked that "
        f"spent within {NEAR_FRACTION:.0%} of it. Intervals are paired by seed and not corrected.</p>"
    )
    return html_table(["arm", *chain(*heads), *map(title_of, costs)], rows) + note


def ranked_cells(arm: str, top1: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return an arm's rank, top-1, and difference to the first; `-` if it is not ranked."""
    if arm not in top1:
        return ["-"] * 3
    place, best = list(top1).index(arm), next(iter(top1.values()))
    gains = differences(top1[arm], best) if place else []
    behind = points(fmean(gains), paired_test(gains).interval) if gains else "-"
    return [f"{place + 1}", cell("top1", list(top1[arm].values())), behind]


def curves_note(results: Results) -> str:
    """Return what the curves show."""
    is_real = curve_kind(results) == "real"
    shown = (
        "real images, of the runs' checkpoints" if is_real else "held-out samples, which an arm's own recipe generates"
    )
    return f"<p>Top-1 on {shown}. Means over seeds; bars reach from the lowest seed to the highest.</p>"


def sheets(run_dir: Path, records: Sequence[LearnerRecord]) -> str:
    """Return each distinct samples.png, named by the arms that have it."""
    paths: dict[str, Path] = {}
    for record in records:
        if (path := run_dir / record.folder / "samples.png").is_file():
            paths.setdefault(record.arm, path)
    arms: dict[bytes, list[str]] = {}
    for arm, path in paths.items():
        arms.setdefault(path.read_bytes(), []).append(arm)
    figures = (
        f'<figure><figcaption>{escape("; ".join(names))}</figcaption><img alt="Samples of {escape(names[0])}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for png, names in arms.items()
    )
    return f'<div class="sheets">{"".join(figures)}</div>' if arms else "<p>None.</p>"


def learner_list(run_dir: Path, records: Sequence[LearnerRecord]) -> str:
    """Return each arm's overrides, and its learners' states with links to their pages."""
    found = []
    for arm in dict.fromkeys(record.arm for record in records):
        of_arm = [record for record in records if record.arm == arm]
        overrides = escape(" ".join(of_arm[0].overrides)) or "none"
        links = ", ".join(f"{learner_link(run_dir, record)} {record.status}" for record in of_arm)
        found.append(f"<h3>{escape(arm)}</h3>\n<p>Overrides: <code>{overrides}</code><br>{links}</p>")
    return "\n".join(found)


def learner_link(run_dir: Path, record: LearnerRecord) -> str:
    """Return a learner's seed, with a link to its page if it has one."""
    path, text = f"{record.folder}/report.html", f"seed {record.seed}"
    return f'<a href="{quote(path)}">{text}</a>' if (run_dir / path).is_file() else text
