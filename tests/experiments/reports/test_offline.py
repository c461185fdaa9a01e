"""Reports of offline runs: whatever is known of returns, divergence and collapse is shown."""

import io
import re
from pathlib import Path

import numpy as np
from rich.console import Console
from written_runs import Cell, flat, write_offline_run

from experiments.reports import offline, tables
from experiments.runs import reading

NEVER: list[Cell] = [("", 0, 0)] * 4  # not evaluated in training
REFERENCES = [10.0, 110.0]


def printed(runs: list[reading.Run], width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    offline.print_report(runs, console)
    return console.export_text()


def headings(text: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith("Optimizer"))
    return re.split(r"\s{1,}(?!\|Q)", line.strip())


def test_an_evaluation_after_training_alone_is_shown(tmp_path: Path) -> None:
    how = {"evaluation": [20.0, 30.0, 40.0], "reference_returns": REFERENCES}
    write_offline_run(tmp_path / "runs", [NEVER] * 3, **how)
    runs = reading.load_runs([tmp_path])
    (row,) = rows = offline.summarise_offline(runs)
    assert row.evaluations == 0
    assert (row.return_iqm, row.fresh_return_mean) == (30.0, 30.0)
    assert 20.0 <= row.return_iqm_low < row.return_iqm_high <= 40.0
    assert row.score_iqm == 20.0
    sentence = "adam with td3_bc on toy was evaluated only after training: its return is that of"
    assert any(sentence in note for note in offline.offline_notes(rows))
    assert not any("not evaluated" in note for note in offline.offline_notes(rows))
    text = printed(runs)
    assert {"Return", "95%", "Fresh", "Score"} <= set(headings(text))
    assert "20.0" in text
    offline.write_report(runs, tmp_path / "out")
    written = (tmp_path / "out" / "summary.md").read_text()
    assert sentence in written
    assert "| 30.00 | [" in written


def test_evaluations_in_training_come_first(tmp_path: Path) -> None:
    cells: list[list[Cell]] = [[("", 0, 0), (value, 5, 0), ("", 0, 0)] for value in (1.0, 3.0)]
    write_offline_run(tmp_path / "runs", cells, evaluation=[8.0, 8.0])
    runs = reading.load_runs([tmp_path])
    (row,) = rows = offline.summarise_offline(runs)
    assert (row.evaluations, row.return_iqm, row.fresh_return_mean) == (1, 2.0, 8.0)
    assert offline.offline_notes(rows) == []
    assert "Score" not in printed(runs)  # no reference returns
    assert "Div." not in printed(runs)


def test_without_any_evaluation_that_is_said(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "runs", [NEVER] * 2, evaluation=["", ""], seconds=[1, 2, 3, 4])
    runs = reading.load_runs([tmp_path])
    rows = offline.summarise_offline(runs)
    assert offline.offline_notes(rows) == [
        "adam with td3_bc on toy was not evaluated in an environment: its returns are unknown."
    ]
    assert headings(printed(runs)) == ["Optimizer", "LR", "Coll.", "Mean |Q|", "Steps/s"]


def test_diverged_seeds_are_counted_and_score_the_lowest_return(tmp_path: Path) -> None:
    some: list[list[Cell]] = [NEVER, [("", 0, 0), ("", 0, 1), ("", 0, 1), ("", 0, 1)]]
    write_offline_run(tmp_path / "runs" / "a", some, evaluation=[20.0, 50.0])
    every: list[list[Cell]] = [[(5.0, 5, 0), (4.0, 5, 1), ("nan", 5, 1), ("nan", 5, 1)]] * 2
    write_offline_run(tmp_path / "runs" / "b", every, optimizer="sgd", evaluation=["nan", "nan"])
    runs = reading.load_runs([tmp_path])
    adam, sgd = rows = offline.summarise_offline(runs)
    assert (adam.diverged_seeds, adam.return_iqm, adam.fresh_return_mean) == (1, 20.0, 20.0)
    assert np.isfinite([adam.return_iqm_low, adam.return_iqm_high]).all()
    assert (sgd.diverged_seeds, sgd.return_iqm) == (2, 4.0)
    assert np.isnan([sgd.return_iqm_low, sgd.return_iqm_high, sgd.score_iqm_low]).all()
    assert "All seeds of sgd with td3_bc on toy diverged: its returns have no interval." in (
        offline.offline_notes(rows)
    )
    assert "Div." in headings(printed(runs))


def test_mean_abs_q_is_not_finite_only_where_it_is_not(tmp_path: Path) -> None:
    diverged: list[list[Cell]] = [[(1.0, 5, 0), (1.0, 5, 1)]] * 2
    write_offline_run(tmp_path / "a", diverged, mean_abs_q=7.0)
    write_offline_run(tmp_path / "b", flat(1.0, points=2), mean_abs_q=np.inf, optimizer="sgd")
    write_offline_run(tmp_path / "c", flat(1.0, points=2), optimizer="lion")
    (tmp_path / "c" / "metrics.csv").write_text("")
    rows = offline.summarise_offline(reading.load_runs([tmp_path]))
    cells = [cells["Mean |Q|"] for cells, _ in offline._lines(rows)]
    assert cells == ["7", "not finite", tables.NONE]


def test_settings_that_differ_within_a_table_are_named(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "a", flat(1.0), settings={"alpha": 2.5}, dataset_sha256="aa")
    write_offline_run(
        tmp_path / "b", flat(1.0), settings={"alpha": 10}, dataset_sha256="bb", optimizer="adamo"
    )
    write_offline_run(tmp_path / "c", flat(1.0, points=9), settings={"alpha": 7}, stretch=9)
    runs = reading.load_runs([tmp_path])
    found = offline.offline_remarks(runs, offline.summarise_offline(runs))
    title = "toy, td3_bc, 400 critic updates"
    assert [note for note in found if note.startswith("On ")] == [
        f"On {title}, settings.alpha is 2.5 for adam and 10 for adamo.",
        f'On {title}, dataset_sha256 is "aa" for adam and "bb" for adamo.',
    ]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for name in "ab":
        write_offline_run(tmp_path / name, flat(1.0))
    rows = offline.summarise_offline(reading.load_runs([tmp_path]))
    assert offline.offline_notes(rows) == [
        f"adam (2) with td3_bc on toy is the run in {tmp_path / 'b'}."
    ]


def test_a_table_is_readable_at_80_columns(tmp_path: Path) -> None:
    cells: list[list[Cell]] = [[(1234.5, 5, int(value > 1))] * 4 for value in range(4)]
    how = {"reference_returns": REFERENCES, "evaluation": [1000.0] * 4, "mean_abs_q": 12345.0}
    write_offline_run(tmp_path / "a", cells, optimizer="adam_reset:period=1000", **how)
    text = printed(reading.load_runs([tmp_path]))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert {"Coll.", "Div.", "Return", "95%", "Fresh", "Score"} <= set(headings(text))
    assert "4/4" in text
