"""The signal of a fitness: found where it is, none where there is none."""

import csv
import doctest
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

from experiments.benchmarks import fitness_signal
from experiments.meta_training import protocol
from meta.strategies import SHAPING

RANDOM = np.random.default_rng(0)


def test_doctests() -> None:
    results = doctest.testmod(fitness_signal)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("shaping", SHAPING)
def test_the_share_of_signal_is_found(shaping: str) -> None:
    """Halves of 8 lives with as much noise as signal each: 8 / 9; seeds' own level is no signal."""
    pairs, seeds = 200, 16
    direction = RANDOM.normal(size=pairs)
    member = np.concatenate([direction, -direction])[:, None]
    level = 5.0 * RANDOM.normal(size=seeds)
    fitness = member + level + RANDOM.normal(size=(2 * pairs, seeds))
    correlation, of_pairs = fitness_signal.signal(fitness, shaping)
    assert correlation[0] == pytest.approx(8 / 9, abs=0.04)
    # Twice the signal, and the noise of two: 16 / 17.
    assert of_pairs[0] == pytest.approx(16 / 17, abs=0.03)
    for value, low, high in (correlation, of_pairs):
        assert low < value < high < low + 0.12
    nothing = level + RANDOM.normal(size=(2 * pairs, seeds))
    for value, low, high in fitness_signal.signal(nothing, shaping):
        assert abs(value) < 0.15
        assert low < value < high


def test_what_members_share_beside_the_direction_is_no_signal_of_pairs() -> None:
    """Curvature: both of a pair lose alike, and the mean has nothing to follow."""
    loss = RANDOM.normal(size=200) ** 2
    fitness = -np.concatenate([loss, loss])[:, None] + RANDOM.normal(size=(400, 16))
    correlation, of_pairs = fitness_signal.signal(fitness, "values")
    assert correlation[0] > 0.8
    assert abs(of_pairs[0]) < 0.15


@pytest.mark.parametrize("shaping", SHAPING)
def test_failures_and_equal_members_have_a_value(shaping: str) -> None:
    correlation, of_pairs = fitness_signal.signal(np.ones((8, 4)), shaping)
    assert correlation == of_pairs == (0.0, 0.0, 0.0)
    fitness = RANDOM.normal(size=(8, 4))
    fitness[3] = np.nan
    assert np.isfinite(fitness_signal.signal(fitness, shaping)).all()


def test_members_are_mirrored_around_the_start() -> None:
    start = {"a": jnp.array([1.0, -2.0]), "b": jnp.zeros(())}
    small, large = (fitness_signal.members(start, sigma, 400) for sigma in (0.1, 0.2))
    assert small["a"].shape == (401, 2)
    np.testing.assert_array_equal(small["a"][0], start["a"])
    noise = np.asarray(small["a"])[1:] - np.asarray(start["a"])
    np.testing.assert_allclose(noise[:200], -noise[200:], atol=1e-6)
    assert noise.std() == pytest.approx(0.1, rel=0.1)
    np.testing.assert_allclose(
        np.asarray(large["a"])[1:] - np.asarray(start["a"]), 2.0 * noise, atol=1e-6
    )


@pytest.mark.slow
def test_a_whole_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jax, "jit", quick_jit)
    tiny = ("num_envs=2", "num_steps=8", "minibatches=1", "epochs=2", "widths=4")
    monkeypatch.setattr(fitness_signal, "SETTINGS", {"training": protocol.Setting(64, tiny)})
    monkeypatch.setattr(fitness_signal, "TASKS", ("CartPole-v1",))
    monkeypatch.setattr(fitness_signal, "TRAINING_TASKS", ("CartPole-v1",))
    argv = ["fitness_signal", "--optimizer", "l2lgd2:learning_rate=0.1", "--sigmas", "0.5"]
    argv += ["--members", "4", "--seeds", "4", "--at-once", "3", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    fitness_signal.main()
    with (tmp_path / "signal.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "lives.csv").open(newline="") as file:
        lives = list(csv.DictReader(file))
    assert len(rows) == 9
    assert [len(row["returns"].split()) for row in lives] == [12] * 5
    final, area, mean = np.split(np.array(lives[0]["returns"].split(), float), 3)
    np.testing.assert_allclose(mean, 0.5 * (final + area), rtol=1e-5)
    assert float(rows[0]["start"]) == pytest.approx(final.mean())
    assert float(rows[3]["start"]) == pytest.approx(area.mean())
    before = (tmp_path / "signal.csv").read_bytes()

    def fail(*_: object) -> None:
        raise AssertionError("lived twice")

    monkeypatch.setattr(fitness_signal, "player", lambda *_: fail)
    fitness_signal.main()
    assert (tmp_path / "signal.csv").read_bytes() == before
    assert "with one life" in capsys.readouterr().out
