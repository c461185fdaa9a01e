"""Runs that are reported beside those of a command, and those that cannot be."""

from pathlib import Path

import pytest
from written_runs import flat, write_offline_run, write_run

from experiments.command_line.neighbours import runs_beside, say_beside


def test_runs_of_earlier_commands_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write_run(tmp_path / "CartPole-v1" / "adam", flat(1.0))
    earlier = write_run(tmp_path / "CartPole-v1" / "sgd", flat(1.0))
    learned = write_offline_run(tmp_path / "td3_bc" / "adam", flat(1.0))
    damaged = write_run(tmp_path / "Catch" / "damaged", flat(1.0))
    (damaged / "config.json").write_text("{")
    begun = write_run(tmp_path / "Catch" / "begun", flat(1.0))
    (begun / "metrics.csv").unlink()
    write_run(tmp_path / "Catch" / "deep" / "run", flat(1.0))  # no comparison makes one so deep
    write_run(tmp_path / "alone", flat(1.0))
    (tmp_path / "linked").symlink_to(tmp_path / "CartPole-v1")

    found = runs_beside(tmp_path, [ours], offline=False)
    assert found == [earlier]
    say_beside(tmp_path, found)
    say_beside(tmp_path, [])
    printed = capsys.readouterr()
    assert printed.out == (
        f"The report also holds runs that were in {tmp_path} before: CartPole-v1/sgd.\n"
    )
    first, second = printed.err.splitlines()
    assert first.startswith(f"Left out of the report: {damaged}, ")
    assert "is not valid JSON" in first
    assert second == f"Left out of the report: {learned}, it learned from a data set."

    assert runs_beside(tmp_path, [ours], offline=True) == [learned]
    assert f"{earlier}, it learned in an environment." in capsys.readouterr().err
