"""Data of an evaluation's figures, and their SVG."""

import re
import warnings

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from evaluation.pages import plots
from evaluation.pages.plots import (
    confusion_counts,
    growth_figure,
    interval_bars,
    robustness_figure,
    scaled_by_maximum,
    svg,
)

CATS_AND_DOGS = [
    {"label": 0, "class_name": "cat", "num_images": 4, "num_top1": 3, "top1": 0.75, "top1_interval": [0.5, 0.9]},
    {"label": 1, "class_name": "fox", "num_images": 0, "num_top1": 0, "top1": None, "top1_interval": None},
    {"label": 2, "class_name": "dog", "num_images": 2, "num_top1": 2, "top1": 1.0, "top1_interval": [0.8, 1.0]},
]


def classes(num: int) -> list[dict]:
    """Class `i` of `num` has `i` of `num` images correct."""
    return [
        {"label": i, "class_name": f"class {i}", "num_images": num, "num_top1": i, "top1": i / num} for i in range(num)
    ]


def trained_on(num_images: int, top1: float, **others: object) -> dict:
    taught = {"trained_on": "generated", "guidance_scale": [2.0], "templates": ["{}"], "augmentation": "crops"}
    model = {"num_images": num_images, "architecture": "resnet18", "label_space": "digits", **taught}
    return {"model": model | others, "sets": {"digits": {"top1": top1}}}


def joined(models: dict[str, dict]) -> list[list[list[float]]]:
    """Return the numbers of images and top-1 of each gray line with more than one model."""
    lines = growth_figure(models, ["digits"]).axes[0].lines
    data = [[[*np.asarray(x)], [*np.asarray(y)]] for x, y in (line.get_data() for line in lines)]
    return [line for line in data if len(line[0]) > 1]


def tick_names(figure: Figure, panel: int = 0) -> list[str]:
    return [tick.get_text() for tick in figure.axes[panel].get_yticklabels()]


def test_measures_are_scaled_by_the_largest_of_all_models():
    scaled, largest = scaled_by_maximum(np.array([[0.5, 300.0, 0.0], [0.25, 400.0, 0.0]]))
    np.testing.assert_allclose(scaled, [[1, 0.75, 0], [0.5, 1, 0]])
    np.testing.assert_allclose(largest, [0.5, 400, 0])


def test_unmeasured_model_does_not_change_the_scale():
    scaled, largest = scaled_by_maximum(np.array([[0.5], [np.nan]]))
    np.testing.assert_allclose(scaled, [[1], [np.nan]])
    np.testing.assert_allclose(largest, [0.5])


def test_radar_shows_axis_limits_and_measured_models():
    measured = {"sparsity": 0.5, "intra_class_distance": 0.8, "feature_redundancy": 0.1, "coding_length": 412.3}
    drawn = svg(plots.spider_figure({"mine": measured, "yours": None}))
    for words in ("sparsity", "0 to 0.5", "0 to 0.8", "0 to 0.1", "0 to 412.3", "mine"):
        assert f">{words}</" in drawn
    assert "yours" not in drawn


def test_interval_bars_reach_from_the_value_to_the_ends():
    bars = interval_bars([{"top1": 0.75, "top1_interval": [0.5, 0.875]}, {"top1": 0.5, "top1_interval": None}])
    np.testing.assert_allclose(bars, [[0.25, 0], [0.125, 0]])


def test_interval_bars_are_not_negative():
    assert interval_bars([{"top1": 1.0, "top1_interval": [0.9, 1.0 - 1e-16]}])[1] == 0


def test_single_model_has_its_first_set_as_reference():
    sets = {"digits": {"top1": 0.9, "top1_interval": [0.8, 0.95]}, "digits/noisy": {"top1": 0.4}}
    axes = robustness_figure({"": sets}, list(sets)).axes[0]
    assert [0.9, 0.9] in [list(np.asarray(line.get_ydata())) for line in axes.lines]
    (drawn,) = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    ends = [segment[:, 1].tolist() for segment in drawn.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.8, 0.95], [0.4, 0.4]])


HITS = [{"label": 0, "predicted": 0, "num_images": 3}, {"label": 2, "predicted": 2, "num_images": 2}]


def test_confusion_matrix_omits_classes_that_do_not_occur():
    counts = confusion_counts(CATS_AND_DOGS, [*HITS, {"label": 0, "predicted": 2, "num_images": 1}])
    np.testing.assert_array_equal(counts, [[3, 1], [0, 2]])


def test_other_accepted_label_is_off_the_diagonal():
    both_accepted = [CATS_AND_DOGS[0] | {"num_top1": 4, "top1": 1.0}, *CATS_AND_DOGS[1:]]
    counts = confusion_counts(both_accepted, [*HITS, {"label": 0, "predicted": 2, "num_images": 1}])
    np.testing.assert_array_equal(counts, [[3, 1], [0, 2]])


def test_predicted_class_without_images_is_in_the_matrix():
    counts = confusion_counts(CATS_AND_DOGS, [*HITS, {"label": 0, "predicted": 1, "num_images": 1}])
    np.testing.assert_array_equal(counts, [[3, 1, 0], [0, 0, 0], [0, 0, 2]])


def test_unnamed_class_is_named_by_its_label():
    confused = plots.confused_classes(CATS_AND_DOGS, [{"label": 0, "predicted": 9, "num_images": 1}])
    assert [row["class_name"] for row in confused.values()] == ["cat", "dog", "label 9"]


def test_classes_are_sorted_best_first():
    assert tick_names(plots.class_figure(CATS_AND_DOGS)) == ["dog", "cat"]


def test_25_worst_and_best_of_many_classes_are_drawn():
    figure = plots.class_figure(classes(101))
    assert tick_names(figure, 0) == [f"class {i}" for i in range(25)]
    assert tick_names(figure, 1) == [f"class {i}" for i in range(100, 75, -1)]


def test_hundred_classes_are_all_drawn():
    assert len(tick_names(plots.class_figure(classes(100)))) == 100


def test_similar_models_are_joined_by_number_of_images():
    models = {"c": trained_on(4000, 0.9), "a": trained_on(1000, 0.5)}
    assert joined(models) == [[[1000, 4000], [0.5, 0.9]]]


@pytest.mark.parametrize(
    "other",
    [
        {"trained_on": "real"},
        {"architecture": "resnet50"},
        {"label_space": "imagenet100"},
        {"augmentation": "none"},
        {"guidance_scale": [1.0]},
        {"templates": ["a {}"]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_different_models_are_not_joined(other: dict[str, object]):
    assert joined({"a": trained_on(1000, 0.5), "b": trained_on(4000, 0.9, **other)}) == []


def test_models_trained_on_real_images_are_joined_despite_recipes():
    models = {
        "a": trained_on(1000, 0.5, trained_on="real"),
        "b": trained_on(4000, 0.9, trained_on="real", guidance_scale=[1.0], templates=["a {}"]),
    }
    assert joined(models) == [[[1000, 4000], [0.5, 0.9]]]


def test_model_without_training_images_is_omitted():
    assert "borrowed" not in svg(
        growth_figure({"borrowed": trained_on(0, 0.9), "own": trained_on(10, 0.5)}, ["digits"])
    )


def test_svg_is_deterministic_and_self_contained():
    sets = {"digits": {"top1": 0.9, "top1_interval": [0.8, 0.95]}}
    first, second = (svg(robustness_figure({"": sets}, ["digits"])) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    assert "<metadata" not in first
    tags = "".join(re.findall(r"<[^>]*>", first))
    places = re.findall(r'(?:href|src)="([^"]*)"', tags) + re.findall(r"url\(([^)]*)\)", tags)
    assert places
    ids = re.findall(r' id="([^"]*)"', tags)
    assert {place.removeprefix("#") for place in places} <= set(ids)
    assert "//" not in re.sub(r' xmlns(:\w+)?="[^"]*"', "", tags)
    assert "@import" not in first


def test_figures_share_no_ids():
    pages = [svg(plots.class_figure(classes(num))) for num in (2, 3)]
    ids = [{part.split('"')[0] for part in page.split(' id="')[1:]} for page in pages]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("name", ["$x$ & <b>", r"$\frac", "_hidden", "--> ]]>", 'x id="y"', "url(#a)", "手書き数字"])
def test_names_are_drawn_literally(name: str):
    figure = robustness_figure({name: {"s": {"top1": 0.5}}, "b": {"s": {"top1": 0.4}}}, ["s"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = svg(figure)
    assert f">{name.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}</text>" in drawn


def test_warnings_not_about_glyphs_reach_the_caller():
    class TooSmall(Figure):
        def savefig(self, *args, **kwargs):
            warnings.warn("the page is too small", UserWarning, stacklevel=2)
            super().savefig(*args, **kwargs)

    with pytest.warns(UserWarning, match="too small"):
        svg(TooSmall())


def test_long_name_is_shortened_in_the_middle():
    assert plots.label("a\n b" + 40 * "c" + " (2)", 8) == "a bc…(2)"
    assert plots.label("eight on", 8) == "eight on"
