"""Run directories are found through links, and pooled where only their seeds differ."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from written_runs import flat, load, write_offline_run, write_run

from experiments.reports import offline, online, summary
from experiments.reports.ages import age_panels
from experiments.reports.report import report
from experiments.runs import reading

AGES = "task,environment,first_generation,last_generation,age_from,age_to,return_mean\n"


def write_training(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"optimizer": "optim4rl"}')
    (directory / "returns_by_age.csv").write_text(f"{AGES}0,Catch,0,9,0,8,0.5\n")
    return directory


# Links


def test_runs_are_found_through_links(tmp_path: Path) -> None:
    write_run(tmp_path / "elsewhere" / "game" / "b", flat(1.0), optimizer="b")
    write_run(tmp_path / "other", flat(1.0), optimizer="c")
    write_run(tmp_path / "runs" / "a", flat(1.0), optimizer="a")
    (tmp_path / "runs" / "games").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "runs" / "z").symlink_to("../other", target_is_directory=True)
    (tmp_path / "runs" / "broken").symlink_to("nothing")
    runs = reading.load_runs([tmp_path / "runs"])
    assert [run.label for run in runs] == ["a", "b", "c"]
    assert runs[1].path == tmp_path / "runs" / "games" / "game" / "b"
    (tmp_path / "top").symlink_to("runs")
    assert len(reading.load_runs([tmp_path / "top"])) == 3


def test_each_directory_is_read_once_and_circles_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "deep" / "run", flat(1.0))
    for link, target in {
        "runs/deep/up": "..",
        "runs/deep/self": "self",
        "runs/round": "../there",
        "there": "runs",
        "runs/again": "deep/run",
        "runs/deep/run/inside": "..",  # within a run nothing is looked for
    }.items():
        (tmp_path / link).symlink_to(target, target_is_directory=True)
    (found,) = reading.load_runs([tmp_path / "runs", tmp_path, run, tmp_path / "there"])
    assert found.path.resolve() == run


def test_meta_training_is_found_through_links(tmp_path: Path) -> None:
    write_training(tmp_path / "elsewhere" / "training")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "runs" / "circle").symlink_to(".")
    (panel,) = age_panels([tmp_path / "runs", tmp_path / "elsewhere"])
    assert panel.title == "optim4rl on Catch"
    report([tmp_path / "runs"])  # meta-training alone
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_file()} == {
        "returns_by_age.png",
        "returns_by_age.svg",
        "returns_by_age.pdf",
    }


def test_a_report_of_both_kinds_finds_runs_through_links(tmp_path: Path) -> None:
    write_training(tmp_path / "elsewhere" / "training")
    write_run(tmp_path / "elsewhere" / "run", flat(1.0))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    report([tmp_path / "runs"])
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert {"returns_by_age.png", "summary.csv", "curves.png"} < names


# Pooling


def test_disjoint_seeds_of_one_configuration_are_pooled(tmp_path: Path) -> None:
    cells = [[(1.0, 5, 0), (2.0, 5, 0)], [(3.0, 5, 0), (4.0, 5, 1)]]
    a = write_run(tmp_path / "a", cells, evaluation=[1.0, 2.0], seconds=[1.0, 2.0])
    write_run(tmp_path / "b", flat(9.0, points=2), optimizer="lion", evaluation=[1.0])
    other = {"versions": {"jax": "9"}, "git_revision": "x", "machine": {"device": "gpu"}}
    more = [[(5.0, 5, 0), (6.0, 5, 0)]]
    c = write_run(tmp_path / "c", more, evaluation=[3.0], seconds=[3.0, 5.0], seeds=[7], **other)
    runs = reading.load_runs([tmp_path])
    assert [run.label for run in runs] == ["adam", "lion"]
    pooled = runs[0]
    assert pooled.directories == (a, c)
    assert pooled.config["seeds"] == [0, 1, 7]
    assert pooled.curves().tolist() == [[1, 2], [3, 1], [5, 6]]
    assert pooled.evaluation_returns().tolist() == [1, 1, 3]
    assert pooled.seconds == 7.0
    np.testing.assert_array_equal(reading.read_metric(pooled, "loss"), np.full((3, 2), 0.1))
    row, lion = rows = summary.summarise(runs)
    assert (row.seeds, row.seed_list, row.diverged_seeds) == (3, (0, 1, 7), 1)
    assert row.steps_per_second == pytest.approx(3 * 200 / 7)
    assert row.run_directory == f"{a}; {c}"
    assert lion.run_directory == str(tmp_path / "b")
    assert summary.notes(rows)[0] == (
        f"adam on Breakout-MinAtar is pooled from the runs in {a}; {c}."
    )
    assert summary.provenance(runs) == [
        "Versions differ between runs: see each config.json.",
        "Revisions differ between runs: see each config.json.",
        "Machines differ between runs: their steps per second cannot be compared.",
    ]
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "* adam on Breakout-MinAtar is pooled from the runs in ../a; ../c.\n" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1]},  # both have it
        {"seeds": [5], "settings": {"clip": 0.1}},
        {"seeds": [5], "annealed": False},
        {"seeds": [5], "evaluation_episodes": 3},
        {"seeds": [5], "stretch": 50, "steps": 400, "iterations": 8},  # other logged steps
    ],
)
def test_what_differs_in_more_is_not_pooled(tmp_path: Path, changes: dict[str, object]) -> None:
    write_run(tmp_path / "a", flat(1.0, 2.0))
    write_run(tmp_path / "b", flat(3.0), **changes)
    assert [run.label for run in reading.load_runs([tmp_path])] == ["adam", "adam (2)"]


def test_numerics_pool_where_they_agree_or_are_not_recorded(tmp_path: Path) -> None:
    numerics = {"a": {}, "b": {"x64": False}, "c": {"x64": True}, "d": {"x64": False}}
    for seed, (name, value) in enumerate(numerics.items()):
        change = {"numerics": value} if value else {}  # earlier versions recorded none
        write_run(tmp_path / name, flat(1.0), seeds=[seed], **change)
    first, second = reading.load_runs([tmp_path])
    assert [path.name for path in first.directories] == ["a", "b", "d"]
    assert second.path.name == "c"


def test_a_third_run_joins_the_first_it_shares_no_seed_with(tmp_path: Path) -> None:
    for name, seeds in {"a": [0, 1], "b": [1, 2], "c": [2, 3], "d": [4]}.items():
        write_run(tmp_path / name, flat(*map(float, seeds)), seeds=seeds)
    runs = reading.load_runs([tmp_path])
    assert [(run.label, run.config["seeds"]) for run in runs] == [
        ("adam", [0, 1, 2, 3, 4]),
        ("adam (2)", [1, 2]),
    ]


def test_an_evaluation_that_is_missing_keeps_runs_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.0), evaluation=[1.0])
    late = write_run(tmp_path / "b", flat(1.0), seeds=[1])
    assert len(reading.load_runs([tmp_path])) == 2
    shutil.rmtree(late)
    write_run(late, flat(1.0), seeds=[1], evaluation=[2.0])
    assert len(reading.load_runs([tmp_path])) == 1


def test_a_backend_that_is_spelled_out_is_the_same(tmp_path: Path) -> None:
    ant = {"environment": "ant", "backend": "positional"}
    write_run(tmp_path / "a", flat(1.0), **ant, environment_options={"backend": "positional"})
    write_run(tmp_path / "b", flat(1.0), **ant, seeds=[1])
    assert load(tmp_path).config["seeds"] == [0, 1]


def test_offline_runs_are_pooled(tmp_path: Path) -> None:
    write_offline_run(tmp_path / "a", flat(1.0, 2.0), mean_abs_q=5.0)
    write_offline_run(tmp_path / "b", flat(3.0), mean_abs_q=500.0, seeds=[8])
    runs = reading.load_runs([tmp_path])
    (row,) = rows = offline.summarise_offline(runs)
    assert (row.seeds, row.seed_list, row.collapsed_seeds) == (3, (0, 1, 8), 1)
    assert row.return_iqm == pytest.approx(2.0)
    assert any("is pooled from the runs in" in note for note in offline.offline_notes(rows))


# config.json


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("environment_options", [1], "environment_options must be an object, got \\[1\\]"),
        ("evaluation_actions", 1, "evaluation_actions must be a name, got 1"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    write_run(tmp_path / "run", flat(1.0), **{key: value})
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


# Tasks that change


def test_an_evaluation_in_the_first_dynamics_is_a_column_of_its_own(tmp_path: Path) -> None:
    cells = [[(2.0, 5, 0)] * 3, [(3.0, 5, 1)] * 3]
    changes = {"evaluation": [8.0, 4.0], "phase_steps": 100}
    write_run(tmp_path / "a" / "both", cells, first_evaluation=[5.0, 7.0], **changes)
    write_run(tmp_path / "b" / "last", cells, **changes, optimizer="lion")
    both, last = runs = reading.load_runs([tmp_path])
    # The second seed has diverged and scores the lowest return.
    for run in runs:
        assert run.evaluation_returns().tolist() == [8.0, 2.0]
    assert both.first_evaluation_returns().tolist() == [5.0, 2.0]
    assert np.isnan(last.first_evaluation_returns()).all()
    online.write_report(runs, tmp_path / "out")
    header, *lines = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    at = header.split(",").index("first_evaluation_return_mean")
    assert [line.split(",")[at - 1] for line in lines] == ["5.0", "5.0"]
    assert [line.split(",")[at] for line in lines] == ["3.5", ""]
    assert "| Sampled eval. | First eval. |" in (tmp_path / "out" / "summary.md").read_text()
    online.write_report([last], tmp_path / "last")
    assert "first_evaluation" not in (tmp_path / "last" / "summary.csv").read_text()
    assert "First eval." not in (tmp_path / "last" / "summary.md").read_text()


def test_other_dynamics_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", flat(1.0), evaluation=[1.0], first_evaluation=[1.0])
    path = run / "evaluation.csv"
    path.write_text(path.read_text().replace("first", "second"))
    with pytest.raises(ValueError, match="line 3: dynamics must be last or first, got 'second'"):
        load(run)


def test_seeds_with_and_without_first_dynamics_are_not_pooled(tmp_path: Path) -> None:
    first = {"first_evaluation": [3.0]}
    for seed, more in enumerate((first, first, {})):
        write_run(tmp_path / f"{seed}", flat(1.0), evaluation=[2.0], seeds=[seed], **more)
    pooled, alone = reading.load_runs([tmp_path])
    assert pooled.first_evaluation_returns().tolist() == [3.0, 3.0]
    assert pooled.config["seeds"] == [0, 1]
    assert alone.first_evaluation is None


def test_a_run_that_says_that_nothing_changes_is_as_one_of_before(tmp_path: Path) -> None:
    write_run(tmp_path / "old", flat(1.0), seeds=[0])
    write_run(tmp_path / "new", flat(2.0), seeds=[1], phase_steps=None)
    (run,) = reading.load_runs([tmp_path])
    assert sorted(run.config["seeds"]) == [0, 1]
    write_run(tmp_path / "lion", flat(2.0), phase_steps=None, optimizer="lion")
    runs = reading.load_runs([tmp_path])
    assert summary.setting_notes("Breakout-MinAtar", runs) == []


@pytest.mark.parametrize("value", [0, -5, 2e4, "many", True])
def test_steps_of_a_phase_are_checked(value: object, tmp_path: Path) -> None:
    write_run(tmp_path / "run", flat(1.0), phase_steps=value)
    with pytest.raises(ValueError, match="phase_steps must be a positive whole number or null, go"):
        reading.load_runs([tmp_path])


def test_agents_that_start_afresh_have_a_name_of_their_own(tmp_path: Path) -> None:
    for index, restart in enumerate((True, False, True)):
        write_run(tmp_path / f"{index}", flat(1.0), settings={"restart": restart}, clip=index)
    labels = [run.label for run in reading.load_runs([tmp_path])]
    assert labels == ["adam (restart)", "adam", "adam (restart) (2)"]
