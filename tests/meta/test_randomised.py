"""Settings drawn at birth: where they lie, who shares them, and that learners live under them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from probes import quick_jit

from agents.ppo import PPOConfig
from meta.randomised import RANDOMISED, draw, randomised_lifetimes
from meta.task import Task, lifetimes

KEY = jax.random.key(0)
CONFIG = PPOConfig(iterations=4, num_envs=4, num_steps=4, epochs=1, minibatches=1, widths=(8,))
RANGES = {"learning_rate": (1e-3, 1e-1), "reward_scale": (0.1, 10.0), "clip": (0.2, 0.2)}


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def test_draws_are_uniform_in_their_logarithms():
    keys = jax.random.split(KEY, 2000)
    drawn = {name: np.log(x) for name, x in jax.vmap(lambda key: draw(key, RANGES))(keys).items()}
    assert set(drawn) == set(RANGES)
    for name in ("learning_rate", "reward_scale"):
        low, high = np.log(RANGES[name])
        shares = (drawn[name] - low) / (high - low)
        assert -1e-5 < shares.min() < 0.01
        assert 0.99 < shares.max() < 1.0 + 1e-5
        np.testing.assert_allclose(np.histogram(shares, 4, (0, 1))[0], 500, atol=80)
    np.testing.assert_allclose(drawn["clip"], np.log(0.2), rtol=1e-5)
    assert abs(np.corrcoef(drawn["learning_rate"], drawn["reward_scale"])[0, 1]) < 0.08
    # What else is drawn makes no difference.
    alone = jax.vmap(lambda key: draw(key, {"reward_scale": (0.1, 10.0)}))(keys)
    np.testing.assert_allclose(np.log(alone["reward_scale"]), drawn["reward_scale"], rtol=1e-5)


def test_a_life_is_that_of_its_settings():
    """Of PPO with the numbers and the learning rate that it was born with; by the same key."""
    task = Task(probes.ActionReward(), CONFIG, normaliser=2.0)

    def build(drawn):
        return lambda meta_params: optax.sgd(drawn["learning_rate"] * meta_params["a"])

    meta_params = {"a": jnp.float32(2.0)}
    lives = randomised_lifetimes(task, build, RANGES, stretches=2, fitness="area")
    life = jax.jit(lives.init)(meta_params, KEY)
    first = dict(life[0])
    assert set(first) == set(RANGES)
    found = []
    for _ in range(2):
        life, fitness = jax.jit(lives.advance)(meta_params, life)
        found.append(float(fitness))
    assert {name: float(x) for name, x in life[0].items()} == {
        name: float(x) for name, x in first.items()
    }

    own = dataclasses.replace(CONFIG, reward_scale=first["reward_scale"], clip=first["clip"])
    same = lifetimes(dataclasses.replace(task, config=own), build(first), 2, "area")
    expected = jax.jit(same.init)(meta_params, jax.random.split(KEY)[0])
    for now in found:
        expected, fitness = jax.jit(same.advance)(meta_params, expected)
        np.testing.assert_allclose(now, fitness, rtol=1e-5)
    ours, theirs = (jax.tree.leaves(state.params) for state in (life[1], expected))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"widths": (1.0, 2.0)},
         f"what is randomised must be among {', '.join(RANDOMISED)}; got 'widths'."),
        ({"clip": (0.0, 0.2)},
         "the range of clip must be from above 0 to at least that; got 0..0.2."),
        ({"clip": (0.2, 0.1)},
         "the range of clip must be from above 0 to at least that; got 0.2..0.1."),
    ],
)  # fmt: skip
def test_ranges_that_make_no_sense(ranges, message):
    task = Task(probes.TwoSteps(), CONFIG)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        randomised_lifetimes(task, lambda drawn: lambda x: optax.sgd(1.0), ranges)
