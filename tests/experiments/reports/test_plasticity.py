"""What is drawn of runs with diagnostics, from files written by hand."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from written_runs import flat, write_run

from agents.diagnostics import MEASURES
from experiments.reports import drawing, figures, online, plasticity, statistics
from experiments.runs import reading

VALUES = {  # of two diagnosed points for each of three seeds
    0: (0.1, 0.5),
    1: (0.2, 0.3),
    2: (0.6, 0.1),
}


def write_diagnosed(
    directory: Path, empty: tuple[tuple[int, int], ...] = (), **changes: object
) -> Path:
    """Writes four points of three seeds, the second and the fourth diagnosed.

    Args:
        directory: the run's.
        empty: (seed, diagnosed point) that could not be computed.
        changes: to `config.json`.
    """
    write_run(directory, flat(1.0, 2.0, 3.0), diagnostics_every=2, **changes)
    metrics = directory / "metrics.csv"
    head, *lines = metrics.read_text().splitlines()
    written = [",".join([head, *MEASURES])]
    for line in lines:
        point, _, seed, *_ = line.split(",")
        at = (int(seed), int(point) // 2)
        is_known = int(point) % 2 and at not in empty
        cells = [str(VALUES[at[0]][at[1]] + i) if is_known else "" for i in range(len(MEASURES))]
        written.append(",".join([line, *cells]))
    metrics.write_text("".join(f"{line}\n" for line in written))
    return directory


def test_every_measure_has_a_title() -> None:
    assert tuple(plasticity.TITLES) == MEASURES
    assert len(set(plasticity.TITLES.values())) == len(MEASURES)


def test_panels_hold_the_diagnosed_points_of_the_runs_that_have_some(tmp_path: Path) -> None:
    write_diagnosed(tmp_path / "a")
    write_diagnosed(tmp_path / "b", optimizer="adamo")
    write_run(tmp_path / "c", flat(1.0, 2.0), optimizer="lion")
    write_run(tmp_path / "d", flat(1.0, 2.0), environment="Catch")
    write_diagnosed(tmp_path / "e", environment="ant", backend="spring")
    found = plasticity.panels_by_task(reading.load_runs([tmp_path]))
    assert list(found) == ["Breakout-MinAtar", "ant (spring)"]
    panels = found["Breakout-MinAtar"]
    assert [panel.title for panel in panels] == list(plasticity.TITLES.values())
    for i, panel in enumerate(panels):
        assert [curve.label for curve in panel.curves] == ["adam", "adamo"]
        for curve in panel.curves:
            assert curve.steps.tolist() == [200, 400]
            np.testing.assert_allclose(curve.returns, np.array(list(VALUES.values())) + i)


def test_a_measure_without_values_has_no_panel(tmp_path: Path) -> None:
    everything = tuple((seed, point) for seed in VALUES for point in range(2))
    write_diagnosed(tmp_path / "a", empty=everything)
    assert plasticity.panels_by_task(reading.load_runs([tmp_path])) == {}
    (tmp_path / "b").mkdir()
    write_run(tmp_path / "b" / "run", flat(1.0), diagnostics_every=2)
    (tmp_path / "b" / "run" / "metrics.csv").write_text("")  # it has only begun
    assert plasticity.panels_by_task(reading.load_runs([tmp_path / "b"])) == {}


def test_pooled_seeds_are_drawn_together(tmp_path: Path) -> None:
    """A run of an earlier version, which says nothing of diagnostics, goes with one without."""
    write_diagnosed(tmp_path / "a")
    write_diagnosed(tmp_path / "b", seeds=[0, 1, 2])
    metrics = tmp_path / "b" / "metrics.csv"
    config = tmp_path / "b" / "config.json"
    config.write_text(config.read_text().replace("[0, 1, 2]", "[5, 6, 7]"))
    head, *lines = metrics.read_text().splitlines()
    changed = [line.split(",") for line in lines]
    for cells in changed:
        cells[2] = str(int(cells[2]) + 5)
    metrics.write_text("".join(f"{line}\n" for line in [head, *map(",".join, changed)]))
    (run,) = reading.load_runs([tmp_path])
    assert run.config["seeds"] == [0, 1, 2, 5, 6, 7]
    panels = plasticity.panels_by_task([run])["Breakout-MinAtar"]
    np.testing.assert_allclose(panels[0].curves[0].returns, [*VALUES.values()] * 2)
    write_run(tmp_path / "old" / "a", flat(1.0))
    write_run(tmp_path / "old" / "b", [flat(2.0)[0]], seeds=[3], diagnostics_every=None)
    (run,) = reading.load_runs([tmp_path / "old"])
    assert run.config["seeds"] == [0, 3]


def test_curves_are_means_with_bands_over_the_seeds_that_have_values(tmp_path: Path) -> None:
    write_diagnosed(tmp_path / "a", empty=((1, 1), (2, 1)))
    write_diagnosed(tmp_path / "b", optimizer="adamo")
    panels = plasticity.panels_by_task(reading.load_runs([tmp_path]))
    figure = figures.measures(panels, repetitions=300)
    assert len(figure.axes) == len(MEASURES)
    ax = figure.axes[0]
    gap, whole = ax.get_lines()
    np.testing.assert_allclose(gap.get_ydata(), [0.3, 0.5])  # the latter is one seed's
    np.testing.assert_allclose(whole.get_ydata(), [0.3, 0.3])
    scores = np.array(list(VALUES.values()))[:, None]
    low, high = statistics.stratified_bootstrap(scores, statistics.mean, 300)
    (vertices,) = (path.vertices for path in ax.collections[1].get_paths())
    for step, bottom, top in zip((200, 400), low, high, strict=True):
        at_step = vertices[vertices[:, 0] == step, 1]
        np.testing.assert_allclose((at_step.min(), at_step.max()), (bottom, top))
    for ax in figure.axes:
        assert [to_hex(line.get_color()) for line in ax.get_lines()] == [
            colour.lower() for colour in drawing.COLOURS[:2]
        ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["adam", "adamo"]


def test_what_spans_powers_of_ten_has_a_logarithmic_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_diagnosed(tmp_path / "run")
    runs = reading.load_runs([tmp_path])
    assert not any(
        panel.logarithmic for panel in plasticity.panels_by_task(runs)["Breakout-MinAtar"]
    )
    wide = np.array([[np.nan, 1e-3, np.nan, 2.0]] * 3)
    monkeypatch.setattr(plasticity, "read_metric", lambda run, column: wide)
    panels = plasticity.panels_by_task(runs)
    assert all(panel.logarithmic for panel in panels["Breakout-MinAtar"])
    assert {ax.get_yscale() for ax in figures.measures(panels).axes} == {"log"}


def test_nothing_is_clipped_or_overlaps(tmp_path: Path) -> None:
    for i, environment in enumerate(("Breakout-MinAtar", "Catch")):
        for name in ("adam", "lion:learning_rate=0.0003", "open@breakout"):
            write_diagnosed(tmp_path / f"{i}{name}", environment=environment, optimizer=name)
    figure = figures.measures(plasticity.panels_by_task(reading.load_runs([tmp_path])))
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert box.x0 >= figure.bbox.x0 - 1
        assert box.y0 >= figure.bbox.y0 - 1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
        assert not any(box.shrunk(0.98, 0.98).overlaps(other) for other in boxes[i + 1 :])


def test_report_has_the_figure_where_a_run_was_diagnosed(tmp_path: Path) -> None:
    write_diagnosed(tmp_path / "with" / "a")
    write_run(tmp_path / "without" / "a", flat(1.0, 2.0))
    names = {}
    for kind in ("with", "without"):
        runs = reading.load_runs([tmp_path / kind])
        written = online.write_report(runs, tmp_path / f"out {kind}")
        names[kind] = {path.name for path in written}
        text = (tmp_path / f"out {kind}" / "summary.md").read_text()
        assert ("![Measures of plasticity](plasticity.png)" in text) == (kind == "with")
        assert (plasticity.RULE in text) == (kind == "with")
    assert names["with"] - names["without"] == {
        "plasticity.png",
        "plasticity.svg",
        "plasticity.pdf",
    }
    out = tmp_path / "out with"
    assert (out / "plasticity.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    drawn = (out / "plasticity.svg").read_text()
    for title in ("Actor: dormant share", "Critic: effective rank", "Breakout-MinAtar"):
        assert f">{title}</text>" in drawn
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    online.write_report(reading.load_runs([tmp_path / "with"]), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_no_panels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tasks must each hold a panel, got \[\]"):
        figures.measures({})
    with pytest.raises(ValueError, match=r"tasks must each hold a panel, got \[0\]"):
        figures.measures({"Catch": []})
