"""Compiled programs do not pile up in a process."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.command_line.main import main
from experiments.runs import compiled, training

pytestmark = pytest.mark.skipif(
    compiled.memory_maps() == 0, reason="the system does not tell a process its memory maps"
)


def test_programs_are_kept_until_there_are_many() -> None:
    traced = []

    @jax.jit
    def double(x: jax.Array) -> jax.Array:
        traced.append(x)
        return 2 * x

    for many, times in ((compiled.memory_maps() + 10_000, 1), (0, 2)):
        double(jnp.ones(3))
        compiled.forget_if_many(many)
        double(jnp.ones(3))
        assert len(traced) == times


def test_runs_begin_with_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def forget() -> None:
        compiled.forget_if_many(0)
        counts.append(compiled.memory_maps())

    monkeypatch.setattr(training, "forget_if_many", forget)
    options = "--envs Catch-bsuite --steps 200 --seeds 1 --set num_envs=1 num_steps=20"
    settings = "minibatches=1 epochs=1 widths=4"
    out = tmp_path / "runs"
    names = ("adam", "rmsprop", "lion")
    arguments = ["compare", *options.split(), *settings.split(), "--optimizers", *names]
    main([*arguments, "--out", str(out)])
    assert len(counts) == 3
    assert counts[2] < counts[0] + 300  # a run's programs have some 1,200
    assert len(list(csv.DictReader((out / "summary.csv").open()))) == 3
