"""What a report says on tasks that change, and that it says nothing of them elsewhere."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from written_runs import curves, write_run

from experiments.reports import changing, online, statistics
from experiments.reports.phases import measure
from experiments.reports.report import report
from experiments.runs import reading

PHASE = 2000
TASK = {
    "environment": "CartPole-v1",
    "environment_options": {"flip": True, "phase": PHASE},
    "phase_steps": PHASE,
}
FILES = {"collapse.csv", "phases.csv", "phases.png", "phases.svg", "phases.pdf"}


def phase(start: float, end: float, rise: int = 10) -> list[float]:
    """Twenty points, of which so many go up, the first from the start and the last to the end."""
    return [*np.linspace(start, end, rise), *[end] * (20 - rise)]


def write(directory: Path, *seeds: Any, **changes: Any) -> Path:
    cells = curves(*([value for part in seed for value in part] for seed in seeds))
    return write_run(directory, cells, **TASK | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three phases; one seed of adam is lost in the second."""
    runs = tmp_path / "runs"
    good = [[phase(0, 400 + s), phase(0, 300 + s), phase(0, 250 + s)] for s in range(3)]
    lost = [phase(0, 403), phase(10, 10), phase(10, 10)]
    write(runs / "adam", *good, lost)
    fresh = [[phase(0, 400 + s)] * 3 for s in range(4)]
    write(runs / "fresh", *fresh, settings={"restart": True})
    write(runs / "trac", *fresh, optimizer="trac")
    return runs


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cells_of(text: str, optimizer: str) -> dict[str, str]:
    """The cells of an optimizer's row in the table of a task that changes."""
    lines = text.partition("## Tasks that change")[2].splitlines()
    head = next(line for line in lines if line.startswith("| Optimizer"))
    row = next(line for line in lines if line.startswith(f"| `{optimizer}` |"))
    names, cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, row))
    return dict(zip(names, cells, strict=True))


def printed(runs: list[reading.Run]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    online.print_report(runs, console)
    return console.export_text()


def test_files_and_table(folder: Path, tmp_path: Path) -> None:
    runs = reading.load_runs([folder])
    written = online.write_report(runs, tmp_path / "out")
    assert {path.name for path in written} >= FILES
    found = rows(tmp_path / "out" / "phases.csv")
    assert len(found) == 3 * 4 * 3
    assert {row["restart"] for row in found} == {"adam (restart)"}
    collapses = rows(tmp_path / "out" / "collapse.csv")
    assert [(row["optimizer"], row["seed"]) for row in collapses][:4] == [
        ("adam", str(seed)) for seed in range(4)
    ]
    assert [row["outcome"] for row in collapses][:4] == [*["loss"] * 3, "collapse"]

    text = (tmp_path / "out" / "summary.md").read_text()
    assert "### CartPole-v1:flip=true,phase=2000, 3 phases of 2,000 steps\n" in text
    adam = cells_of(text, "adam")
    first, last = np.array([400.0, 401, 402, 403]), np.array([250.0, 251, 252, 10])
    second = np.array([300.0, 301, 302, 10])

    def value(values: np.ndarray) -> str:
        low, high = statistics.stratified_bootstrap(values, statistics.iqm)
        return f"{statistics.iqm(values):.0f} [{low:.0f}, {high:.0f}]"

    assert adam["Phases"] == "3"
    assert adam["Phase ends"] == value((first + second + last) / 3)
    assert adam["First"] == value(first)
    assert adam["Last"] == value(last)
    assert adam["Change"] == value(last - first)
    assert adam["Gap"].startswith("-126 [")  # 275.5, the IQM of 275, 276, 277 and 10, minus 401.5
    assert adam["Steps to level"].startswith(">2k [")
    assert adam["Reached"] == "0.00 [0.00, 0.00]"
    assert adam["Recovered"] == "0.00 [0.00, 0.00]"
    assert adam["Collapsed"] == "1/4"
    trac = cells_of(text, "trac")
    low, high = statistics.stratified_bootstrap(
        (first, first), lambda x, y: statistics.iqm(x) - statistics.iqm(y)
    )
    assert trac["Gap"] == f"0 [{low:.0f}, {high:.0f}]"
    assert trac["Steps to level"] == "1k [1k, 1k]"  # its tenth point in each phase
    assert trac["Reached"] == "1.00 [1.00, 1.00]"
    assert trac["Recovered"] == "1.00 [1.00, 1.00]"
    assert cells_of(text, "adam (restart)")["Gap"] == "\N{EN DASH}"
    assert "* trac on CartPole-v1:flip=true,phase=2000 has no run of its own that starts" in text


def test_every_word_is_explained(folder: Path, tmp_path: Path) -> None:
    runs = reading.load_runs([folder])
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    console = " ".join(printed(runs).split())
    for column in cells_of(text, "adam"):
        if column not in ("Optimizer", "Phases"):
            assert f"\n* {column}: " in text
            assert f" {column}: " in console
    for caution in changing.CAUTIONS:
        assert caution in text
        assert caution in console


def test_printed_tables_fit(folder: Path, tmp_path: Path) -> None:
    name = "optim4rl@runs/x/meta_params.safetensors:learning_rate=0.001,clip=0.5"
    for index, scale in enumerate((-1234.5, 12.345)):
        seeds = [[phase(0, scale * (400 + s)), phase(0, scale * 300)] for s in range(3)]
        options = {"environment": f"ant{index}", "backend": "spring"}
        write(folder / f"{index}", *seeds, optimizer=name, **options)
    text = printed(reading.load_runs([folder]))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert ["Optimizer", "Drop", "Gap", "Steps to level", "Reached"] in [
        [cell for part in line for cell in re.split(r" (?=Gap|Steps|Reached|Drop)", part)]
        for line in lines
    ]


def test_without_an_arm_that_starts_afresh_its_columns_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a", [phase(-50, -9), phase(-50, -5)], optimizer="lion")
    runs = reading.load_runs([tmp_path / "runs"])
    online.write_report(runs, tmp_path / "out")
    (first, second) = rows(tmp_path / "out" / "phases.csv")
    assert list(first) == [
        *("environment", "backend", "optimizer", "seed", "phase"),
        *("end_return", "mean_return", "drop"),
    ]
    assert (first["drop"], float(second["drop"])) == ("", -9 + (50 + 45) / 2)
    text = (tmp_path / "out" / "summary.md").read_text()
    lion = cells_of(text, "lion")
    assert {"Gap", "Steps to level", "Reached"}.isdisjoint(lion)
    assert lion["First"] == "-9.0"  # a single seed has no interval
    for part in (text, printed(runs)):
        assert "Gap" not in part
        assert "starts afresh" not in part
        assert "Drop: " in part


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    changes = {"steps": 6000, "iterations": 60}
    write(tmp_path / "runs" / "a", [phase(0, 9)[:7]], **changes)
    nothing = write(tmp_path / "runs" / "b", [phase(0, 9)], **changes, optimizer="lion")
    (nothing / "metrics.csv").write_text("")
    runs = reading.load_runs([tmp_path / "runs"])
    written = online.write_report(runs, tmp_path / "out")
    assert {path.name for path in written} & FILES == FILES - {"phases.csv"}
    assert len(rows(tmp_path / "out" / "collapse.csv")) == 2
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "### CartPole-v1:flip=true,phase=2000, 0 phases of 2,000 steps\n" in text
    assert printed(runs)


def test_more_phases_than_points_are_not_told_apart(tmp_path: Path) -> None:
    steps = {"phase_steps": 1, "stretch": 10**9}
    write(tmp_path / "runs" / "a", [phase(0, 9)], [phase(0, 9)], **steps)
    runs = reading.load_runs([tmp_path / "runs"])
    written = online.write_report(runs, tmp_path / "out")
    assert {path.name for path in written} & FILES == FILES - {"phases.csv"}
    assert "has more phases than points: nothing" in (tmp_path / "out" / "summary.md").read_text()
    (panel,) = changing.panels(runs)
    assert not panel.changes


def test_reports_on_what_does_not_change_say_nothing_of_it(tmp_path: Path) -> None:
    values = curves(phase(0, 9), phase(0, 8))
    old = write_run(tmp_path / "a" / "run", values, evaluation=[1, 2])
    write_run(tmp_path / "b" / "run", values, evaluation=[1, 2], phase_steps=None)
    contents = []
    for name in "ab":
        written = online.write_report(reading.load_runs([tmp_path / name]), tmp_path / name)
        assert FILES.isdisjoint(path.name for path in written)
        contents.append({path.name: path.read_bytes() for path in written})
    assert contents[0] == contents[1]
    assert b"first" not in contents[0]["summary.csv"]
    for word in ("change", "phase", "First"):
        assert word not in contents[0]["summary.md"].decode()
    assert (old / "metrics.csv").exists()


def test_a_report_on_changing_tasks_is_replaced(folder: Path, tmp_path: Path) -> None:
    report([folder], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) >= FILES
    report([folder], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_of_a_task_that_changes_continuously_there_are_no_phases(tmp_path: Path) -> None:
    continuous = {"environment_options": {"wear": "0.5..1", "change": "linear"}}
    continuous |= {"phase_steps": None, "evaluation_dynamics": ["last", "first"]}
    lost = [phase(0, 90), phase(90, 5), phase(5, 5)]
    write(tmp_path / "runs" / "a", lost, **continuous)
    write(tmp_path / "runs" / "b", lost, environment_options={"wear": "0.5..1", "phase": PHASE})
    both = reading.load_runs([tmp_path / "runs"])
    (panel,) = changing.panels(both)
    assert not panel.stationary
    assert "Collapsed on CartPole-v1:change=linear" in printed(both)
    written = online.write_report(both[:1], tmp_path / "out")
    assert {path.name for path in written} & FILES == {"collapse.csv"}
    assert rows(tmp_path / "out" / "collapse.csv")[0]["outcome"] == "collapse"
    assert "Tasks that change" not in (tmp_path / "out" / "summary.md").read_text()


# The figure


def test_panels_have_the_same_task_without_changes(tmp_path: Path) -> None:
    ant = {"environment": "ant", "backend": "spring"}
    options = {"backend": "spring", "max_episode_steps": 50}
    there = options | {"friction": "0.02..2", "wear": "0.5..1", "phase": PHASE}
    runs = tmp_path / "runs"
    seeds = [[phase(0, 9), phase(0, 8)]] * 2
    write(runs / "a", *seeds, **ant, environment_options=there)
    write(runs / "b", *seeds, **ant, environment_options=there, settings={"restart": True})
    write(runs / "c", *seeds, **ant, environment_options=there, optimizer="lion")
    still = {"phase_steps": None, "stretch": 500} | ant
    write(runs / "d", [phase(0, 7)], environment_options=options, **still)
    write(runs / "e", [phase(0, 7)], environment_options=options, **still | {"backend": "mjx"})
    write(runs / "f", [phase(0, 7)], environment_options={}, **still, optimizer="lion")
    write(runs / "g", *seeds)
    loaded = reading.load_runs([runs])
    panel, cart = changing.panels(loaded)
    assert panel.title.startswith("ant:friction=0.02..2,max_episode_steps=50")
    assert [curve.label for curve in panel.curves] == ["adam", "adam (restart)", "lion"]
    assert list(panel.changes) == [2000]
    (curve,) = panel.stationary
    assert curve.label == "adam"
    assert curve.steps.tolist() == [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000]
    assert (list(cart.changes), list(cart.stationary)) == ([2000], [])


def test_ends_of_phases_are_a_panel_beside(tmp_path: Path) -> None:
    write(tmp_path / "a", [phase(0, 9), phase(0, 8)], [phase(0, 5), phase(0, 4)])
    (run,) = runs = reading.load_runs([tmp_path])
    (panel,) = changing.end_panels(runs)
    (curve,) = panel.curves
    assert curve.steps.tolist() == [PHASE, 2 * PHASE]
    np.testing.assert_array_equal(curve.returns, measure(run).ends)
    assert curve.returns.tolist() == [[9, 8], [5, 4]]
    online.write_report(runs, tmp_path / "out")
    svg = (tmp_path / "out" / "phases.svg").read_text()
    assert "Return at phase ends" in svg
    assert "Episode return" in svg


@pytest.mark.parametrize("option", sorted(changing.CHANGES))
def test_what_makes_a_task_change_is_left_out(option: str, tmp_path: Path) -> None:
    write(tmp_path / "a", [phase(0, 9)] * 2, environment_options={option: "1", "gravity": 5})
    for name, options in {"b": {"gravity": 5}, "c": {"gravity": 6}, "d": {}}.items():
        still = {"environment_options": options, "phase_steps": None}
        write(tmp_path / name, [phase(0, ord(name))], **still)
    (panel,) = changing.panels(reading.load_runs([tmp_path]))
    assert [curve.returns.max() for curve in panel.stationary] == [ord("b")]
