"""Reports on meta-training of every method, their numbers worked out by hand."""

import csv
import doctest
import math
from pathlib import Path

import numpy as np
import pytest
from written_runs import flat, write_meta_run, write_offline_run, write_run

from experiments.reports import meta_figures, meta_training
from experiments.reports.report import report

NONE = ("", "", "", "")


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "meta_training.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_evolution_and_imitation_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    evaluations = [["", 0.5, "", 0.25], ["", 0.7, "", 0.05]]
    tasks = ("Catch-bsuite", "CartPole-v1")
    write_meta_run(runs / "es", [0.0, 0.5, "nan", 1.0], evaluations, tasks=tasks, generations=9)
    imitated = [100.0, 10.0, 1.0, 0.5]
    write_meta_run(runs / "imitation", imitated, [NONE], method="imitation", seed=3)
    report([runs])
    names = [f"meta_training.{kind}" for kind in ("csv", "md", "png", "svg", "pdf")]
    assert written(runs) >= set(names)
    es, imitation = table(runs)
    assert es["tasks"] == "Catch-bsuite; CartPole-v1"
    assert (es["generations"], es["planned_generations"], es["env_steps"]) == ("4", "9", "400")
    assert [float(es[f"{which}_evaluation"]) for which in ("first", "best", "last")] == [
        pytest.approx(value) for value in (0.6, 0.6, 0.15)
    ]
    assert (es["best_generations"], es["wall_seconds"], es["run_directory"]) == ("2", "8.0", "es")
    assert (imitation["method"], imitation["seed"]) == ("imitation", "3")
    assert (imitation["first_objective"], imitation["last_objective"]) == ("100.0", "0.5")
    assert (imitation["best_evaluation"], imitation["best_generations"]) == ("", "")
    printed = capsys.readouterr().out
    assert "4/9" in printed
    assert max(map(len, printed.partition("Written:")[0].splitlines())) <= 80
    markdown = (runs / "meta_training.md").read_text()
    assert "| `optim4rl` | es | Catch-bsuite, CartPole-v1 | 0 | 4/9 | 400 | 0 | 1 |" in markdown
    assert "![Objectives and evaluations](meta_training.png)" in markdown


def test_panels_show_the_objective_with_its_members_and_the_evaluations(tmp_path: Path) -> None:
    tasks = ("Catch-bsuite", "Catch-bsuite")
    evaluations = [["", 1.0, "", 3.0], ["", 5.0, "", "nan"]]
    write_meta_run(tmp_path / "a", [0, 1, 2, 3], evaluations, tasks=tasks, curriculum=[2])
    write_meta_run(tmp_path / "b", [4, 0, 2, 1], [NONE], method="imitation")
    es, judged, loss = meta_training.panels_of(meta_training.load_trainings([tmp_path]))
    assert es.generations.tolist() == [1, 2, 3, 4]
    assert es.lines["mean, worst to best"].tolist() == [0, 1, 2, 3]
    assert es.band is not None
    assert [end.tolist() for end in es.band] == [[-1, 0, 1, 2], [2, 3, 4, 5]]
    assert list(judged.lines) == ["Catch-bsuite (0)", "Catch-bsuite (1)", "all tasks"]
    np.testing.assert_array_equal(judged.lines["all tasks"], [math.nan, 3.0, math.nan, math.nan])
    assert (es.changes, judged.changes, loss.changes) == ((2,), (2,), ())
    assert loss.logarithmic
    axes = meta_figures.training_curves([es, judged, loss]).axes
    first, change = axes[0].get_lines()
    assert first.get_ydata().tolist() == [0, 1, 2, 3]
    assert list(change.get_xdata()) == [2, 2]
    assert len(axes[0].collections) == 1
    assert axes[1].get_lines()[0].get_xdata().tolist() == [2, 4]  # where there is a value
    assert axes[2].get_yscale() == "log"
    assert axes[2].get_lines()[0].get_ydata().tolist() == [4, 2, 1]  # it cannot show 0


def test_a_folder_of_all_kinds_gets_both_reports(tmp_path: Path) -> None:
    write_meta_run(tmp_path / "runs" / "meta", [1, 2, 3, 4], [NONE])
    write_run(tmp_path / "runs" / "adam", flat(1.0, 2.0))
    report([tmp_path / "runs"])
    names = {"meta_training.csv", "meta_training.png", "summary.csv", "curves.png"}
    assert written(tmp_path / "runs") >= names
    write_offline_run(tmp_path / "runs" / "offline", flat(1.0))
    with pytest.raises(ValueError, match="cannot share a report"):
        report([tmp_path / "runs"])


def test_namesakes_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_meta_run(tmp_path / name, [1.0], [[""]])
    panels = meta_training.panels_of(meta_training.load_trainings([tmp_path]))
    ends = ["(first)", "(second)"]
    assert [panel.title for panel in panels] == [f"optim4rl on Catch-bsuite {end}" for end in ends]


def test_what_is_there_is_only_replaced_by_a_report_on_the_same(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_meta_run(tmp_path / name, [1.0], [[""]])
    out = tmp_path / "out"
    report([tmp_path / "first"], out)
    report([tmp_path / "first"], out)
    before = (out / "meta_training.csv").read_bytes()
    with pytest.raises(ValueError, match=r"meta_training\.csv exists already"):
        report([tmp_path / "second"], out)
    assert (out / "meta_training.csv").read_bytes() == before


def test_a_run_that_has_logged_nothing_or_is_damaged(tmp_path: Path) -> None:
    run = write_meta_run(tmp_path / "run", [1.0, 2.0], [["", ""]])
    metrics = run / "meta_metrics.csv"
    whole = metrics.read_text()
    metrics.write_text(whole[:-3])  # a killed process left half a line
    assert table_of(tmp_path) == ["1/2"]
    metrics.write_text("")
    with pytest.raises(ValueError, match=r"of meta-training meta_metrics\.csv\), found none"):
        report([tmp_path])
    metrics.write_text(whole.replace("0,100,1.0", "0,100,x"))
    with pytest.raises(ValueError, match=r"line 2: fitness_mean must be a number, got 'x'"):
        report([tmp_path])
    (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is not as meta-training writes it"):
        report([tmp_path])


def table_of(folder: Path) -> list[str]:
    report([folder])
    return [f"{row['generations']}/{row['planned_generations']}" for row in table(folder)]


def test_doctests() -> None:
    results = doctest.testmod(meta_training)
    assert results.attempted > 0
    assert results.failed == 0
