"""Reports of small run directories, their numbers worked out by hand."""

import csv
import doctest
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments.reports import online, statistics, summary, tables
from experiments.runs import reading

HEADER = "point,step,seed,episode_return,episodes,episode_length,diverged,loss\n"
Cell = tuple[float | str, int, int]  # episode return, episodes, diverged


def write_run(
    directory: Path,
    cells: Sequence[Sequence[Cell]],
    *,
    evaluation: Sequence[float | str] | None = None,
    seconds: Sequence[float] | None = None,
    stretch: int = 100,
    **config: Any,
) -> Path:
    """Writes a run; `cells[seed][point]` is what metrics.csv says there."""
    points = len(cells[0])
    settings = {
        "format": 1,
        "environment": "Breakout-MinAtar",
        "backend": None,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "steps": points * stretch,
        "seeds": list(range(len(cells))),
        "iterations": points,
        "algorithm": "ppo",
        "settings": {},
        "normaliser": None,
        "versions": {"jax": "1.2.3"},
        "git_revision": "abc1234",
        "machine": {"device": "cpu"},
    } | config
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(settings))
    lines = [HEADER]
    for point in range(points):
        for seed, row in zip(settings["seeds"], cells, strict=True):
            value, episodes, diverged = row[point]
            step = (point + 1) * stretch
            lines.append(f"{point},{step},{seed},{value},{episodes},9.5,{diverged},0.1\n")
    (directory / "metrics.csv").write_text("".join(lines))
    if evaluation is not None:
        rows = (f"{s},{v},32,9.5\n" for s, v in zip(settings["seeds"], evaluation, strict=True))
        head = "seed,episode_return,episodes,episode_length\n"
        (directory / "evaluation.csv").write_text(head + "".join(rows))
    if seconds is not None:
        rows = (f"{point},{value}\n" for point, value in enumerate(seconds))
        (directory / "timing.csv").write_text("point,seconds\n" + "".join(rows))
    return directory


def flat(*values: float, points: int = 4) -> list[list[Cell]]:
    """Seeds that score the same value all along."""
    return [[(value, 10, 0)] * points for value in values]


def load(directory: Path) -> reading.Run:
    (run,) = reading.load_runs([directory])
    return run


def printed(rows: Sequence[summary.Row], width: int = 80, **kwargs: Any) -> str:
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    online.print_rows(rows, console, **kwargs)
    return console.export_text(styles=True)


# Rules


def test_final_return_weighs_the_episodes_of_the_last_twentieth(tmp_path: Path) -> None:
    early = [(100.0, 50, 0)] * 38
    cells = [
        [*early, (1.0, 10, 0), (2.0, 30, 0)],
        [*early, (2.0, 1, 0), (5.0, 3, 0)],
        [*early, (5.0, 3, 0), ("", 0, 0)],
        [*early, ("", 0, 0), ("", 0, 0)],
    ]
    run = load(write_run(tmp_path / "run", cells))
    # 10 episodes of 1, 30 of 2; one of 2, three of 5; three of 5; none, so the last value before.
    np.testing.assert_allclose(run.final_returns(), [1.75, 4.25, 5.0, 100.0])
    (row,) = summary.summarise([run])
    assert row.final_return_mean == pytest.approx((1.75 + 4.25 + 5 + 100) / 4)
    assert row.final_return_iqm == pytest.approx(4.625)


def test_final_return_of_few_points_is_the_last_points(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "run", [[(1.0, 5, 0), (2.0, 5, 0), (4.0, 5, 0)]]))
    assert run.final_returns().tolist() == [4.0]


def test_gaps_are_carried_forward_and_the_first_value_back(tmp_path: Path) -> None:
    gap = ("", 0, 0)
    cells = [
        [gap, gap, (3.0, 1, 0), gap, (5.0, 1, 0), gap],
        [(1.0, 1, 0), gap, gap, (2.0, 1, 0), ("nan", 0, 0), gap],
    ]
    run = load(write_run(tmp_path / "run", cells))
    assert run.curves().tolist() == [[3, 3, 3, 3, 5, 5], [1, 1, 1, 2, 2, 2]]
    assert not run.diverged.any()
    assert run.mean_returns() == pytest.approx([22 / 6, 9 / 6])


def test_auc_weighs_stretches_by_their_length(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", flat(0.0, points=2), steps=400, iterations=4)
    (directory / "metrics.csv").write_text(
        HEADER + "0,100,0,1.0,5,1,0,0\n1,200,0,3.0,5,1,0,0\n2,400,0,6.0,5,1,0,0\n"
    )
    assert load(directory).mean_returns() == pytest.approx([(1 * 100 + 3 * 100 + 6 * 200) / 400])


def test_diverged_seed_scores_the_lowest_logged_return(tmp_path: Path) -> None:
    cells = [
        [(2.0, 4, 0), (3.0, 4, 0), (8.0, 4, 0), (9.0, 4, 0)],
        [(2.0, 4, 0), (7.0, 4, 0), (-1.0, 4, 1), ("nan", 4, 1)],
        [(2.0, 4, 0), ("inf", 4, 0), (50.0, 4, 0), (50.0, 4, 0)],
    ]
    directory = write_run(tmp_path / "run", cells, evaluation=[10.0, 33.0, "nan"])
    run = load(directory)
    assert run.diverged.tolist() == [False, True, True]
    assert run.curves().tolist() == [[2, 3, 8, 9], [2, 7, -1, -1], [2, -1, -1, -1]]
    assert run.final_returns().tolist() == [9, -1, -1]
    assert run.evaluation_returns().tolist() == [10, -1, -1]
    (row,) = summary.summarise([run])
    assert row.diverged_seeds == 2
    assert row.final_return_mean == pytest.approx(7 / 3)
    assert row.evaluation_return_mean == pytest.approx(8 / 3)
    assert row.auc_return_mean == pytest.approx((22 + 7 - 1) / 12)


def test_seed_that_diverges_before_its_first_episode(tmp_path: Path) -> None:
    cells = [[("", 0, 0), ("", 0, 1)], [(4.0, 1, 0), (6.0, 1, 0)]]
    run = load(write_run(tmp_path / "run", cells))
    assert run.curves().tolist() == [[4, 4], [4, 6]]


def test_seed_without_any_episode_leaves_the_returns_unknown(tmp_path: Path) -> None:
    cells = [[("", 0, 0)] * 3, [(4.0, 1, 0)] * 3]
    directory = write_run(tmp_path / "run", cells)
    (row,) = rows = summary.summarise([load(directory)])
    assert np.isnan([row.final_return_mean, row.final_return_iqm, row.auc_return_mean]).all()
    assert "adam on Breakout-MinAtar has seeds that completed no episode" in summary.notes(rows)[0]
    names = {path.name for path in online.write_report([load(directory)], tmp_path / "out")}
    assert names == {"summary.csv", "summary.md"}


def test_row_matches_the_statistics(tmp_path: Path) -> None:
    finals = [1.0, 2.0, 4.0, 8.0, 16.0]
    directory = write_run(
        tmp_path / "run", flat(*finals), evaluation=[2.0] * 5, seconds=[5.0, 6.0, 7.0, 8.0]
    )
    (row,) = summary.summarise([load(directory)])
    assert row.final_return_iqm == statistics.iqm(finals) == pytest.approx(14 / 3)
    low, high = statistics.stratified_bootstrap(finals, statistics.iqm)
    assert (row.final_return_iqm_low, row.final_return_iqm_high) == (low, high)
    low, high = statistics.stratified_bootstrap(finals, statistics.mean)
    assert (row.auc_return_mean_low, row.auc_return_mean_high) == (low, high)
    assert (row.seeds, row.seed_list) == (5, (0, 1, 2, 3, 4))
    assert (row.steps_per_seed, row.planned_steps_per_seed) == (400, 400)
    assert (row.wall_seconds, row.steps_per_second) == (8.0, 5 * 400 / 8)
    assert row.evaluation_return_mean == 2.0
    assert row.finished


# Reading


def test_runs_are_found_at_any_depth_once_in_the_order_given(tmp_path: Path) -> None:
    last = write_run(tmp_path / "z" / "Asterix" / "b", flat(1.0), optimizer="z1")
    write_run(tmp_path / "a" / "Asterix" / "d", flat(1.0), optimizer="a2")
    first = write_run(tmp_path / "a" / "Asterix" / "c", flat(1.0), optimizer="a1")
    write_run(first / "checkpoints" / "inner", flat(1.0), optimizer="below a run")
    (tmp_path / "a" / "started").mkdir()
    (tmp_path / "a" / "started" / "config.json").write_text("{")  # no metrics.csv yet
    again = last.parent / ".." / "Asterix"
    runs = reading.load_runs([tmp_path / "z", str(tmp_path / "a"), last, again, tmp_path])
    assert [run.label for run in runs] == ["z1", "a1", "a2"]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for name in "abc":
        write_run(tmp_path / name, flat(1.0), backend="spring" if name == "c" else None)
    rows = summary.summarise(reading.load_runs([tmp_path]))
    assert [row.optimizer for row in rows] == ["adam", "adam (2)", "adam"]
    (note,) = summary.notes(rows)
    assert note == f"adam (2) on Breakout-MinAtar is the run in {(tmp_path / 'b').as_posix()}."


@pytest.mark.parametrize(("cut", "left"), [(1, 5), (3, 5), (23, 5), (24, 5), (60, 4)])
def test_killed_process_costs_only_the_points_it_had_not_finished(
    tmp_path: Path, cut: int, left: int
) -> None:
    cells = [[(float(point), 5, 0) for point in range(6)]] * 2
    directory = write_run(tmp_path / "run", cells, seconds=np.arange(1.0, 7.0).tolist())
    metrics = directory / "metrics.csv"
    metrics.write_text(metrics.read_text()[:-cut])
    run = load(directory)
    assert run.steps.tolist() == [100, 200, 300, 400, 500, 600][:left]
    assert run.final_returns().tolist() == [left - 1.0] * 2
    assert run.seconds == left
    assert not run.finished
    assert run.planned_points == 6


def test_point_logged_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", flat(1.0, points=3))
    with (directory / "metrics.csv").open("a") as file:
        file.write("1,200,0,5.0,1,1,0,0\r\n2,300,0,6.0,1,1,0,0\r\n")
    assert load(directory).returns.tolist() == [[1.0, 5.0, 6.0]]


@pytest.mark.parametrize("content", ["", "poi", HEADER, HEADER + "0,100,0,1.0,1,1,0,0"])
def test_run_with_nothing_logged_is_reported(tmp_path: Path, content: str) -> None:
    directory = write_run(tmp_path / "a", flat(1.0))
    (directory / "metrics.csv").write_text(content)
    write_run(tmp_path / "b", flat(1.0, 2.0), optimizer="adamo")
    runs = reading.load_runs([tmp_path])
    rows = summary.summarise(runs)
    assert (rows[0].points, rows[0].steps_per_seed, rows[0].finished) == (0, 0, False)
    assert "adam on Breakout-MinAtar is unfinished: nothing is logged yet." in summary.notes(rows)
    assert len(online.write_report(runs, tmp_path / "out")) == 4
    assert "0/?" in printed(rows)


@pytest.mark.parametrize(
    ("steps", "iterations", "stretch", "logged", "planned", "finished"),
    [
        (6400, 64, 100, 64, 64, True),
        (6400, 64, 100, 63, 64, False),
        (6450, 64, 100, 64, 64, True),  # steps are no multiple of an iteration's
        (6450, 64, 100, 12, 64, False),
        (6400, 64, 1000, 6, 7, False),  # ten iterations a point, four in the last
        (6400, 64, 1000, 3, 7, False),
    ],
)
def test_progress(
    tmp_path: Path,
    steps: int,
    iterations: int,
    stretch: int,
    logged: int,
    planned: int,
    finished: bool,
) -> None:
    cells = flat(1.0, points=logged)
    run = load(
        write_run(tmp_path / "run", cells, stretch=stretch, steps=steps, iterations=iterations)
    )
    assert (run.planned_points, run.finished) == (planned, finished)
    (row,) = summary.summarise([run])
    assert summary.notes([row]) == (
        []
        if finished
        else [f"adam on Breakout-MinAtar is unfinished: {logged} of {planned} points."]
    )


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        text = (directory / name).read_text()
        assert old in text
        (directory / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("config.json", "{", "{{"), "config.json is not valid JSON: Expecting property"),
        (replace("config.json", '"format": 1', '"format": 2'), "format must be 1, got 2"),
        (replace("config.json", '"format"', '"x"'), "config.json: format must be 1, got None"),
        (replace("config.json", '"steps": 400', '"steps": 0'), "steps must be a positive whole"),
        (replace("config.json", '"steps"', '"x"'), "config.json: steps is missing; it must be a"),
        (replace("config.json", "[0, 1]", "[0, 0]"), r"seeds must be a list .* got \[0, 0\]"),
        (replace("config.json", "0.01", '"fast"'), "learning_rate must be a number or null, got"),
        (replace("config.json", '"normaliser": null', '"normaliser": 0'), "normaliser must be a"),
        (replace("metrics.csv", "diverged", "x"), "metrics.csv must have the columns diverged"),
        (
            replace("metrics.csv", "0,100,0,1.0", "0,100,0,abc"),
            "metrics.csv line 2: episode_return must be a number, got 'abc'",
        ),
        (
            replace("metrics.csv", "1,200,0", "1,200.5,0"),
            "metrics.csv line 4: step must be a whole number, got '200.5'",
        ),
        (replace("metrics.csv", ",9.5", ""), "metrics.csv line 2 must have 8 cells, got 7"),
        (replace("metrics.csv", "0,100,0", "0,100,7"), r"seed must be one of \[0, 1\], got 7"),
        (
            replace("metrics.csv", "1,200,0,1.0,10,9.5,0,0.1\n", ""),
            r"metrics.csv: point 1 must have a row for each seed in \[0, 1\]",
        ),
        (
            replace("metrics.csv", "2,300,1,2.0,10,9.5,0,0.1\n3,400,0,1.0,10,9.5,0,0.1\n", ""),
            r"metrics.csv: point 2 must have a row for each seed in \[0, 1\]",
        ),
        (replace("metrics.csv", "1,200,0", "1,201,0"), r"step must be the same.*got \[200, 201\]"),
        (replace("timing.csv", "4.0", "soon"), "timing.csv line 5: seconds must be a number"),
        (replace("evaluation.csv", "seed", "x"), "evaluation.csv must have the columns seed"),
    ],
)
def test_broken_files_are_named(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    directory = write_run(
        tmp_path / "run", flat(1.0, 2.0), evaluation=[1, 2], seconds=[1.0, 2.0, 3.0, 4.0]
    )
    change(directory)
    with pytest.raises(ValueError, match=message) as caught:
        reading.load_runs([tmp_path])
    assert str(caught.value).startswith(str(directory))


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"found none below '{tmp_path}'"):
        reading.load_runs([tmp_path])
    with pytest.raises(ValueError, match="found none below no path at all"):
        reading.load_runs([])
    with pytest.raises(ValueError, match=r"paths must be directories, got '.*missing'"):
        reading.load_runs([tmp_path / "missing"])
    with pytest.raises(ValueError, match="runs must hold at least one run, got none"):
        online.write_report([], tmp_path)


# Reports


@pytest.fixture
def suite(tmp_path: Path) -> list[reading.Run]:
    """Three optimizers on two normalised environments, and an environment on its own."""
    scores = {
        ("Breakout-MinAtar", 50.0, "adam:learning_rate=0.01"): [40.0, 50.0, 60.0, 70.0],
        ("Breakout-MinAtar", 50.0, "adamo"): [55.0, 60.0, 65.0, 75.0],
        ("Breakout-MinAtar", 50.0, "lion"): [1.0, 1.0, 1.0, 1.0],
        ("Asterix-MinAtar", 10.0, "adam:learning_rate=0.01"): [8.0, 9.0, 10.0, 11.0],
        ("Asterix-MinAtar", 10.0, "adamo"): [8.0, 12.0, 12.0, 16.0],
        ("Catch", None, "adam:learning_rate=0.01"): [1.0, 0.5],
    }
    for index, ((environment, normaliser, optimizer), values) in enumerate(scores.items()):
        write_run(
            tmp_path / "runs" / f"{index}",
            flat(*values),
            environment=environment,
            normaliser=normaliser,
            optimizer=optimizer,
            stretch=2_500_000,
            seconds=[10.0, 20.0, 30.0, 40.0],
            evaluation=values,
        )
    return reading.load_runs([tmp_path / "runs"])


def test_aggregate_by_hand(suite: list[reading.Run]) -> None:
    adam, adamo = summary.aggregate(suite)  # lion is not on every environment
    assert (adam.optimizer, adamo.optimizer) == ("adam:learning_rate=0.01", "adamo")
    assert adam.environments == ("Breakout-MinAtar", "Asterix-MinAtar")
    assert adam.seeds == 4
    # Adam: .8 .8 | .9 1 1 1.1 | 1.2 1.4; AdamO: .8 1.1 | 1.2 1.2 1.2 1.3 | 1.5 1.6.
    assert adam.normalised_iqm == pytest.approx(1.0)
    assert adamo.normalised_iqm == pytest.approx(1.225)
    assert adam.optimality_gap == pytest.approx(0.5 / 8)
    assert adamo.optimality_gap == pytest.approx(0.2 / 8)
    assert adamo.improvement_over == adam.optimizer
    # Breakout: 55 beats 2, 60 beats 2 and ties, 65 beats 3, 75 all four: 11.5 of 16. Asterix: 8
    # ties once, and the others beat all: 12.5 of 16.
    assert adamo.improvement_probability == pytest.approx(24 / 32)
    assert adamo.improvement_probability_low < 0.75 < adamo.improvement_probability_high
    assert np.isnan(adam.improvement_probability)
    x = np.array([[0.8, 1.0, 1.2, 1.4], [0.8, 0.9, 1.0, 1.1]]).T
    low, high = statistics.stratified_bootstrap(x, statistics.iqm)
    assert (adam.normalised_iqm_low, adam.normalised_iqm_high) == (low, high)


def test_no_aggregate_without_two_normalised_environments(suite: list[reading.Run]) -> None:
    assert summary.aggregate([run for run in suite if run.task[0] != "Asterix-MinAtar"]) == []


def test_aggregate_leaves_out_what_does_not_compare(tmp_path: Path) -> None:
    for environment in ("A", "B"):
        for optimizer in ("adam", "uneven", "unfinished", "silent"):
            odd = environment == "B"
            cells = flat(1.0, 2.0, *([3.0] if odd and optimizer == "uneven" else []))
            if odd and optimizer == "silent":
                cells[0] = [("", 0, 0)] * 4
            steps = 800 if odd and optimizer == "unfinished" else 400
            write_run(
                tmp_path / "runs" / environment / optimizer,
                cells,
                environment=environment,
                optimizer=optimizer,
                normaliser=2.0,
                steps=steps,
                iterations=steps // 100,
            )
    runs = reading.load_runs([tmp_path / "runs"])
    assert [row.optimizer for row in summary.aggregate(runs)] == ["adam"]
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    for note in (
        "uneven is left out of the aggregate: its number of seeds differs between environments.",
        "unfinished is left out of the aggregate: it is unfinished.",
        "silent is left out of the aggregate: seeds of it completed no episode.",
        "Seeds differ on B: adam 0 1; silent 0 1; uneven 0 1 2; unfinished 0 1.",
        "Steps differ on B: adam 400; silent 400; uneven 400; unfinished 800.",
        "unfinished on B is unfinished: 4 of 8 points.",
    ):
        assert f"* {note}\n" in text


def test_report_files(suite: list[reading.Run], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    written = online.write_report(suite, out)
    names = ["aggregate.csv", "curves.png", "curves.svg", "profiles.png", "profiles.svg"]
    assert sorted(path.name for path in written) == [*names, "summary.csv", "summary.md"]
    assert sorted(out.iterdir()) == sorted(written)  # no temporary file is left
    for name in ("curves", "profiles"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert (out / f"{name}.png").stat().st_size > 10_000
        assert ">adam:learning_rate=0.01</text>" in (out / f"{name}.svg").read_text()
    curves = (out / "curves.svg").read_text()
    assert ">Catch</text>" in curves
    assert ">published Adam: 50</text>" in curves


def test_report_is_the_same_each_time(suite: list[reading.Run], tmp_path: Path) -> None:
    first = online.write_report(suite, tmp_path / "first")
    contents = [path.read_bytes() for path in first]
    assert [
        path.read_bytes() for path in online.write_report(suite, tmp_path / "first")
    ] == contents


def test_reference_needs_the_published_steps(tmp_path: Path) -> None:
    write_run(tmp_path / "run", flat(1.0), normaliser=50.0, stretch=2_400_000)
    online.write_report(reading.load_runs([tmp_path]), tmp_path / "out")
    assert "published" not in (tmp_path / "out" / "curves.svg").read_text()


def test_csv(suite: list[reading.Run], tmp_path: Path) -> None:
    online.write_report(suite, tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    first = rows[0]
    assert first["environment"] == "Breakout-MinAtar"
    assert first["backend"] == ""
    assert first["optimizer"] == "adam:learning_rate=0.01"
    assert first["seed_list"] == "0; 1; 2; 3"
    assert first["finished"] == "1"
    assert float(first["final_return_iqm"]) == 55.0
    assert float(first["wall_seconds"]) == 40.0
    assert float(first["steps_per_second"]) == 1_000_000.0
    with (tmp_path / "aggregate.csv").open(newline="") as file:
        adam, adamo = csv.DictReader(file)
    assert adam["environments"] == "Breakout-MinAtar; Asterix-MinAtar"
    assert adam["improvement_probability"] == ""
    assert float(adamo["improvement_probability"]) == 0.75


def test_markdown(suite: list[reading.Run], tmp_path: Path) -> None:
    online.write_report(suite, tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert "## Breakout-MinAtar\n\n10,000,000 steps per seed." in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()[:12] if "| `" in line}
    cells = [cell.strip() for cell in lines["`adamo`"].split("|")[2:-1]]
    assert cells[:6] == ["0.01", "4", "0", "4/4", "63.75", "**62.50**"]
    assert re.fullmatch(r"\[\d\d\.\d\d, \d\d\.\d\d\]", cells[6])
    assert cells[-2:] == ["40", "1M"]
    assert "**" not in lines["`adam:learning_rate=0.01`"]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {tables[0].count("|"), tables[-1].count("|")}
    assert "probability of improvement over `adam:learning_rate=0.01`" in text
    assert "* Versions: jax 1.2.3.\n* Revision: abc1234.\n" in text
    for rule in summary.RULES:
        assert f"* {rule}\n" in text


def test_differing_provenance_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.0))
    write_run(tmp_path / "b", flat(1.0), optimizer="x|y", versions={}, machine={"device": "gpu"})
    online.write_report(reading.load_runs([tmp_path]), tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "* Versions differ between runs: see each config.json.\n" in text
    assert "* Machines differ between runs: their steps per second do not compare.\n" in text
    assert "`x\\|y`" in text


def test_printed_table(suite: list[reading.Run]) -> None:
    rows = summary.summarise(suite)
    plain = printed(rows, aggregates=summary.aggregate(suite))
    text = re.sub(r"\x1b\[[0-9;]*m", "", plain)
    assert max(map(len, text.splitlines())) <= 80
    assert "Breakout-MinAtar, 10,000,000 steps" in text
    assert "2 environments, returns normalised" in text
    bold = re.findall(r"\x1b\[1m\s*([\d.]+)\x1b", plain)
    assert bold[:3] == ["62.50", "12.00", "0.750"]
    assert float(bold[3]) == pytest.approx(1.225, abs=0.0051)
    assert "Div." not in text
    assert "Points" not in text
    assert "…" not in text


def test_printed_table_with_long_names_and_large_numbers(tmp_path: Path) -> None:
    name = "optim4rl@runs/x/meta_params.safetensors:learning_rate=0.001,clip=0.5"
    cells = [[(value, 3, int(value < 0))] * 4 for value in (-2345.6, 6517.2, 5500.0)]
    write_run(
        tmp_path / "a",
        cells,
        optimizer=name,
        learning_rate=0.0003,
        environment="ant",
        backend="spring",
        steps=100_000_000,
        iterations=1_000_000,
        seconds=[1.0, 2.0, 3.0, 4.0],
        evaluation=[1.0, 6000.0, 5000.0],
    )
    rows = summary.summarise(reading.load_runs([tmp_path]))
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(rows))
    assert "ant (spring), 100,000,000 steps" in text
    assert "…" not in text
    for part in ("[-2346, 6517]", "0.0003", "4/1000000", "300", "Div."):
        assert part in text


def test_unfinished_runs_are_never_the_best(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.5))
    write_run(tmp_path / "b", flat(9.5), optimizer="lead", steps=1000, iterations=10)
    write_run(tmp_path / "c", flat(1.5), optimizer="level", steps=1000, iterations=10)
    text = printed(summary.summarise(reading.load_runs([tmp_path])))
    assert re.findall(r"\x1b\[1m\s*([\d.]+)\x1b", text) == ["1.50"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(850.4, "850"), (1234.0, "1.23k"), (999.7, "1k"), (229_463.0, "229k"), (2.5e6, "2.5M")],
)
def test_thousands(value: float, text: str) -> None:
    assert tables.thousands(value) == text


@pytest.mark.parametrize("module", [reading, summary])
def test_doctests(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_reports_need_no_jax() -> None:
    script = "import sys, experiments.reports.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
