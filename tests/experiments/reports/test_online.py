"""Reports of small run directories, their numbers worked out by hand."""

import csv
import doctest
import io
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
from safetensors.numpy import save_file
from written_runs import HEADER, flat, load, write_run

from experiments.reports import aggregate, latex, online, statistics, summary, tables
from experiments.runs import reading


def printed(rows: Sequence[summary.Row], width: int = 80, **kwargs: Any) -> str:
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    online.print_rows(rows, console, **kwargs)
    return console.export_text(styles=True)


def plain(rows: Sequence[summary.Row], **kwargs: Any) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", printed(rows, **kwargs))


def bold(text: str) -> list[str]:
    return re.findall(r"\x1b\[1m\s*([\d.-]+)\x1b", text)


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
    assert names == {"summary.csv", "summary.md", "summary.tex"}


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
    assert len(online.write_report(runs, tmp_path / "out")) == 6
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
        (
            replace("config.json", '"format": 1', '"format": 1, "diagnostics_every": 0'),
            "diagnostics_every must be a positive whole number or null, got 0",
        ),
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


# Tasks, and what differs within one


def test_options_make_a_task_of_their_own(tmp_path: Path) -> None:
    limit = {"max_steps_in_episode": 50, "easy": True}
    write_run(tmp_path / "a", flat(1.0, 1.0), environment="CartPole-v1")
    write_run(tmp_path / "b", flat(9.0, 9.0), environment="CartPole-v1", environment_options=limit)
    ant = {"environment": "ant", "backend": "spring"}
    options = {"backend": "spring", "max_episode_steps": 50}
    write_run(tmp_path / "c", flat(3.0), **ant, environment_options={"backend": "spring"})
    write_run(tmp_path / "d", flat(4.0), **ant, environment_options=options)
    runs = reading.load_runs([tmp_path])
    rows = summary.summarise(runs)
    titles = [
        "CartPole-v1",
        "CartPole-v1:easy=true,max_steps_in_episode=50",
        "ant (spring)",
        "ant:max_episode_steps=50 (spring)",
    ]
    assert [title for title, _ in summary.by_title(rows)] == titles
    assert [row.optimizer for row in rows] == ["adam"] * 4
    assert bold(printed(rows)) == []
    out = tmp_path / "out"
    online.write_report(runs, out)
    text = (out / "summary.md").read_text()
    assert [line for line in text.splitlines() if line[:3] == "## "][:4] == [
        f"## {title}" for title in titles
    ]
    drawn = (out / "curves.svg").read_text()
    assert ">CartPole-v1:easy=true,<" in drawn  # the first line of its title
    with (out / "summary.csv").open(newline="") as file:
        assert [row["environment"] for row in csv.DictReader(file)] == [
            *titles[:2],
            "ant",
            "ant:max_episode_steps=50",
        ]


def test_settings_that_differ_within_a_table_are_named(tmp_path: Path) -> None:
    common = {"annealed": True, "settings": {"clip": 0.2, "widths": [64, 64]}}
    for name in "abc":
        write_run(tmp_path / name, flat(1.0), optimizer=name, learning_rate=ord(name), **common)
    changes = {"annealed": False, "settings": {"clip": 0.3, "widths": [64, 64]}, "new": 1}
    write_run(tmp_path / "d", flat(1.0), optimizer="d", **changes)
    write_run(tmp_path / "e", flat(1.0), optimizer="e", environment="Catch", settings={"clip": 1})
    runs = reading.load_runs([tmp_path])
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    notes = re.findall(r"^\* (On .*)$", text, flags=re.MULTILINE)
    assert notes == [
        "On Breakout-MinAtar, settings.clip is 0.3 for d and 0.2 for all others.",
        "On Breakout-MinAtar, annealed is false for d and true for all others.",
        "On Breakout-MinAtar, new is 1 for d and not recorded for all others.",
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    online.print_report(runs, console)
    assert notes[0] in console.export_text()


def test_namesakes_are_told_apart_by_what_they_stand_for(tmp_path: Path) -> None:
    name = "open@weights"
    write_run(tmp_path / "a", flat(1.0), optimizer=name, weights_sha256="aa", learning_rate=None)
    write_run(tmp_path / "b", flat(1.0), optimizer=name, weights_sha256="bb", learning_rate=None)
    write_run(tmp_path / "c", flat(1.0), weights_sha256="cc")
    runs = reading.load_runs([tmp_path])
    assert summary.setting_notes("Breakout-MinAtar", runs) == [
        f'On Breakout-MinAtar, weights_sha256 is "aa" for {name} and "bb" for {name} (2).'
    ]


def test_what_learned_optimizers_were_trained_on_is_said(tmp_path: Path) -> None:
    for name, tasks in (("a", "Catch-bsuite ant:backend=spring"), ("b", ""), ("c", None)):
        run = write_run(tmp_path / name, flat(1.0), optimizer=name)
        if tasks is not None:
            content = {"x": np.zeros(1, np.float32)}
            save_file(content, run / "weights.safetensors", {"training_tasks": tasks})
    damaged = write_run(tmp_path / "d", flat(1.0), optimizer="d") / "weights.safetensors"
    damaged.write_text("no weights")
    online.write_report(reading.load_runs([tmp_path]), tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    notes = re.findall(r"^\* (.* meta-trained .*)$", text, flags=re.MULTILINE)
    assert notes == ["a was meta-trained on Catch-bsuite, ant:backend=spring."]


def test_arms_are_called_by_their_labels(tmp_path: Path) -> None:
    """Everywhere; what they differ in is said; and each is pooled with its own."""
    for label, clip in (("as usual", 0.2), ("no clip", "inf")):
        arm = {"label": label, "settings": {"clip": clip}}
        for seeds in ([0, 1], [2, 3]):
            write_run(tmp_path / f"{label}{seeds[0]}", flat(1.0, 2.0), seeds=seeds, **arm)
    write_run(tmp_path / "plain", flat(1.0, 2.0), settings={"clip": 0.2})
    runs = reading.load_runs([tmp_path])
    assert [(run.label, run.config["seeds"]) for run in runs] == [
        ("as usual", [0, 1, 2, 3]),
        ("no clip", [0, 1, 2, 3]),
        ("adam", [0, 1]),
    ]
    assert summary.setting_notes("Breakout-MinAtar", runs) == [
        'On Breakout-MinAtar, settings.clip is "inf" for no clip and 0.2 for all others.'
    ]
    online.write_report(runs, tmp_path / "out")
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        names = [row["optimizer"] for row in csv.DictReader(file)]
    assert names == ["as usual", "no clip", "adam"]
    assert "no clip" in (tmp_path / "out" / "curves.svg").read_text()
    assert "no clip" in plain(summary.summarise(runs))
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "* as usual is adam.\n* no clip is adam.\n" in text
    assert r"\texttt{no clip} & 0.01 & 4 &" in (tmp_path / "out" / "summary.tex").read_text()


def test_actions_of_the_evaluation_are_said(tmp_path: Path) -> None:
    cells = flat(1.0, 2.0)
    for name, changes in {"old": {}, "new": {"evaluation_actions": "sampled"}}.items():
        write_run(tmp_path / "a" / name, cells, evaluation=[1, 2], optimizer=name, **changes)
    greedy = {"evaluation": [3, 4], "optimizer": "greedy", "evaluation_actions": "greedy"}
    write_run(tmp_path / "b", cells, **greedy)
    rows = summary.summarise(reading.load_runs([tmp_path / "a"]))
    assert [row.evaluation_actions for row in rows] == ["sampled", "sampled"]
    assert re.search(r" Sampled *\n.* eval\.\n", plain(rows))
    rows = summary.summarise(reading.load_runs([tmp_path / "b"]))
    assert re.search(r" Greedy *\n.* eval\.\n", plain(rows))
    runs = reading.load_runs([tmp_path])
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| AUC 95% | Eval. |" in text
    assert (
        '* On Breakout-MinAtar, evaluation_actions is "greedy" for greedy and "sampled" for all '
        "others.\n" in text
    )


# What is known is shown, and nothing else


def test_an_evaluation_is_shown_where_no_episode_ended_in_training(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [[("", 0, 0)] * 3, [("", 0, 1)] * 3], evaluation=[5.0, 1.0])
    (row,) = rows = summary.summarise([load(tmp_path / "run")])
    assert np.isnan(row.final_return_mean)
    assert row.evaluation_return_mean == 3.0
    text = plain(rows, sentences=summary.notes(rows))
    assert "IQM" not in text  # a column in which nothing is known
    assert "3.00" in text
    assert "returns are unknown, only its evaluation is known." in " ".join(text.split())


def test_no_interval_where_all_seeds_diverged(tmp_path: Path) -> None:
    cells = [[(1.0, 5, 0), (2.0, 5, 1), ("nan", 5, 1)], [(3.0, 5, 0), (4.0, 5, 1), (2.0, 5, 1)]]
    write_run(tmp_path / "all", cells, optimizer="sgd")
    write_run(tmp_path / "one", [cells[0], [(3.0, 5, 0)] * 3], optimizer="adam")
    both, one = rows = summary.summarise(reading.load_runs([tmp_path]))
    assert (both.final_return_iqm, both.diverged_seeds) == (1.0, 2)
    assert np.isnan([both.final_return_iqm_low, both.final_return_iqm_high]).all()
    assert np.isnan([both.auc_return_mean_low, both.auc_return_mean_high]).all()
    assert one.final_return_iqm_low < one.final_return_iqm_high
    assert summary.notes(rows) == [
        "All seeds of sgd on Breakout-MinAtar diverged: it has no intervals."
    ]


def test_probability_of_improvement_is_over_the_first_of_the_table(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.0, 2.0, 3.0, 4.0), optimizer="first")
    write_run(tmp_path / "b", flat(2.5, 2.5, 4.0, 9.0), optimizer="second")
    write_run(tmp_path / "c", flat(9.0, 9.0), optimizer="unfinished", steps=1000, iterations=10)
    write_run(tmp_path / "d", flat(9.0, 9.0, points=2), optimizer="shorter")
    diverged = [[(5.0, 1, 0), (5.0, 1, 0), (5.0, 1, 0), ("nan", 1, 1)]] * 2
    write_run(tmp_path / "e", diverged, optimizer="diverged")
    write_run(tmp_path / "f", flat(1.0), optimizer="alone", environment="Catch")
    runs = reading.load_runs([tmp_path])
    first, second, unfinished, shorter, worst, alone = summary.summarise(runs)
    assert (first.improvement_over, alone.improvement_over) == (None, None)
    assert second.improvement_over == "first"
    # Of 16 pairs: 2, 2, 3 and a half, 4.
    assert second.improvement_probability == pytest.approx(11.5 / 16)
    scores = runs[1].final_returns(), runs[0].final_returns()
    low, high = statistics.stratified_bootstrap(scores, statistics.probability_of_improvement)
    assert (second.improvement_probability_low, second.improvement_probability_high) == (low, high)
    for row in (first, unfinished, shorter, alone):
        assert np.isnan(row.improvement_probability)
    assert worst.improvement_probability == 1.0  # the lowest that was logged is 5
    assert np.isnan(worst.improvement_probability_low)
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    cells = next(line for line in text.splitlines() if line.startswith("| `second`")).split(" | ")
    assert cells[8:10] == ["0.72", f"[{low:.2f}, {high:.2f}]"]
    (row,) = [line for line in text.splitlines() if line.startswith("| `alone`")]
    assert row.count("|") == cells_in_a_row(text, "`second`") - 2


def cells_in_a_row(text: str, name: str) -> int:
    return next(line.count("|") for line in text.splitlines() if line.startswith(f"| {name}"))


# Reports


def test_report_files(suite: list[reading.Run], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    written = online.write_report(suite, out)
    names = {f"{stem}.{kind}" for stem in ("curves", "profiles") for kind in ("png", "svg", "pdf")}
    names |= {"aggregate.csv", "summary.csv", "summary.md", "summary.tex"}
    assert {path.name for path in written} == names
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


@pytest.mark.parametrize(
    ("changes", "stretch", "is_drawn"),
    [
        ({}, 2_500_000, True),
        ({}, 2_400_000, False),
        ({}, 12_500_000, False),
        ({"environment": "ant", "backend": "positional"}, 12_500_000, True),
        ({"environment": "ant", "backend": "positional"}, 2_500_000, False),
        ({"environment": "ant", "backend": "spring"}, 12_500_000, False),
    ],
)
def test_reference_needs_the_published_steps(
    changes: dict[str, str], stretch: int, is_drawn: bool, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", flat(1.0), normaliser=50.0, stretch=stretch, **changes)
    (panel,) = online._panels(reading.load_runs([tmp_path]))
    assert panel.reference == (50.0 if is_drawn else None)


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
    over = "P(better): over `adam:learning_rate=0.01`."
    assert f"## Breakout-MinAtar\n\n10,000,000 steps per seed. {over}\n" in text
    assert "## Catch\n\n10,000,000 steps per seed.\n" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()[:12] if "| `" in line}
    cells = [cell.strip() for cell in lines["`adamo`"].split("|")[2:-1]]
    assert cells[:6] == ["0.01", "4", "0", "4/4", "63.75", "62.50"]
    assert re.fullmatch(r"\[\d\d\.\d\d, \d\d\.\d\d\]", cells[6])
    assert cells[-2:] == ["40", "1M"]
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "probability of improvement over `adam:learning_rate=0.01`" in text
    assert "* Versions: jax 1.2.3.\n* Revision: abc1234.\n" in text
    for rule in summary.RULES:
        assert f"* {rule}\n" in text


def test_latex(suite: list[reading.Run], tmp_path: Path) -> None:
    online.write_report(suite, tmp_path)
    text = (tmp_path / "summary.tex").read_text()
    tabulars = re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL
    )
    assert len(tabulars) == 4  # three tasks and the aggregate
    for columns, body in tabulars:
        rules = re.findall(r"\\(\w+rule)", body)
        assert rules == ["toprule", "midrule", "bottomrule"]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") for line in rows} == {len(columns) - 1}
    breakout = tabulars[0][1]
    heading = (
        r"Optimizer & LR & Seeds & Final IQM & IQM 95\% & P(better) & P 95\% & AUC & Sampled eval."
    )
    assert heading in breakout
    assert r"\texttt{adam:learning\_rate=0.01} & 0.01 & 4 & 55.00 & [" in breakout
    assert "Catch, 10,000,000 steps per seed" in text
    assert text.count(r"\textbf{") == 1  # the aggregate's
    assert r"\textbf{1.22}" in tabulars[-1][1]
    assert r"\includegraphics[width=\linewidth]{curves.pdf}" in text
    assert "nothing is smoothed" in text
    marked = text.replace(latex.HEAD, "").replace(" & ", " ")
    assert not re.search(r"(?<!\\)[_#&%$]", marked)
    assert text.count("{") == text.count("}")


def test_differing_provenance_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.0))
    write_run(tmp_path / "b", flat(1.0), optimizer="x|y", versions={}, machine={"device": "gpu"})
    online.write_report(reading.load_runs([tmp_path]), tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "* Versions differ between runs: see each config.json.\n" in text
    assert "* Machines differ between runs: their steps per second cannot be compared.\n" in text
    assert "`x\\|y`" in text


def test_printed_table(suite: list[reading.Run]) -> None:
    rows = summary.summarise(suite)
    aggregates = aggregate.aggregate(suite)
    text = plain(rows, aggregates=aggregates)
    assert max(map(len, text.splitlines())) <= 80
    assert "Breakout-MinAtar, 10,000,000 steps" in text
    assert "2 tasks, returns normalised" in text
    assert bold(printed(rows, aggregates=aggregates)) == [
        "1.22"
    ]  # the aggregate's: no other interval lies above the second
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
    text = plain(rows)
    assert "ant (spring), 100,000,000 steps" in text
    assert "…" not in text
    for part in ("[-2346, 6517]", "0.0003", "4/1000000", "300", "Div."):
        assert part in text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([9.0, 9.2, 9.4, 9.6], [1.0, 2.0, 3.0, 4.0], ["9.30"]),
        ([1.0, 9.2, 9.4, 9.6], [8.0, 8.1, 8.2, 8.3], []),  # its interval holds 8.15
        ([9.0, 9.2, 9.4, 9.6], [9.0, 9.2, 9.4, 9.6], []),
        ([9.0], [1.0], []),  # no interval
        ([9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], ["9.00"]),
    ],
)
def test_bold_is_what_its_interval_supports(
    first: list[float], second: list[float], expected: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path / "runs" / "a", flat(*second))
    write_run(tmp_path / "runs" / "b", flat(*first), optimizer="first")
    runs = reading.load_runs([tmp_path])
    assert bold(printed(summary.summarise(runs))) == expected
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert re.findall(r"\*\*(.+?)\*\*", text) == expected


def test_a_run_alone_is_not_bold(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.0, 1.0, 2.0, 2.0))
    assert bold(printed(summary.summarise(reading.load_runs([tmp_path])))) == []


def test_unfinished_runs_are_never_the_best(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.5, 1.5))
    write_run(tmp_path / "b", flat(9.5, 9.5), optimizer="lead", steps=1000, iterations=10)
    write_run(tmp_path / "c", flat(1.5, 1.5), optimizer="level", steps=1000, iterations=10)
    write_run(tmp_path / "d", flat(1.0, 1.0), optimizer="behind")
    assert bold(printed(summary.summarise(reading.load_runs([tmp_path])))) == ["1.50"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(850.4, "850"), (1234.0, "1.23k"), (999.7, "1k"), (229_463.0, "229k"), (2.5e6, "2.5M")],
)
def test_thousands(value: float, text: str) -> None:
    assert tables.thousands(value) == text


@pytest.mark.parametrize("module", [aggregate, latex, reading, summary])
def test_doctests(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_reports_need_no_jax() -> None:
    script = "import sys, experiments.reports.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
