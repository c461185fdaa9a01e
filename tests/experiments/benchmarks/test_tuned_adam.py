"""The comparison with tuned Adam: what is chosen, on which seeds, and what is not done again."""

import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import quick_jit

import optim
from agents._promotion import relaxed_promotion
from experiments.benchmarks import tuned_adam
from experiments.benchmarks.tuned_adam import Candidate, Comparison, Lives
from experiments.meta_training import protocol
from meta.task import Lifetimes, Task

TINY = ("num_envs=2", "num_steps=8", "minibatches=1", "epochs=2", "widths=4")


def test_the_protocol_keeps_seeds_and_tasks_apart() -> None:
    streams = (
        protocol.SELECTION,
        protocol.TUNING,
        protocol.REPORT,
        protocol.SEARCH,
        protocol.SIGNAL,
    )
    keys = [jax.random.key_data(protocol.seed_keys(stream, 64)) for stream in streams]
    drawn = np.concatenate([np.asarray(key) for key in keys])
    assert len(np.unique(drawn, axis=0)) == len(drawn)
    assert not set(protocol.TRAINING_TASKS) & set(protocol.HELD_OUT_TASKS)
    training, horizon = protocol.SETTINGS["training"], protocol.SETTINGS["horizon"]
    assert horizon.steps == 4 * training.steps
    assert horizon.changes == training.changes
    # The report's seeds are the first of more: a longer one begins as a shorter one does.
    for name in protocol.SETTINGS:
        for task in protocol.TASKS:
            compared = Comparison(name, task, 2, Lives(Path("none")))
            iterations = compared.meta_task().iterations(1)
            assert iterations == {"training": 49, "horizon": 196, "published": 123}[name]


def test_candidates_are_optax_s_adam() -> None:
    """With its rate, decay rates, epsilon and decay of weights; annealed to 0."""
    candidate = Candidate(0.1, True, 0.5, 0.9, 1e-3, -0.2, 0.02)
    parts = {name: jnp.float32(x) for name, x in tuned_adam._numbers(candidate, 0.01).items()}
    assert float(parts["entropy_weight"]) == pytest.approx(0.02)
    ours = tuned_adam.adam(4)(parts)
    theirs = optax.adamw(
        optax.linear_schedule(0.1, 0.0, 4), b1=0.5, b2=0.9, eps=1e-3, weight_decay=-0.2
    )
    params, states = np.float32([1.0, -2.0]), []
    states = [ours.init(params), theirs.init(params)]
    for _ in range(4):
        with relaxed_promotion():
            updates, states[0] = ours.update(params, states[0], params)
            expected, states[1] = theirs.update(params, states[1], params)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)
    assert tuned_adam._numbers(Candidate(0.1), 0.01)["entropy_weight"] == 0.01


def test_every_candidate_has_a_name_of_its_own() -> None:
    tried = [*tuned_adam.rates(), *tuned_adam.draws(500)]
    assert len({str(candidate) for candidate in tried}) == 514
    best = Candidate(3e-3, True)
    assert best in tuned_adam.decays(best)
    drawn = tuned_adam.draws(500)
    assert drawn[:10] == tuned_adam.draws(10)
    signs = {np.sign(candidate.weight_decay) for candidate in drawn}
    assert signs == {-1.0, 0.0, 1.0}
    assert all(0.0 <= candidate.b1 <= 0.99 for candidate in drawn)
    assert all(0.8 <= candidate.b2 <= 0.9999 for candidate in drawn)


def test_stages_choose_on_seeds_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates first, then decay rates at the best; a rate that diverges is the worst."""
    seen: list[tuple[int, bytes]] = []

    def player(task: Any, build: Any) -> Any:
        def play(parts: Any, keys: jax.Array) -> np.ndarray:
            seen.append((len(parts["b1"]), np.asarray(jax.random.key_data(keys)).tobytes()))
            rate, b1, b2 = (np.asarray(parts[name]) for name in ("learning_rate", "b1", "b2"))
            score = -np.abs(np.log(rate / 3e-3)) + 0.1 * np.asarray(parts["annealed"])
            score = score - np.abs(b1 - 0.8) - np.abs(b2 - 0.99)
            score = np.where(rate > 0.05, np.nan, score)
            return np.tile(score[:, None], (1, len(keys)))

        return play

    monkeypatch.setattr(tuned_adam, "player", player)
    lives = Lives(tmp_path / "lives.csv")
    compared = Comparison("training", "Breakout-MinAtar", 4, lives)
    candidate, scale = compared.tuned()
    assert candidate == Candidate(3e-3, True, 0.8, 0.99)
    assert scale == pytest.approx(0.1, abs=1e-5)
    assert compared.report(candidate).shape == (4,)
    counts, keys = zip(*seen, strict=True)
    assert counts == (7, 7, 7, 7, 7, 1)
    assert len(set(keys[:-1])) == 1
    assert keys[-1] != keys[0]

    # Again, and with what was written last lost: only that is done, in a program as large.
    seen.clear()
    assert Comparison("training", "Breakout-MinAtar", 4, Lives(lives.path)).tuned()[0] == candidate
    assert not seen
    kept = Lives(lives.path)
    del kept.rows[12:]
    assert Comparison("training", "Breakout-MinAtar", 4, kept).tuned() == (candidate, scale)
    assert [count for count, _ in seen] == [7, 7, 7, 7]
    # Elsewhere, or with other numbers of seeds, nothing is known yet.
    seen.clear()
    Comparison("training", "Breakout-MinAtar", 3, Lives(lives.path)).tuned()
    Comparison("horizon", "Breakout-MinAtar", 4, Lives(lives.path)).tuned()
    assert len(seen) == 10

    seen.clear()
    life = 49 * 32 * 64
    searched = compared.searched(life * (4 * 20 + 8 * 4))
    assert searched in tuned_adam.draws(20)
    assert [count for count, _ in seen] == [7, 7, 7, 7, 7]
    assert len({key for _, key in seen}) == 2


@pytest.mark.slow
def test_a_whole_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both baselines and a learned optimizer, seed by seed; a second call lives nothing again."""
    monkeypatch.setattr(jax, "jit", quick_jit)
    monkeypatch.setattr(tuned_adam, "SETTINGS", {"training": protocol.Setting(64, TINY)})
    monkeypatch.setattr(tuned_adam, "RATES", (1e-2,))
    monkeypatch.setattr(tuned_adam, "B1", (0.9,))
    monkeypatch.setattr(tuned_adam, "B2", (0.99,))
    monkeypatch.setattr(tuned_adam, "TASKS", ("CartPole-v1",))
    weights = tmp_path / "weights.safetensors"
    metadata = {"architecture": "optim4rl", "training_tasks": "none"}
    optim.save_meta_params(weights, optim.Optim4RL().init(jax.random.key(0)), metadata)
    out = tmp_path / "out"
    argv = ["tuned_adam", "--optimizers", f"optim4rl@{weights}", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*argv, "--seeds", "3", "--search", "4096"])
    tuned_adam.main()
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (out / "lives.csv").open(newline="") as file:
        lives = list(csv.DictReader(file))
    assert [row["baseline"] for row in rows] == [tuned_adam.ADAM] * 2 + [tuned_adam.SEARCHED]
    report = {
        (row["task"], row["optimizer"]): np.array(row["returns"].split(), float)
        for row in lives
        if row["stage"] == "report"
    }
    for row in rows:
        if row["optimizer"].startswith("optim4rl"):
            ours = report["CartPole-v1", row["optimizer"]]
            theirs = report["CartPole-v1", row["chosen"]]
            assert ours.shape == (3,)
            np.testing.assert_allclose(float(row["difference"]), (ours - theirs).mean(), atol=1e-4)
            assert float(row["difference_low"]) <= float(row["difference"])
    before = (out / "table.md").read_text()

    def fail(*_: object) -> None:
        raise AssertionError("lived twice")

    monkeypatch.setattr(tuned_adam, "player", lambda *_: fail)
    tuned_adam.main()
    assert (out / "table.md").read_text() == before
    assert before in capsys.readouterr().out


def test_lives_are_played_as_meta_training_plays_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same key gives the same return; and the weight of the entropy is a candidate's own."""
    monkeypatch.setattr(jax, "jit", quick_jit)  # it takes longer to compile than to run
    task = tuned_adam.meta_task("CartPole-v1", 64, TINY)
    parts = {"rate": jnp.float32([1e-2, 3e-2])}
    play = tuned_adam.player(task, lambda parts: optax.sgd(parts["rate"]))
    keys = protocol.seed_keys(protocol.REPORT, 2)
    returns = play(parts, keys)
    assert returns.shape == (2, 2)
    clip = optim.clip_by_network_norm(task.settings.max_grad_norm)
    lives = tuned_adam.lifetimes(
        task.task(1), lambda parts: optax.chain(clip, optax.sgd(parts["rate"]))
    )
    alone = jax.jit(tuned_adam.whole_life(lives))({"rate": jnp.float32(3e-2)}, keys[1])
    np.testing.assert_allclose(returns[1, 1], alone, rtol=1e-4)

    def weight(task: Task, build: Any) -> Lifetimes:
        return Lifetimes(lambda parts, key: key, lambda x, key: (key, task.config.entropy_weight))

    monkeypatch.setattr(tuned_adam, "lifetimes", weight)
    play = tuned_adam.player(task, lambda parts: optax.sgd(1.0))
    returns = play({"entropy_weight": jnp.float32([0.1, 0.5])}, keys)
    np.testing.assert_array_equal(returns, np.float32([[0.1, 0.1], [0.5, 0.5]]))


def test_the_command_in_the_protocol_is_its_setting_of_training() -> None:
    assert protocol.__doc__ is not None
    command = protocol.__doc__.replace("\\\n", " ")
    training = protocol.SETTINGS["training"]
    assert f"--tasks {' '.join(protocol.TRAINING_TASKS)} --steps 1e5 " in command
    assert training.steps == 1e5
    assert f"--set {' '.join(training.changes)} " in " ".join(command.split())
