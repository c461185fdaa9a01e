"""The benchmarks of learned optimizers measure what they say."""

import csv

import jax
import numpy as np
import pytest
from quick import quick_jit

import optim
from agents._promotion import relaxed_promotion
from experiments.benchmarks import learned, learned_updates
from experiments.online.tasks import make_environment

TINY = ["num_envs=2", "num_steps=8", "minibatches=1", "epochs=2", "widths=4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", {setting.architecture: None for setting in learned_updates.SETTINGS}
)
def test_the_transcription_gives_the_same_updates(architecture):
    with relaxed_promotion():  # the transcription broadcasts as one writes it down
        assert learned_updates.check(architecture) < 1e-6


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
    assert seen[0][1] == learned._TUNING
    # A learned optimizer's likewise, among larger rates, and results on seeds for selection.
    text, _ = learned.tuned("optim4rl:grad_clip=none", task, 4, learned._SELECTION)
    assert text == "optim4rl:grad_clip=none,learning_rate=0.003 (annealed)"
    assert seen[-1] == (4, learned._SELECTION)
    assert len({learned._TUNING, learned._REPORT, learned._SELECTION}) == 3


def test_a_rate_is_given_to_learned_optimizers():
    """Updates are those of the optimizer with this rate, which falls if it is annealed."""
    build = learned.learned_with_rate("linear_optim:learning_rate=1,grad_clip=none", 4)
    drawn = optim.LinearOptim().init(jax.random.key(0))
    params = np.linspace(-1.0, 1.0, 3, dtype=np.float32)
    for annealed, factors in [(0.0, [0.1] * 4), (1.0, [0.1, 0.075, 0.05, 0.025])]:
        ours = build({"learning_rate": 0.1, "annealed": annealed})
        unit = optim.linear_optim(drawn, 1.0, grad_clip=None)
        states = [ours.init(params), unit.init(params)]
        for factor in factors:
            updates, states[0] = ours.update(params, states[0], params)
            expected, states[1] = unit.update(params, states[1], params)
            np.testing.assert_allclose(updates, factor * expected, rtol=1e-5)
    with pytest.raises(ValueError, match="--tuned must take a learning rate; 'open' takes none"):
        learned.learned_with_rate("open", 4)


@pytest.mark.slow
def test_a_whole_comparison(tmp_path, monkeypatch):
    make_environment("CartPole-v1")
    monkeypatch.setattr(jax, "jit", quick_jit)
    monkeypatch.setattr(learned, "RATES", (1e-3, 1e-2))
    meta_params = optim.OPEN().init(jax.random.key(0))
    metadata = {"architecture": "open", "training_tasks": "none"}
    weights = tmp_path / "weights.safetensors"
    optim.save_meta_params(weights, meta_params, metadata)
    arguments = ["learned", "--optimizers", f"open@{weights}", "--tasks", "CartPole-v1"]
    arguments += ["--steps", "64", "--seeds", "4", "--out", str(tmp_path / "out.csv")]
    arguments += ["--tuned", "l2lgd2", "--reward-scales", "10"]
    monkeypatch.setattr(learned, "LEARNED_RATES", (1e-2, 1e-1))
    monkeypatch.setattr("sys.argv", [*arguments, "--set", *TINY])
    learned.main()
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["optimizer"].partition(":")[0] for row in rows]
    assert names == ["adam", "l2lgd2", f"open@{weights}".partition(":")[0]]
    assert {row["settings"] for row in rows} == {f"ppo {' '.join(TINY)} reward_scale=10"}
    for row in rows:
        returns = np.array(row["returns"].split(), float)
        assert returns.shape == (4,)
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        np.testing.assert_allclose(returns.mean(), float(row["mean"]), rtol=1e-3)
