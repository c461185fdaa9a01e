"""`rl-optim sweep` from end to end, cut short and resumed, and what it turns down."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest

from experiments.command_line import main as cli
from experiments.command_line.progress import TrainingProgress
from experiments.online import training
from experiments.runs.reading import load_runs
from experiments.runs.training import Point

TINY = "--set num_envs=4 num_steps=16 minibatches=2 epochs=1 widths=8"
COMMON = f"sweep --env CartPole-v1 --optimizer adam --seeds 2 --no-cache {TINY}"
SWEEP = f"{COMMON} --steps 640 --over learning_rate=1e-3,1e-2,1e30 clip=0.1,0.2"
HALVING = (
    f"{COMMON} anneal=false --steps 1280 --over learning_rate=1e-3,3e-3,1e-2,3e-2,1e30 --halving 2"
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logged(out: Path) -> dict[str, bytes]:
    """What the runs logged, and what the sweep found."""
    names = ("metrics.csv", "evaluation.csv", "sweep.csv", "sweep.md", "sweep.png")
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.name in names
    }


def fails(capsys: pytest.CaptureFixture[str], arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(arguments))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rl-optim: ")


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, arguments: list[str]) -> None:
    """Runs a command that is interrupted once so many points are logged."""
    seen: list[int] = []

    def stop(progress: TrainingProgress, point: Point) -> None:
        seen.append(point.number)
        if len(seen) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingProgress, "take", stop)
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
    assert stopped.value.code == 130
    assert len(seen) == after


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "runs"
    cli.main([*shlex.split(SWEEP), "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("halved") / "runs"
    cli.main([*shlex.split(HALVING), "--out", str(out)])
    return out


def test_a_sweep_writes_what_it_documents(swept: Path) -> None:
    settings = [f"learning_rate={a},clip={b}" for a in ("1e-3", "1e-2", "1e30") for b in (0.1, 0.2)]
    files = {f"{stem}.{end}" for stem in ("sweep", "summary") for end in ("csv", "md")} | {
        "summary.tex"
    }
    files |= {f"{stem}.{end}" for stem in ("sweep", "curves") for end in ("png", "svg", "pdf")}
    assert {path.name for path in swept.iterdir()} == {*settings, *files}
    rows = read(swept / "sweep.csv")
    assert [row["run_directory"] for row in rows] == settings
    assert [(row["learning_rate"], row["clip"]) for row in rows][1] == ("1e-3", "0.2")
    for row in rows:
        (run,) = load_runs([swept / row["run_directory"]])
        config = json.loads((swept / row["run_directory"] / "config.json").read_text())
        assert config["settings"]["clip"] == float(row["clip"])
        assert config["learning_rate"] == float(row["learning_rate"])
        assert float(row["score"]) == run.final_returns().mean()
        assert int(row["diverged_seeds"]) == 2 * (row["learning_rate"] == "1e30")
    best = max(rows, key=lambda row: float(row["score"]))
    assert best["best"] == "1"
    assert best["within_10_percent"] == "1"
    near = sum(row["within_10_percent"] == "1" for row in rows)
    text = (swept / "sweep.md").read_text()
    assert f"Share of settings within 10 % of the best: {near / 6:.2f} ({near} of 6)." in text


def test_the_command_that_measures_the_best_anew(swept: Path, tmp_path: Path) -> None:
    lines = (swept / "sweep.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("rl-optim train")]
    _, *arguments = shlex.split(line)
    assert arguments[-2:] == ["--out", f"{swept}-best"]
    out = tmp_path / "best"
    cli.main([*arguments[:-1], str(out), "--no-cache"])
    (best,) = (row for row in read(swept / "sweep.csv") if row["best"] == "1")
    anew = json.loads((out / "config.json").read_text())
    selected = json.loads((swept / best["run_directory"] / "config.json").read_text())
    assert anew["seeds"] == [2, 3]
    for key in ("environment", "resolved_optimizer", "settings", "steps", "annealed"):
        assert anew[key] == selected[key]


def test_report_works_on_a_sweep(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    shutil.copytree(swept, out)
    cli.main(["report", str(out)])
    labels = [row["optimizer"] for row in read(out / "summary.csv")]
    assert len(set(labels)) == 6
    assert "adam:learning_rate=0.01 clip=0.1" in labels
    assert (out / "sweep.md").read_bytes() == (swept / "sweep.md").read_bytes()


def test_a_finished_sweep_is_only_reported_again(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(swept, out)
    monkeypatch.setattr(training, "compiled", None)
    cli.main([*shlex.split(SWEEP), "--out", str(out), "--resume", "--floor", "0"])
    before, after = logged(swept), logged(out)
    runs = [name for name in before if not name.startswith("sweep")]
    assert [after[name] for name in runs] == [before[name] for name in runs]
    assert "The floor was given: 0." in (out / "sweep.md").read_text()


def test_a_sweep_that_was_interrupted_ends_the_same(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    arguments = [*shlex.split(SWEEP), "--out", str(out)]
    interrupt(monkeypatch, 14, arguments)  # in the second of six runs, of ten points each
    assert len(list(out.glob("*/metrics.csv"))) == 2
    assert not (out / "sweep.csv").exists()
    cli.main([*arguments, "--resume"])
    found, expected = logged(out), logged(swept)
    for text in (found, expected):  # names the directory
        text["sweep.md"] = text["sweep.md"].replace(str(out).encode(), str(swept).encode())
    assert found == expected


def test_halving_prolongs_the_best(halved: Path) -> None:
    rows = read(halved / "sweep.csv")
    assert sorted(int(row["steps"]) for row in rows) == [320, 320, 640, 1280, 1280]
    first = [float(row["first_round_score"]) for row in rows]
    going_on = sorted(range(5), key=lambda i: -first[i])[:3]
    assert {i for i in range(5) if int(rows[i]["steps"]) > 320} == set(going_on)
    (best,) = (row for row in rows if row["best"] == "1")
    longest = [float(row["score"]) for row in rows if row["steps"] == "1280"]
    assert float(best["score"]) == max(longest)
    near = [row["within_10_percent"] == "1" for row in rows]
    least = max(first) - 0.1 * (max(first) - min(first))
    assert near == [score >= least for score in first]
    text = (halved / "sweep.md").read_text()
    assert "within 10 % of the best after 320 steps" in text
    assert "one in 2" in text


def test_a_prolonged_setting_is_as_if_trained_at_once(halved: Path, tmp_path: Path) -> None:
    (best,) = (row for row in read(halved / "sweep.csv") if row["best"] == "1")
    train = COMMON.replace("sweep", "train", 1).replace("adam", best["optimizer"])
    cli.main(shlex.split(f"{train} anneal=false --steps 1280 --out {tmp_path / 'run'}"))
    ours = (halved / best["run_directory"] / "metrics.csv").read_bytes()
    assert ours == (tmp_path / "run" / "metrics.csv").read_bytes()


@pytest.mark.parametrize("after", [12, 31])  # points: in the first round, in the second
def test_halving_that_was_interrupted_ends_the_same(
    after: int, halved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    arguments = [*shlex.split(HALVING), "--out", str(out)]
    interrupt(monkeypatch, after, arguments)
    cli.main([*arguments, "--resume"])
    found, expected = logged(out), logged(halved)
    for text in (found, expected):
        text["sweep.md"] = text["sweep.md"].replace(str(out).encode(), str(halved).encode())
    assert found == expected


@pytest.mark.parametrize(
    ("change", "by", "line"),
    [
        ("clip=0.1,0.2", "clipp=1,2", "unknown key of --over 'clipp'; the nearest is 'clip'."),
        ("clip=0.1,0.2", "clip=0.1,-2", "setting 'clip' must be in (0, inf]; got -2.0."),
        ("clip=0.1,0.2", "clip=0.1,x", "setting 'clip' must be a number; got 'x'."),
        ("clip=0.1,0.2", "b1=0.9,1.5", "b1 must be in [0, 1), got 1.5."),
        ("1e30 clip", "0 clip", "learning_rate must be in (0, inf), got 0."),
        ("clip=0.1,0.2", "learning_rate=1", "--over must name each key once; got 'learning_rate' "
         "twice."),
        ("clip=0.1,0.2", "epochs=1,2", "'epochs' is given twice, by --over and by --set."),
        ("--optimizer adam", "--optimizer adam:learning_rate=1",
         "'learning_rate' is given twice, by --over and by --optimizer."),
        ("learning_rate=1e-3,1e-2,1e30 clip=0.1,0.2", "eps=1",
         "--over must make at least two settings; got 1."),
        ("--optimizer adam", "--optimizer adma", "unknown optimizer 'adma'; the nearest is "
         "'adam'."),
        ("clip=0.1,0.2", "clip=0.1,0.2 --halving 6",
         "--halving must be less than the number of settings, 6; got 6."),
        ("clip=0.1,0.2", "clip=0.1,0.2 --halving 1",
         "--halving must be a whole number, at least 2; got '1'."),
        ("clip=0.1,0.2", "clip=0.1,0.2 --floor nan", "--floor must be a finite number; got nan."),
        ("clip=0.1,0.2", "clip=0.1,0.2 --floor x", "--floor must be a number; got 'x'."),
        ("clip=0.1,0.2", "clip=0.1,0.2 --halving 2",
         "--halving prolongs runs, and adam:learning_rate=0.001 clip=0.1 cannot be prolonged: its "
         "learning rate falls to 0 over the whole run; set anneal=false."),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_said_before_anything_is_trained(
    change: str, by: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change in SWEEP
    command = f"{SWEEP.replace(change, by, 1)} --out {tmp_path / 'runs'}"
    assert fails(capsys, command) == line
    assert not (tmp_path / "runs").exists()


def test_what_needs_its_length_is_not_halved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = HALVING.replace("adam", "open@breakout").replace(
        "learning_rate=1e-3,3e-3,1e-2,3e-2,1e30", "l2=0,1e-4,1e-3"
    )
    line = fails(capsys, f"{command} --out {tmp_path / 'runs'}")
    assert line == (
        "--halving prolongs runs, and open@breakout:l2=0 cannot be prolonged: open is told how "
        "much of the run is over; leave it out."
    )


def test_what_is_there_is_neither_touched_nor_trained(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = swept / "learning_rate=1e-3,clip=0.1"
    hint = f"{run} exists already; use --resume to continue it or --overwrite to replace it."
    assert fails(capsys, f"{SWEEP} --out {swept}") == hint
    out = tmp_path / "runs"
    out.mkdir()
    (out / "sweep.csv").write_text("my,own\n1,2\n")
    line = fails(capsys, f"{SWEEP} --out {out} --resume")
    assert line.startswith(f"{out / 'sweep.csv'} exists already and is not part of a report")
    assert [path.name for path in out.iterdir()] == ["sweep.csv"]
