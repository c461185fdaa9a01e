"""Runs are run again from their directories alone, and it is said what is not as it was."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.command_line import main as cli
from experiments.command_line.rerun import _compared
from experiments.runs.circumstances import changes, circumstances


def test_a_comparison_is_run_again_with_the_same_bits(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, out = tmp_path / "old", tmp_path / "again"
    shutil.copytree(comparison, old)
    adam, sgd = (Path("CartPole-v1") / name for name in ("adam", "sgd-learning_rate=1e30"))
    file = old / adam / "config.json"
    config = json.loads(file.read_text())
    config["versions"]["jax"] = "0.0.1"
    file.write_text(json.dumps(config))
    cli.main(["rerun", str(old), "--out", str(out), "--no-cache"])
    printed = capsys.readouterr()
    assert "note: not as it was then: jax 0.0.1 then, " in printed.err
    for run in (adam, sgd):
        for name in ("metrics.csv", "evaluation.csv"):
            assert (out / run / name).read_bytes() == (comparison / run / name).read_bytes()
        said = f"{out / run / 'metrics.csv'}: as in {old / run}, bit for bit."
        assert said in printed.out.splitlines()
    assert (out / "summary.md").is_file()
    again = json.loads((out / adam / "config.json").read_text())
    assert again.pop("versions") != config.pop("versions")
    assert again == config


def test_what_differs_is_named(comparison: Path, tmp_path: Path) -> None:
    ours, old = comparison / "CartPole-v1" / "adam", tmp_path / "old"
    shutil.copytree(ours, old)
    assert _compared(ours, old) == f"as in {old}, bit for bit"
    rows = (old / "metrics.csv").read_text().splitlines(keepends=True)
    (old / "metrics.csv").write_text("".join(rows[:9]))
    assert _compared(ours, old) == f"as in {old} up to line 9, where one of them ends"
    rows[4] = rows[4].replace(",", ",1", 1)
    (old / "metrics.csv").write_text("".join(rows))
    assert _compared(ours, old) == f"not as in {old}, from line 5 on"


def test_circumstances_that_changed() -> None:
    now = circumstances()
    assert changes(now) == []
    then = json.loads(json.dumps(now))
    then["versions"]["optax"] = "0.0"
    del then["versions"]["brax"]
    then["machine"]["devices"] = ["tpu", 8]
    then["git_revision"] = "abc"
    optax, brax, devices, revision = changes(then)
    assert optax == f"optax 0.0 then, {now['versions']['optax']} now"
    assert brax == f"brax not recorded then, {now['versions']['brax']} now"
    assert devices.startswith("devices 8 x tpu then, ")
    assert revision.startswith("revision abc then, ")


@pytest.mark.parametrize(
    ("place", "out", "message"),
    [
        ("", "out", "DIR must hold run directories of compare, train or sweep; found none below"),
        ("x", "out", "DIR must be a directory; got"),
        ("", "", "--out must be another directory than DIR."),
    ],
)
def test_there_must_be_something_to_run_again(
    place: str, out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["rerun", str(tmp_path / place), "--out", str(tmp_path / out)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
