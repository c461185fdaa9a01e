"""The comparison on changing tasks, and the sweep under it."""

import csv
import dataclasses
import doctest
from pathlib import Path

import jax
import numpy as np
import pytest
from quick import quick_jit

from experiments.benchmarks import plasticity, sweeping
from experiments.online.tasks import make_environment


def test_doctests() -> None:
    results = doctest.testmod(sweeping)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("name", plasticity.CHANGING)
def test_every_arm_is_a_run_and_counts_updates_rightly(name: str) -> None:
    task = plasticity.CHANGING[name]
    for arm in plasticity.arms(task.phase_updates).values():
        run = task.run(arm, 1e-3)  # says what is not allowed
        assert run.spec.learning_rate == 1e-3
        assert run.name == arm.name
        settings = run.settings
        phase = make_environment(run.environment).phase_steps
        assert phase is not None
        iterations, rest = divmod(phase, run.steps_per_iteration)
        assert rest == 0
        assert iterations * settings.epochs * settings.minibatches == task.phase_updates


def test_a_best_rate_at_an_edge_is_searched_further_once() -> None:
    tried: list[list[float]] = []

    def scores_of(rates: list[float]) -> np.ndarray:
        tried.append(rates)
        return np.stack([-np.abs(np.log10(rates) + 4), -np.abs(np.log10(rates) + 4)], axis=1)

    scores = sweeping.search(scores_of, (1e-3, 1e-2), (0.01, 100.0))
    assert tried == [[1e-3, 1e-2], [1e-5, 1e-4]]
    assert sweeping.best(scores) == 1e-4
    tried.clear()
    sweeping.search(scores_of, (1e-5, 1e-4, 1e-3), (0.01, 100.0))
    assert tried == [[1e-5, 1e-4, 1e-3]]


def test_what_was_swept_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "out" / "sweep.csv"
    first = sweeping.chosen_rate(path, "a:b=1,c=2", "adam", lambda: {1e-3: 1.0, 1e-2: 2.5})
    other = sweeping.chosen_rate(path, "a:b=1,c=2", "sgd", lambda: {1.0: 1.0, 2.0: 0.5})

    def fail() -> dict[float, float]:
        raise AssertionError("swept twice")

    assert first == sweeping.chosen_rate(path, "a:b=1,c=2", "adam", fail) == 1e-2
    assert other == sweeping.chosen_rate(path, "a:b=1,c=2", "sgd", fail) == 1.0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows] == ["0", "1", "1", "0"]
    assert {row["environment"] for row in rows} == {"a:b=1,c=2"}


@pytest.mark.slow
def test_an_arm_is_swept_trained_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small CartPole of two phases; a second call trains nothing again."""
    make_environment("CartPole-v1:flip=true,phase=512")
    monkeypatch.setattr(jax, "jit", quick_jit)
    small = plasticity.PRESETS["collapse"]
    small = dataclasses.replace(
        small,
        envs=("CartPole-v1:flip=true,phase=512",),
        steps=1024,
        settings=("num_envs=4", "num_steps=16", "minibatches=1", "epochs=1", "widths=8"),
    )
    monkeypatch.setitem(plasticity.PRESETS, "collapse", small)
    monkeypatch.setattr(plasticity, "CHANGING", {"cartpole": plasticity.Changing("collapse", 8)})
    monkeypatch.setattr(plasticity, "DIAGNOSES", 2)
    out = tmp_path / "out"
    argv = ["plasticity", "--out", str(out), "--arms", "adam", "redo"]
    monkeypatch.setattr("sys.argv", argv)
    plasticity.main()
    with (out / "table.csv").open(newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"adam", "redo"}
    assert float(rows["adam"]["beyond_adam"]) == 0.0
    for row in rows.values():
        assert float(row["area_low"]) <= float(row["area"]) <= float(row["area_high"])
        assert float(row["rank"]) >= 1
    with (out / "sweep.csv").open(newline="") as file:
        swept = [row for row in csv.DictReader(file) if row["optimizer"] == "adam"]
    rate = next(float(row["learning_rate"]) for row in swept if row["chosen"] == "1")
    assert rows["adam"]["optimizer"] == f"adam:learning_rate={rate}"
    assert len(swept) in (4, 8)

    def fail(*_: object) -> None:
        raise AssertionError("swept twice")

    monkeypatch.setattr(sweeping, "search", fail)
    before = (out / "table.md").read_text()
    plasticity.main()
    assert (out / "table.md").read_text() == before
    assert "| adam |" in capsys.readouterr().out
