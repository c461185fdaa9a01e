"""Training on tasks that change: one clock, one program, and nothing that an interruption shows."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from run_directories import ITERATION, TINY, results, tiny_run

from agents import environments
from agents.ppo import ppo
from experiments.online.run import RunConfig
from experiments.online.tasks import make_environment, parse_environment
from experiments.online.training import compiled, ppo_config, train
from experiments.runs.training import Point
from experiments.settings import Settings
from meta.task import Task, lifetimes

PHASE = 3 * ITERATION
FLIP = f"CartPole-v1:flip=true,phase={PHASE}"


def flipping(**changes: object) -> RunConfig:
    """Four phases of three iterations each."""
    return dataclasses.replace(tiny_run(environment=FLIP), **changes)  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_that_is_stopped_before_a_change_goes_on_bit_for_bit(tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(flipping(), whole)
    for index in (1, 2, 3):  # within a phase, at its end, after a change

        def stop(point: Point, last: int = index) -> None:
            if point.number == last:
                raise Stop

        with pytest.raises(Stop):
            train(flipping(), stopped, overwrite=True, on_point=stop, checkpoint_seconds=0.0)
        train(flipping(), stopped, resume=True)
        assert results(stopped) == results(whole)


def test_seeds_see_the_same_change_at_the_same_time(tmp_path: Path) -> None:
    """The first phase is the stationary task's; what follows is not."""
    changing, stationary = tmp_path / "changing", tmp_path / "stationary"
    train(flipping(), changing)
    train(tiny_run(environment=f"CartPole-v1:flip=false,phase={PHASE}"), stationary)
    value_losses = [
        np.array([float(row["value_loss"]) for row in rows(path / "metrics.csv")]).reshape(-1, 3)
        for path in (changing, stationary)
    ]
    np.testing.assert_allclose(value_losses[0][:3], value_losses[1][:3], rtol=1e-4)
    assert np.all(np.abs(value_losses[0][3:6] - value_losses[1][3:6]).max(axis=0) > 1e-3)


def test_one_program_serves_all_phases() -> None:
    program, numbers, keys = compiled(flipping())
    state = program.init(numbers, keys)
    for _ in range(4):
        state, _ = program.advance(numbers, state, jnp.int32(3))
    played = [program.evaluate(numbers, state, keys, jnp.int32(clock)) for clock in (0, PHASE)]
    with compilations() as names:
        for _ in range(2):
            state, _ = program.advance(numbers, state, jnp.int32(3))
        program.evaluate(numbers, state, keys, jnp.int32(5 * PHASE))
    assert not names
    assert not np.array_equal(*[returns for returns, _ in played])


def test_the_rollouts_clock_counts_all_environments() -> None:
    """A phase begins within a rollout, after so many steps of all environments together."""
    settings = dataclasses.replace(TINY, num_steps=20)
    phase = settings.num_envs * 8
    environment = environments.make("small_dense_short", move=True, phase=phase)

    class Spy(type(environment)):  # type: ignore[misc]
        def step(self, key, state, action):  # type: ignore[no-untyped-def]
            out = super().step(key, state, action)
            return (*out[:2], self._parameters.rewards[0], *out[3:])

    environment.__class__ = Spy
    learner = ppo(environment, ppo_config(settings, 10), optax.sgd(0.0))
    state = learner.init(jax.random.key(0))
    for _ in range(2):
        state, _ = jax.jit(learner.play)(state)
        state = state._replace(iteration=state.iteration + 1)
    returns = state.environment_state.episode_return
    # 40 steps of each environment in phases of 8: good, bad, good, bad, good; episodes last 50.
    alive = np.asarray(state.environment_state.episode_length) == 40
    assert alive.any()
    np.testing.assert_array_equal(np.asarray(returns)[alive], 8.0)


@pytest.mark.parametrize("first", [False, True])
def test_the_evaluation_plays_the_last_dynamics(tmp_path: Path, first: bool) -> None:
    train(flipping(evaluate_first=first), tmp_path / "run")
    found = rows(tmp_path / "run" / "evaluation.csv")
    assert [row["dynamics"] for row in found] == ["last"] * 3 + ["first"] * 3 * first
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["phase_steps"] == PHASE
    assert config["evaluation_dynamics"] == (["last", "first"] if first else ["last"])
    before = results(tmp_path / "run")
    train(flipping(evaluate_first=first), tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == before
    # Twelve iterations end in the fourth phase, in which actions are turned round.
    program, numbers, keys = compiled(flipping())
    state = program.init(numbers, keys)
    state, _ = program.advance(numbers, state, jnp.int32(12))
    returns, _ = program.evaluate(numbers, state, keys, jnp.int32(PHASE))
    assert [float(row["episode_return"]) for row in found[:3]] == pytest.approx(
        np.asarray(returns).mean(axis=1)[:3].tolist()
    )


def test_points_end_with_phases() -> None:
    def run(phase: float, steps: int) -> RunConfig:
        return RunConfig(f"CartPole-v1:flip=true,phase={phase:g}", "adam", steps, (0,), Settings())

    settings = Settings()
    rollout = settings.num_envs * settings.num_steps
    for iterations, per_point in ((7, 1), (40, 2), (45, 1), (100, 5), (97, 1)):
        config = run(iterations * rollout, 20 * iterations * rollout)
        assert config.iterations_per_point == per_point
        ends = [config.step(point) for point in range(config.points + 1)]
        assert {k * iterations * rollout for k in range(21)} <= set(ends)
    assert run(1000 * rollout, 100 * rollout).iterations_per_point == 1  # as many as usual
    assert RunConfig("CartPole-v1", "adam", 2000 * rollout, (0,), Settings()).points == 100


def test_texts_have_one_spelling() -> None:
    assert parse_environment("ant:friction=2e-2..2.0,phase=2e6,backend=spring") == (
        "ant",
        {"friction": "0.02..2", "phase": 2_000_000, "backend": "spring"},
    )
    assert parse_environment("Breakout-MinAtar:permute=none,phase=9")[1]["permute"] == "none"
    assert not make_environment("Breakout-MinAtar:permute=none,phase=9").changes
    environment = make_environment("CartPole-v1:flip=true,phase=2e4")
    assert environment.phase_steps == 20_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CartPole-v1:flip=true", "option 'flip' of CartPole-v1 needs a phase"),
        ("CartPole-v1:flip=1,phase=9", "option 'flip' of 'CartPole-v1' must be true or false"),
        ("CartPole-v1:flip=true,phase=2.5", "'phase' of 'CartPole-v1' must be a whole number"),
        ("CartPole-v1:offset=-1,phase=9", "option 'offset' of 'CartPole-v1' must be at least 0"),
        ("CartPole-v1:flip=true,phase=9,table=-1", "'table' of 'CartPole-v1' must be a whole"),
        ("ant:friction=0..2,phase=9", "option 'friction' must be two numbers above 0, written LOW"),
        ("ant:friktion=1..2,phase=9", "'ant' has no option 'friktion'; the nearest is 'friction'"),
        ("Breakout-MinAtar:permute=1,phase=9", "'permute' of 'Breakout-MinAtar' must be a word"),
        ("Sequence-MinAtar:games=Pong", "games must be among Asterix, Breakout, Freeway"),
    ],
)
def test_what_is_not_allowed_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        make_environment(text)
    assert "\n" not in str(error.value)


def test_steps_that_the_clock_cannot_count_are_refused() -> None:
    settings = dataclasses.replace(TINY, epochs=1, minibatches=1)
    with pytest.raises(ValueError, match="steps must be in"):
        RunConfig(FLIP, "adam", 2**31, (0,), settings)
    RunConfig("CartPole-v1", "adam", 2**31, (0,), settings)


def test_lifetimes_of_meta_training_have_the_clock() -> None:
    """A lifetime within the first phase is the stationary one's, a longer one is not."""

    def fitness(environment: str, iterations: int) -> float:
        task = Task(make_environment(environment), ppo_config(TINY, iterations))
        lives = lifetimes(task, lambda _: optax.sgd(1e-2))
        life = lives.init(None, jax.random.key(0))
        return float(jax.jit(lives.advance)(None, life)[1])

    move = f"small_dense_short:move=true,phase={2 * ITERATION}"
    assert fitness(move, 2) == fitness("small_dense_short", 2)
    assert fitness(move, 8) != fitness("small_dense_short", 8)
