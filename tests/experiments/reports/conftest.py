"""Runs on three tasks that several tests report on."""

from pathlib import Path

import pytest
from written_runs import flat, write_run

from experiments.runs import reading


@pytest.fixture
def suite(tmp_path: Path) -> list[reading.Run]:
    """Three optimizers on two normalised environments, and an environment on its own."""
    scores = {
        ("Breakout-MinAtar", 50.0, "adam:learning_rate=0.01"): [40.0, 50.0, 60.0, 70.0],
        ("Breakout-MinAtar", 50.0, "adamo"): [55.0, 60.0, 65.0, 75.0],
        ("Breakout-MinAtar", 50.0, "lion"): [1.0, 1.0, 1.0, 1.0],
        ("Asterix-MinAtar", 10.0, "adam:learning_rate=0.01"): [8.0, 9.0, 10.0, 11.0],
        ("Asterix-MinAtar", 10.0, "adamo"): [8.0, 12.0, 12.0, 16.0],
        ("Catch", None, "adam:learning_rate=0.01"): [1.0, 0.5],
    }
    for index, ((environment, normaliser, optimizer), values) in enumerate(scores.items()):
        write_run(
            tmp_path / "runs" / f"{index}",
            flat(*values),
            environment=environment,
            normaliser=normaliser,
            optimizer=optimizer,
            stretch=2_500_000,
            seconds=[10.0, 20.0, 30.0, 40.0],
            evaluation=values,
        )
    return reading.load_runs([tmp_path / "runs"])
