"""A report replaces its own files, and nobody else's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from written_runs import flat, write_offline_run, write_run

from experiments.command_line.main import main
from experiments.reports.files import check_free_for_ages, check_free_for_report
from experiments.reports.report import report


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for game in ("one", "two"):
        write_run(tmp_path / "runs" / game / "adam", flat(1.0, 2.0), environment=game)
    return tmp_path / "runs"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(directories: list[Path], out: Path | None = None) -> str:
    """Refuses to report, changes nothing, and says why."""
    before = contents(out or directories[0])
    with pytest.raises(ValueError, match="exists already") as caught:
        report(directories, out)
    assert contents(out or directories[0]) == before
    return str(caught.value)


def test_a_report_is_replaced_by_one_on_the_same_runs_or_more(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report([runs / "one"], out)
    first = contents(out)
    report([runs / "one"], out)
    assert contents(out) == first
    report([runs], out)
    assert b"two/adam" in contents(out)["summary.csv"]
    assert refused([runs / "one"], out).startswith(f"{out}/summary.csv exists already")
    report([runs / "one"], out, overwrite=True)
    assert contents(out) == first


def test_a_report_on_runs_below_is_replaced(runs: Path) -> None:
    """They are found again, so nothing is lost."""
    report([runs])
    report([runs / "one"], runs)
    report([runs / "two"], runs)
    assert "two" in (runs / "summary.csv").read_text()
    shutil.rmtree(runs / "two")
    report([runs])
    text = (runs / "summary.csv").read_text()
    assert "one" in text
    assert "two" not in text


def test_a_report_on_other_runs_stays(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report([runs / "one"], out)
    assert refused([runs / "two"], out) == (
        f"{out}/summary.csv exists already and is not part of a report on these runs; "
        "move it away, or use --overwrite to replace it."
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.csv", "name,value\na,1\n"),
        ("summary.csv", ""),
        ("summary.csv", "optimizer,run_directory\n"),
        ("summary.csv", "optimizer,run_directory\nadam\n"),
        ("summary.csv", "optimizer,run_directory\nadam,\n"),
        ("summary.csv", "\x00\xff"),
        ("summary.md", "# My notes"),
        ("curves.png", "mine"),
        ("curves.svg", "mine"),
        ("curves.pdf", "mine"),
        ("summary.tex", "mine"),
        ("profiles.png", "mine"),
        ("plasticity.png", "mine"),
        ("plasticity.svg", "mine"),
        ("aggregate.csv", "mine"),
        ("collapse.csv", "mine"),
        ("phases.csv", "mine"),
        ("phases.png", "mine"),
        ("phases.svg", "mine"),
    ],
)
def test_a_foreign_file_stays(name: str, content: str, runs: Path, tmp_path: Path) -> None:
    (runs / name).write_text(content, encoding="latin-1")
    assert refused([runs]).startswith(f"{runs / name} exists already")
    report([runs], overwrite=True)
    assert b"run_directory" in contents(runs)["summary.csv"]


def test_other_files_of_a_folder_are_none_of_its_business(runs: Path) -> None:
    (runs / "notes.md").write_text("mine")
    report([runs])
    assert (runs / "notes.md").read_text() == "mine"


def test_a_copied_or_linked_folder_knows_its_report(runs: Path, tmp_path: Path) -> None:
    report([runs])
    shutil.copytree(runs, tmp_path / "copy")
    report([tmp_path / "copy"])
    (tmp_path / "link").symlink_to(runs, target_is_directory=True)
    report([tmp_path / "link"])
    (tmp_path / "gathered").mkdir()
    (tmp_path / "gathered" / "all").symlink_to(runs, target_is_directory=True)
    report([tmp_path / "gathered"])
    assert b",all/one/adam\n" in contents(tmp_path / "gathered")["summary.csv"]
    report([tmp_path / "gathered"])


def test_names_of_earlier_versions_are_understood(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were as seen from where the report was called."""
    monkeypatch.chdir(tmp_path)
    head = "optimizer,run_directory\n"
    for name in ("runs/one/adam", str(runs / "two" / "adam")):
        (runs / "summary.csv").write_text(f"{head}adam,{name}\n")
        report([runs])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text(f"{head}adam,runs/one/adam\n")
    assert "exists already" in refused([runs / "two"], tmp_path / "out")


def test_a_run_directory_holds_its_own_report(runs: Path) -> None:
    report([runs / "one" / "adam"])
    own = contents(runs / "one" / "adam")["summary.csv"]
    report([runs / "one" / "adam"])
    assert contents(runs / "one" / "adam")["summary.csv"] == own
    report([runs])
    assert contents(runs)["summary.csv"].count(b"\n") > own.count(b"\n")


def test_offline_reports_ask_as_well(tmp_path: Path) -> None:
    for name in "ab":
        write_offline_run(tmp_path / name, flat(1.0, 2.0))
    report([tmp_path / "a"], tmp_path / "out")
    assert "summary.csv exists already" in refused([tmp_path / "b"], tmp_path / "out")
    report([tmp_path], tmp_path / "out")


def test_figures_of_age_are_replaced_where_the_training_lies_below(tmp_path: Path) -> None:
    training, figures = tmp_path / "runs" / "training", tmp_path / "figures"
    for folder in (training, figures):
        folder.mkdir(parents=True)
        (folder / "returns_by_age.svg").write_text("old")
    check_free_for_ages(training, [training], overwrite=False)
    check_free_for_ages(figures, [training], overwrite=True)
    with pytest.raises(ValueError, match=r"figures/returns_by_age\.svg exists already"):
        check_free_for_ages(figures, [training], overwrite=False)


def test_the_check_comes_before_there_are_runs(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    check_free_for_report(out, [out / "game" / "adam"], overwrite=False)
    report([runs / "one"], out)
    with pytest.raises(ValueError, match=r"summary\.csv exists already"):
        check_free_for_report(out, [out / "game" / "adam"], overwrite=False)
    check_free_for_report(out, [out / "game" / "adam", runs / "one" / "adam"], overwrite=False)
    check_free_for_report(out, [out / "game" / "adam"], overwrite=True)


def test_the_check_needs_neither_numpy_nor_matplotlib() -> None:
    script = (
        "import sys, experiments.reports.files;"
        "sys.exit(bool({'numpy', 'matplotlib', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


# The command


def test_the_command_takes_normalisers_and_overwrite(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "summary.md").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["report", str(runs)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rl-optim: {runs}/summary.md exists already and is not part of a")
    main(["report", str(runs), "--normalisers", "one=2", "two=4", "--overwrite"])
    assert "2 tasks, returns normalised" in capsys.readouterr().out
    main(["report", str(runs), "--normalisers", "min-max"])
    with pytest.raises(SystemExit):
        main(["report", str(runs), "--normalisers", "one"])
    assert "must be TASK=RETURN" in capsys.readouterr().err
