"""What a sweep found: its numbers worked out by hand, or by NumPy."""

import csv
import doctest
import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from rich.console import Console
from written_runs import Cell, flat, load, write_run

from experiments.reports import heat_maps, statistics, sweep
from experiments.reports.summary import estimate


def by_hand(scores: np.ndarray, floor: float | None) -> float:
    """The share, from its definition."""
    known = scores[~np.isnan(scores)]
    lowest = known.min() if floor is None else floor
    least = known.max() - 0.1 * (known.max() - lowest)
    return sum(score >= least for score in known) / len(scores)


@pytest.mark.parametrize("floor", [None, -3.0, 0.0])
def test_share_is_as_defined_for_returns_of_any_sign(floor: float | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.normal(rng.normal(), 1.0, size=rng.integers(2, 40))
        scores[1:][rng.random(len(scores) - 1) < 0.1] = np.nan
        assert sweep.within(scores, floor).mean() == by_hand(scores, floor)


def test_share_does_not_change_with_scale_and_shift() -> None:
    scores = np.array([-100.0, -20.0, -11.0, -10.0])
    assert sweep.within(scores).tolist() == [False, False, True, True]
    for moved in (scores + 1000.0, 7.0 * scores, 0.01 * scores - 5.0):
        assert sweep.within(moved).tolist() == [False, False, True, True]


def test_share_where_there_is_no_range() -> None:
    assert sweep.within([3.0, 3.0]).all()
    assert not sweep.within([np.nan, np.nan]).any()
    assert sweep.within([1.0, np.nan]).tolist() == [True, False]
    assert not sweep.within([1.0, 2.0], floor=5.0).any()  # nothing is above the floor


def test_a_floor_of_zero_is_nine_tenths_of_the_best() -> None:
    scores = np.array([50.0, 89.0, 91.0, 100.0])
    assert sweep.within(scores, 0.0).tolist() == (scores >= 0.9 * scores.max()).tolist()


def test_a_run_up_to_a_point_is_the_run_that_ended_there(tmp_path: Path) -> None:
    long: list[list[Cell]] = [
        [(1.0, 5, 0), (2.0, 5, 0), (4.0, 5, 0), (8.0, 5, 0)],
        [(1.0, 5, 0), (3.0, 5, 0), (-9.0, 5, 1), (0.0, 5, 1)],
    ]
    whole = load(write_run(tmp_path / "long", long))
    short = load(write_run(tmp_path / "short", [row[:2] for row in long]))
    cut = sweep.up_to(whole, 200)
    for name in ("steps", "returns", "episodes", "diverged_from"):
        assert getattr(cut, name).tolist() == getattr(short, name).tolist()
    assert sweep.score_of(cut) == sweep.score_of(short) == 2.5
    assert sweep.score_of(whole) == (8.0 - 9.0) / 2
    assert not cut.diverged.any()


def test_what_changes_in_phases_is_scored_at_their_ends(tmp_path: Path) -> None:
    # Phases of ten points; the last 5 % of 2100 steps are just after a change.
    rising: list[Cell] = [(float(value), 5, 0) for value in (*range(10), *range(10, 20), 0)]
    changing = {"phase_steps": 1000, "env_options": {"flip": True}, "environment": "CartPole-v1"}
    run = load(write_run(tmp_path / "changing", [rising], **changing))
    still = load(write_run(tmp_path / "still", [rising]))
    assert sweep.score_of(run) == (9.0 + 19.0) / 2
    assert sweep.score_of(still) == 0.0
    assert sweep.score_of(sweep.up_to(run, 900)) == 8.0  # no phase is over yet
    swept = sweep.Sweep(
        "adam",
        {"eps": ["1", "2"]},
        [sweep.Tried((eps,), "adam", run, run) for eps in "12"],
        (2100,),
    )
    sweep.write_sweep(swept, tmp_path, None)
    assert "in the last 10% of a phase, averaged over phases" in (tmp_path / "sweep.md").read_text()
    row, *_ = csv.DictReader((tmp_path / "sweep.csv").open())
    assert float(row["score"]) == 14.0


def found(tmp_path: Path, scores: list[list[float]], axes: dict[str, list[str]]) -> sweep.Sweep:
    """A sweep whose settings have these final returns of their seeds."""
    names = [(a, b) for a in axes["learning_rate"] for b in axes.get("eps", [""])]
    tried = []
    for values, returns in zip(names, scores, strict=True):
        path = write_run(tmp_path / "-".join(values), flat(*returns))
        run = load(path)
        tried.append(sweep.Tried(values[: len(axes)], f"adam:{values}", run, run))
    return sweep.Sweep("adam on Catch", axes, tried, (400,))


GRID = {"learning_rate": ["1e-4", "1e-3", "1e-2"], "eps": ["1e-8", "1e-5"]}
SCORES = [[0.0, 2.0], [3.0, 5.0], [18.0, 22.0], [19.0, 18.0], [5.0, 5.0], [-10.0, 0.0]]


def test_files_and_words(tmp_path: Path) -> None:
    one = found(tmp_path, SCORES, GRID)
    out = tmp_path / "out"
    names = {path.name for path in sweep.write_sweep(one, out, "rl-optim train again")}
    assert names == {"sweep.csv", "sweep.md", "sweep.png", "sweep.svg", "sweep.pdf"}
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [1.0, 4.0, 20.0, 18.5, 5.0, -5.0]
    assert [row["within_10_percent"] for row in rows] == ["0", "0", "1", "1", "0", "0"]
    assert [row["best"] for row in rows] == ["0", "0", "1", "0", "0", "0"]
    assert [(row["learning_rate"], row["eps"]) for row in rows][2] == ("1e-3", "1e-8")
    assert rows[2]["run_directory"] == "../1e-3-1e-8"
    _, low, high = estimate((np.array([18.0, 22.0]),), statistics.mean)
    assert (float(rows[2]["score_low"]), float(rows[2]["score_high"])) == (low, high)
    text = (out / "sweep.md").read_text()
    assert "Share of settings within 10 % of the best: 0.33 (2 of 6)." in text
    assert "| **20.00** |" in text
    assert "too high by luck" in text
    assert "rl-optim train again" in text
    assert "$s_j \\ge s^* - 0.1 (s^* - f)$" in text
    again = {path: path.read_bytes() for path in out.iterdir()}
    sweep.write_sweep(one, out, "rl-optim train again")
    assert {path: path.read_bytes() for path in out.iterdir()} == again
    console = Console(width=80, file=io.StringIO(), record=True)
    sweep.print_sweep(one, console)
    assert "0.33 (2 of 6)" in console.export_text()


def test_the_best_at_an_edge_is_noted(tmp_path: Path) -> None:
    edge = found(tmp_path, [[1.0], [2.0], [3.0]], {"learning_rate": ["1e-4", "1e-3", "1e-2"]})
    best, highest = sweep.notes(edge)
    assert "highest learning_rate" in highest
    assert "with 3.00. It was selected" in best  # one seed has no interval
    assert "# Sweep: adam on Catch, 400 steps, 1 seed\n" in sweep._markdown(edge, None)


def test_without_a_score_there_is_no_best(tmp_path: Path) -> None:
    cells: list[list[Cell]] = [[("", 0, 0)] * 3]
    run = load(write_run(tmp_path / "run", cells))
    axes = {"learning_rate": ["1", "2"]}
    tried = [sweep.Tried((value,), "adam", run, run) for value in axes["learning_rate"]]
    nothing = sweep.Sweep("adam on Catch", axes, tried, (300,))
    assert nothing.best is None
    assert "No setting has a score" in sweep.notes(nothing)[0]
    assert len(sweep.write_sweep(nothing, tmp_path / "out", None)) == 5


def scores_of(values: dict[str, list[str]], scores: list[float], best: int) -> heat_maps.GridScores:
    array = np.array(scores)
    return heat_maps.GridScores(
        axes=values,
        scores=array,
        low=array - 1,
        high=array + 1,
        diverged=np.array([2, *[0] * (len(scores) - 1)]),
        within=sweep.within(array),
        best=best,
        threshold=0.9 * max(scores),
        title="adam on Catch",
    )


def test_heat_maps_have_a_panel_for_each_of_the_first_keys() -> None:
    axes = {"clip": ["0.1", "0.2"], "learning_rate": ["1", "2", "3"], "eps": ["8", "9"]}
    figure = heat_maps.sweep_figure(scores_of(axes, [float(i) for i in range(12)], 11))
    panels = figure.axes[:2]
    assert [ax.get_title(loc="left") for ax in panels] == ["clip=0.1", "clip=0.2"]
    assert [ax.get_xlabel() for ax in panels] == ["eps", "eps"]
    assert [ax.get_ylabel() for ax in panels] == ["learning_rate", "learning_rate"]
    assert np.asarray(panels[1].images[0].get_array()).tolist() == [[6, 7], [8, 9], [10, 11]]
    assert {ax.images[0].norm.vmax for ax in panels} == {11.0}
    cells = [text for ax in panels for text in ax.texts]
    assert [text.get_text() for text in cells][:3] == ["0.00\n2 div.", "1.00", "2.00"]
    assert [t.get_text() for t in cells if t.get_fontweight() == "bold"] == ["11.00"]
    framed = [p.get_xy() for ax in panels for p in ax.patches if isinstance(p, Rectangle)]
    assert len(framed) == 2  # 10 and 11 of 0 to 11


def test_one_key_is_a_line_with_a_band() -> None:
    figure = heat_maps.sweep_figure(scores_of({"lr": ["1", "100", "10"]}, [1.0, 2.0, 9.0], 2))
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    assert ax.get_lines()[0].get_xdata().tolist() == [1.0, 10.0, 100.0]
    assert ax.get_lines()[0].get_ydata().tolist() == [1.0, 9.0, 2.0]
    assert len(ax.collections) == 1
    words = {t.get_text(): t.get_fontweight() for t in ax.texts}
    assert words["9.00"] == "bold"
    assert words["2 diverged"] == "normal"
    words_only = heat_maps.sweep_figure(scores_of({"f": ["relu", "tanh"]}, [1.0, 2.0], 1)).axes[0]
    assert [label.get_text() for label in words_only.get_xticklabels()] == ["relu", "tanh"]


@pytest.mark.parametrize("module", [sweep, heat_maps])
def test_doctests(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
