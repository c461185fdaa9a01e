"""Lifetimes of PPO as tasks: what their fitness is, how they are cut, and a whole generation."""

import dataclasses
import re

import evosax.algorithms  # noqa: F401  (before jax.jit is replaced)
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from hills import Tiny, leaves
from jax.sharding import AxisType, Mesh
from probes import quick_jit

from agents.ppo import PPOConfig
from meta.evolution import evolution
from meta.population import MEMBERS
from meta.strategies import EvolutionConfig
from meta.task import FITNESS, Task, lifetimes

KEY = jax.random.key(0)
CONFIG = PPOConfig(iterations=24, num_envs=4, num_steps=4, epochs=1, minibatches=1, widths=(8,))


def build(meta_params):
    return optax.chain(optax.clip_by_global_norm(0.5), Tiny().transform(meta_params))


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


class Coin(probes.Endless):
    """Episodes of 9 steps, each of which pays what was tossed at the start, -1 or 1."""

    def pay(self, state, action):
        return state.sign


def test_fitness_is_the_mean_return_at_the_end():
    """Of the last of 10 iterations, of 4 steps each; or of the stretch: here two of them.

    Episodes end in steps 9, 18, 27 and 36, so that some stretches have none to go by.
    """
    config = dataclasses.replace(CONFIG, iterations=10)
    task, meta_params = Task(Coin(limit=9), config, normaliser=4.0), Tiny().init(KEY)
    whole, cut = lifetimes(task, build), lifetimes(task, build, stretches=5)
    start = jax.jit(whole.init)(meta_params, KEY)
    once, fitness = jax.jit(whole.advance)(meta_params, start)
    part, stretches, last_returns, advance = start, [], [], jax.jit(cut.advance)
    for _ in range(5):
        part, stretch = advance(meta_params, part)
        stretches.append(float(stretch))
        last_returns.append(part.environment_state.last_episode_return)
    assert fitness == stretches[-1]
    for one, other in zip(leaves(once), leaves(part), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert stretches[0] == 0.0
    np.testing.assert_allclose(stretches, np.mean(last_returns, axis=1) / 4.0)
    assert (np.abs(last_returns[1:]) == 9.0).all()
    assert len(set(stretches)) > 2

    for value in (jnp.inf, jnp.nan):
        broken = start._replace(params=jax.tree.map(lambda x, v=value: x + v, start.params))
        assert np.isnan(advance(meta_params, broken)[1])


def test_the_area_is_the_mean_over_rollouts_of_what_each_returned():
    """As lifetimes say that are cut into single rollouts; and 'mean' is half of each."""
    config = dataclasses.replace(CONFIG, iterations=8)
    task, meta_params = Task(Coin(limit=9), config, normaliser=4.0), Tiny().init(KEY)
    cut = lifetimes(task, build, stretches=8)
    part, rollouts, advance = jax.jit(cut.init)(meta_params, KEY), [], jax.jit(cut.advance)
    for _ in range(8):
        part, now = advance(meta_params, part)
        rollouts.append(float(now))
    assert rollouts[:2] == [0.0, 0.0]  # no episode has ended yet
    assert len(set(rollouts)) > 2
    found = {}
    for fitness in FITNESS:
        whole = lifetimes(task, build, fitness=fitness)
        start = jax.jit(whole.init)(meta_params, KEY)
        _, found[fitness] = jax.jit(whole.advance)(meta_params, start)
    np.testing.assert_allclose(found["final"], rollouts[-1], rtol=1e-6)
    np.testing.assert_allclose(found["area"], np.mean(rollouts), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], 0.5 * (rollouts[-1] + np.mean(rollouts)), rtol=1e-6)
    assert found["area"] != found["final"]

    # The area of a stretch is that of its rollouts.
    halves = lifetimes(task, build, stretches=2, fitness="area")
    part, areas = jax.jit(halves.init)(meta_params, KEY), []
    for _ in range(2):
        part, now = jax.jit(halves.advance)(meta_params, part)
        areas.append(float(now))
    np.testing.assert_allclose(areas, [np.mean(rollouts[:4]), np.mean(rollouts[4:])], rtol=1e-6)


def test_unknown_fitness_is_refused():
    message = "fitness must be one of final, area, mean; got 'last'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lifetimes(Task(probes.TwoSteps(), CONFIG), build, fitness="last")


@pytest.mark.parametrize("devices", [(4,), pytest.param((1, 4), marks=pytest.mark.slow)])
def test_a_generation_of_learners(devices):
    """On several devices it is the same, bit for bit, as on one."""
    task = Task(probes.ActionReward(), dataclasses.replace(CONFIG, iterations=5), normaliser=2.0)
    config = EvolutionConfig(population=4, sigma=2.0, lives=2, members_at_once=1)
    results = []
    for count in devices:
        mesh = Mesh(np.array(jax.devices()[:count]), (MEMBERS,), axis_types=(AxisType.Auto,))
        trainer = evolution(Tiny().init, [lifetimes(task, build)], config, mesh)
        first = trainer.init(KEY)
        state, metrics = trainer.step(first)
        assert int(metrics["failed"]) == 0
        assert -0.5 <= metrics["fitness_worst"] < metrics["fitness_best"] <= 0.5
        before, after = trainer.meta_params(first), trainer.meta_params(state)
        assert {name: x.shape for name, x in after.items()} == {"rate": (), "sign": (1,)}
        assert all(np.abs(before[name] - after[name]).max() > 0.01 for name in before)
        results.append(leaves((state, metrics)))
    for one, other in zip(results[0], results[-1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normaliser": 0.0}, "normaliser must be in (0, inf); got 0.0."),
        ({"normaliser": -200.0}, "normaliser must be in (0, inf); got -200.0."),
        ({"normaliser": float("nan")}, "normaliser must be in (0, inf); got nan."),
        ({"config": dataclasses.replace(CONFIG, iterations=0)},
         "config.iterations must be a whole number, at least 1; got 0."),
    ],
)  # fmt: skip
def test_tasks_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Task(**{"environment": probes.TwoSteps(), "config": CONFIG} | change)


@pytest.mark.parametrize("stretches", [0, 5])
def test_stretches_that_do_not_fit(stretches):
    with pytest.raises(ValueError, match=r"must divide the lifetime's 24 iterations; got \d\."):
        lifetimes(Task(probes.TwoSteps(), CONFIG), build, stretches)
