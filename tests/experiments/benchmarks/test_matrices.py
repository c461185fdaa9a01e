"""The report of the comparison of matrix optimizers."""

import csv
from pathlib import Path

import pytest
import written_runs

from experiments.benchmarks import matrices
from experiments.online.tasks import parse_environment


def test_every_task_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one whose backend is part of its text; returns are compared within a task."""
    for place, task in enumerate(matrices.STEPS):
        name, options = parse_environment(task)
        for label, value, pace in (("adam", 10.0 * place, 1.0), ("soap", 10.0 * place + 1, 2.0)):
            written_runs.write_run(
                tmp_path / str(place) / label,
                written_runs.flat(value, value, points=4),
                seconds=[pace * (point + 1) for point in range(4)],
                environment=name,
                backend=options.get("backend"),
                optimizer=label,
                label=label,
            )
    matrices.report(tmp_path)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["optimizer"] for row in rows] == ["soap", "adam"] * len(matrices.STEPS)
    assert [float(row["beyond_adam"]) for row in rows] == [1, 0] * len(matrices.STEPS)
    assert [float(row["seconds"]) for row in rows] == [8, 4] * len(matrices.STEPS)
    assert len({row["environment"] for row in rows}) == len(matrices.STEPS)
    assert "inverted_pendulum" in capsys.readouterr().out
