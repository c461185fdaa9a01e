"""Figures: what is drawn, what is written, and that it is written the same way twice."""

import dataclasses
import doctest
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.reports import drawing, figures, meta_figures, statistics
from experiments.reports.meta_gradients import gradient_panels

LABELS = [
    "adam",
    "adamo",
    "lion:learning_rate=0.0003",
    "open@breakout",
    "optim4rl@runs/x/meta_params.safetensors",
    "muon:learning_rate=0.01,momentum=0.95,nesterov=True",
    "rmsprop",
    "velo",
]


def curve(label: str = "adam", seeds: int = 5, last_step: int = 10_000_000) -> figures.Curve:
    steps = np.arange(1, 13) * (last_step // 12)
    returns = np.random.default_rng(len(label)).normal(size=(seeds, 12)).cumsum(axis=1)
    return figures.Curve(label, steps, returns)


def panels(count: int, optimizers: int) -> list[figures.Panel]:
    curves = [curve(label) for label in LABELS[:optimizers]]
    return [figures.Panel(f"Task {i}", curves, reference=3.5) for i in range(count)]


def legend_labels(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_more_curves_than_can_be_read_make_several_panels_with_the_same_axis() -> None:
    several = [figures.Curve(str(i), np.array([1, 2]), np.full((1, 2), 10.0 * i)) for i in range(9)]
    panel = figures.Panel("Task", several, changes=[1], stationary=several[-1:])
    axes = figures.learning_curves([panel, figures.Panel("Other", several[:7])]).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["Task (1 of 2)", "Task (2 of 2)", "Other"]
    assert axes[0].get_ylim() == axes[1].get_ylim() != axes[2].get_ylim()
    lines = [[line for line in ax.get_lines() if len(set(line.get_xdata())) > 1] for ax in axes]
    assert [len(drawn) for drawn in lines] == [5, 4 + 1, 7]  # one without changes


def test_curves_are_the_iqm_with_its_bootstrap_band() -> None:
    one = curve()
    (ax,) = figures.learning_curves([figures.Panel("Task", [one])], repetitions=300).axes
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), one.steps)
    np.testing.assert_array_equal(line.get_ydata(), statistics.iqm(one.returns[:, None]))
    (band,) = ax.collections
    low, high = statistics.stratified_bootstrap(one.returns[:, None], statistics.iqm, 300)
    (path,) = band.get_paths()
    for step, bottom, top in zip(one.steps, low, high, strict=True):
        at_step = path.vertices[path.vertices[:, 0] == step, 1]
        assert at_step.min() == bottom
        assert at_step.max() == top


def test_one_seed_has_a_line_and_no_band() -> None:
    (ax,) = figures.learning_curves([figures.Panel("Task", [curve(seeds=1)])]).axes
    assert len(ax.get_lines()) == 1
    assert not ax.collections


@pytest.mark.parametrize(
    ("last_step", "label"),
    [
        (600, "Environment steps"),
        (524_288, "Environment steps (thousands)"),
        (10_000_000, "Environment steps (millions)"),
        (3_000_000_000, "Environment steps (billions)"),
    ],
)
def test_steps_have_sensible_units(last_step: int, label: str) -> None:
    one = figures.Curve("adam", np.array([last_step // 2, last_step]), np.ones((2, 2)))
    (ax,) = figures.learning_curves([figures.Panel("Task", [one])]).axes
    assert ax.get_xlabel() == label
    ticks = [ax.xaxis.get_major_formatter()(step, 0) for step in ax.get_xticks()]
    assert max(map(len, ticks)) <= 5


def test_panels_share_labels_where_units_agree() -> None:
    axes = figures.learning_curves(panels(5, 1)).axes
    assert [bool(ax.get_xlabel()) for ax in axes] == [False, False, True, True, True]
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, False, True, False]
    mixed = [*panels(3, 1), figures.Panel("Short", [curve(last_step=1200)])]
    axes = figures.learning_curves(mixed).axes
    assert all(ax.get_xlabel() for ax in axes)


def test_an_optimizer_looks_the_same_in_every_panel_and_different_from_all_others() -> None:
    first = figures.Panel("A", [curve(label) for label in LABELS])
    second = figures.Panel("B", [curve(label) for label in reversed(LABELS)])
    ax, other = figures.learning_curves([first, second]).axes
    looks = [(to_hex(line.get_color()), line.get_linestyle()) for line in ax.get_lines()]
    assert (
        looks
        == [(to_hex(line.get_color()), line.get_linestyle()) for line in other.get_lines()][::-1]
    )
    assert len(set(looks)) == len(LABELS)
    assert len({colour for colour, _ in looks}) == 7
    assert looks[0][1] == "-"
    assert looks[7][1] != "-"


def test_reference_is_drawn_and_named() -> None:
    (ax,) = figures.learning_curves([figures.Panel("Task", [curve()], reference=50.08)]).axes
    assert [line.get_ydata() for line in ax.get_lines()][-1] == [50.08, 50.08]
    assert [text.get_text() for text in ax.texts] == ["published Adam: 50.08"]
    assert ax.get_ylim()[1] > 50.08


def test_changes_are_vertical_lines_and_what_does_not_change_is_dashed() -> None:
    there = figures.Panel("Task", [curve("adam"), curve("lion")], changes=range(2, 10, 4))
    there = dataclasses.replace(there, stationary=[curve("lion", last_step=500)])
    figure = figures.learning_curves([there, there])
    (ax, _) = figure.axes
    adam, lion, still, *changes = ax.get_lines()
    assert [list(line.get_xdata()) for line in changes] == [[2, 2], [6, 6]]
    assert max(line.get_linewidth() for line in changes) < adam.get_linewidth() / 2
    assert still.get_color() == lion.get_color() != adam.get_color()
    assert (lion.get_linestyle(), still.get_linestyle()) == ("-", "--")
    assert still.get_xdata()[-1] == 500 // 12 * 12
    assert len(ax.collections) == 2  # no band of what does not change
    assert legend_labels(figure) == ["adam", "lion", "without changes"]
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert box.x1 <= figure.bbox.x1 + 1
        assert not any(box.shrunk(0.98, 0.98).overlaps(other) for other in boxes[i + 1 :])


def test_only_what_does_not_change_is_dashed() -> None:
    curves = [curve(label) for label in LABELS]
    there = figures.Panel("Task", curves, changes=[5], stationary=curves)
    (ax,) = figures.learning_curves([there]).axes
    dashes = [line._unscaled_dash_pattern[1] for line in ax.get_lines()]
    assert dashes[:7] == [None] * 7
    assert list(dashes[7]) == [1, 1]  # its colour was taken: dotted
    assert {tuple(dash) for dash in dashes[8:16]} == {(3.7, 1.6)}  # Matplotlib's dashes


def test_legend_names_every_optimizer_once() -> None:
    labels = legend_labels(figures.learning_curves(panels(4, 8)))
    assert [re.sub(r"\n\s*", "", label) for label in labels] == LABELS
    assert max(len(line) for label in labels for line in label.split("\n")) <= 32


@pytest.mark.parametrize(("count", "optimizers"), [(1, 3), (2, 8), (4, 8), (5, 3)])
def test_nothing_is_clipped_or_overlaps(count: int, optimizers: int) -> None:
    figure = figures.learning_curves(panels(count, optimizers))
    figure.draw_without_rendering()
    canvas = figure.bbox
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert box.x0 >= canvas.x0 - 1
        assert box.y0 >= canvas.y0 - 1
        assert box.x1 <= canvas.x1 + 1
        assert box.y1 <= canvas.y1 + 1
        assert not any(box.shrunk(0.98, 0.98).overlaps(other) for other in boxes[i + 1 :])


def test_profiles_are_those_of_the_statistics() -> None:
    rng = np.random.default_rng(0)
    scores = {"adam": rng.normal(0.7, 0.2, (5, 3)), "adamo": rng.normal(0.9, 0.2, (4, 3))}
    figure = figures.performance_profiles(scores)
    (ax,) = figure.axes
    for line, array in zip(ax.get_lines(), scores.values(), strict=True):
        thresholds = line.get_xdata()
        profile = statistics.performance_profile(array, thresholds)
        np.testing.assert_array_equal(line.get_ydata(), profile)
        assert profile[-1] == 0
    assert len(ax.collections) == 2
    assert legend_labels(figure) == ["adam", "adamo"]


@pytest.mark.parametrize(
    ("scores", "ends"),
    [([0.02, 0.2], (0.0, 0.21)), ([0.5, 2.0], (0.0, 2.1)), ([-1.0, 1.0], (-1.0, 1.1))],
)
def test_the_axis_of_profiles_is_as_long_as_the_scores(
    scores: list[float], ends: tuple[float, float]
) -> None:
    (ax,) = figures.performance_profiles({"adam": np.array(scores)}).axes
    assert ax.get_xlim() == pytest.approx(ends)


def test_profiles_where_all_score_nothing() -> None:
    (ax,) = figures.performance_profiles({"adam": np.zeros(3)}).axes
    assert ax.get_xlim() == pytest.approx((0.0, 0.05))


def test_lines_are_told_apart_in_grey() -> None:
    """By a marker or a line style of their own, with no two markers at one place."""
    (ax,) = figures.learning_curves([figures.Panel("A", [curve(label) for label in LABELS])]).axes
    looks = [(line.get_marker(), line.get_linestyle()) for line in ax.get_lines()]
    assert len(set(looks)) == len(LABELS)
    long = [curve(label) for label in LABELS[:7]]
    long = [dataclasses.replace(c, steps=np.arange(1, 61), returns=np.ones((1, 60))) for c in long]
    (ax,) = figures.learning_curves([figures.Panel("A", long)]).axes
    every = [line.get_markevery() for line in ax.get_lines()]
    assert len({start for start, _ in every}) == 7
    few = figures.Curve("adam", np.array([5]), np.ones((1, 1)))
    (ax,) = figures.learning_curves([figures.Panel("A", [few])]).axes
    assert ax.get_lines()[0].get_markevery() is None  # its one point is seen


def test_profiles_of_many_optimizers_have_no_bands() -> None:
    scores = {label: np.random.default_rng(0).normal(size=(3, 2)) for label in LABELS}
    (ax,) = figures.performance_profiles(scores).axes
    assert len(ax.get_lines()) == len(LABELS)
    assert not ax.collections


def test_images_are_whole_and_the_same_each_time() -> None:
    png, svg, pdf = (
        figures.render(figures.learning_curves(panels(2, 3)), kind)
        for kind in ("png", "svg", "pdf")
    )
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    inches = figures.learning_curves(panels(2, 3)).get_size_inches()
    assert (width, height) == tuple(int(300 * inch) for inch in inches)
    text = svg.decode()
    assert text.rstrip().endswith("</svg>")
    for label in (*LABELS[:3], "Task 0", "Task 1", "Episode return"):
        assert f">{label}</text>" in text
    assert "<dc:date>" not in text
    again = figures.learning_curves(panels(2, 3))
    assert figures.render(again, "svg") == svg
    assert figures.render(again, "png") == png
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    assert b"/Type3" not in pdf  # fonts that publishers refuse
    assert figures.render(again, "pdf") == pdf


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"panels must each hold at least one curve, got \[\]"):
        figures.learning_curves([])
    with pytest.raises(ValueError, match=r"at least one curve, got \[1, 0\]"):
        figures.learning_curves([*panels(1, 1), figures.Panel("Empty", [])])
    with pytest.raises(ValueError, match="scores must be finite"):
        figures.learning_curves(
            [figures.Panel("Task", [figures.Curve("x", np.arange(2), np.full((1, 2), np.nan))])]
        )
    with pytest.raises(ValueError, match="scores must name at least one optimizer"):
        figures.performance_profiles({})
    with pytest.raises(ValueError, match="kind must be 'png', 'svg' or 'pdf', got 'jpg'"):
        figures.render(Figure(), "jpg")


def test_doctests() -> None:
    for module in (figures, meta_figures, drawing):
        results = doctest.testmod(module)
        assert results.attempted > 0
        assert results.failed == 0


# Meta-gradients


def test_panels_of_meta_gradients_are_medians_of_stretches(tmp_path: Path) -> None:
    """What is infinite or missing leaves a gap; earlier versions logged nothing to draw."""
    config = {"optimizer": "open", "tasks": {"0": {"environment": "Catch"}, "1": {}}}
    for name, header in (
        ("new", "generation,gradient_snr,task_cosine_mean"),
        ("old", "generation"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        snr = [1.0, 2.0, 9.0] * 50 + [math.inf] * 150
        rows = [f"{i},{x},nan" if name == "new" else str(i) for i, x in enumerate(snr)]
        (tmp_path / name / "meta_metrics.csv").write_text("\n".join([header, *rows, ""]))
    signal, cosine = gradient_panels([tmp_path / name for name in ("old", "new", "")])
    assert (signal.title, signal.measure) == ("open on 2 tasks", "Signal to noise")
    assert signal.iterations.tolist() == [3 * i + 1 for i in range(100)]
    assert signal.values.tolist() == [2.0] * 50 + [math.inf] * 50
    assert np.isnan(cosine.values).all()
    figure = meta_figures.meta_gradients([signal, cosine])
    drawn = figure.axes[0].get_lines()[0].get_ydata()
    assert np.isfinite(drawn).tolist() == [True] * 50 + [False] * 50
    (tmp_path / "new" / "meta_metrics.csv").write_text("generation,gradient_snr\n0,x\n")
    with pytest.raises(ValueError, match=r"new/meta_metrics\.csv or its config\.json is damaged"):
        gradient_panels([tmp_path / "new"])
