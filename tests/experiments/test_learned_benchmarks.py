"""The benchmarks of learned optimizers measure what they say."""

import csv

import jax
import numpy as np
import pytest

import optim
from agents._promotion import relaxed_promotion
from experiments.benchmarks import learned, learned_updates

TINY = ["num_envs=2", "num_steps=8", "minibatches=1", "epochs=2", "widths=4"]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(), (32, 16)])
def test_the_transcription_gives_the_same_updates(sizes):
    with relaxed_promotion():  # the transcription broadcasts as one writes it down
        assert learned_updates.check(optim.OPEN(*sizes)) < 1e-6


def test_baselines_are_optax_s(monkeypatch):
    """Adam, whose rate falls from the given one to 0 in the last update."""
    monkeypatch.setitem(learned.BASELINES, "sign", learned.optax.scale_by_sign)
    optimizer = learned.baseline("sign", 4)({"learning_rate": 0.1, "annealed": 1.0})
    params = np.ones(2, np.float32)
    state, sizes = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update(params, state, params)
        sizes.append(float(updates[0]))
    np.testing.assert_allclose(sizes, [-0.1, -0.075, -0.05, -0.025], rtol=1e-6)


def test_the_best_rate_is_chosen_on_seeds_of_its_own(monkeypatch):
    """By the mean, where a rate that diverges is the worst; the report has other seeds."""
    seen = []

    def player(task, build, seeds, stream):
        def play(parts):
            seen.append((seeds, stream))
            rate = float(parts["learning_rate"])
            if rate > 0.05:
                return np.full(seeds, np.nan)
            return np.full(seeds, -abs(np.log(rate / 3e-3)) + float(parts["annealed"]))

        return play

    monkeypatch.setattr(learned, "player", player)
    task = learned.meta_task("CartPole-v1", 64, TINY)
    text, returns = learned.tuned("adam", task, seeds=3)
    assert text == "adam:learning_rate=0.003 (annealed)"
    assert returns.shape == (3,)
    assert len(set(seen[:-1])) == 1
    assert seen[-1] == (3, learned._REPORT) != seen[0]


@pytest.mark.slow
def test_a_whole_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(learned, "RATES", (1e-3, 1e-2))
    meta_params = optim.OPEN().init(jax.random.key(0))
    metadata = {"architecture": "open", "training_tasks": "none"}
    weights = tmp_path / "weights.safetensors"
    optim.save_meta_params(weights, meta_params, metadata)
    arguments = ["learned", "--optimizers", f"open@{weights}", "--tasks", "CartPole-v1"]
    arguments += ["--steps", "64", "--seeds", "4", "--out", str(tmp_path / "out.csv")]
    monkeypatch.setattr("sys.argv", [*arguments, "--set", *TINY])
    learned.main()
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["optimizer"].partition(":")[0] for row in rows[:1]] == ["adam"]
    assert rows[1]["optimizer"] == f"open@{weights}"
    for row in rows:
        returns = np.array(row["returns"].split(), float)
        assert returns.shape == (4,)
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        np.testing.assert_allclose(returns.mean(), float(row["mean"]), rtol=1e-3)
