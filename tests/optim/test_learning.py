"""Every optimizer of ours trains PPO on a small task: a ball caught is worth 1, missed -1."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo

NAMES = [name for name in optim.optimizer_names() if optim.details(name)]
QUICK = ("adam_rel", "cautious_adamw")

CONFIG = PPOConfig(
    iterations=60, num_envs=16, num_steps=32, epochs=4, minibatches=2, widths=(32,), discount=0.95
)
SEEDS = 2
# An untrained policy catches about one ball in five; the margin is three more of ten.
MARGIN = 0.6

# What each is given where 5e-3 is not what suits it. A period is one iteration's updates.
SPECS = {
    "adam_rel": "adam_rel:period=8,learning_rate=5e-3",
    "adam_reset": "adam_reset:period=8,learning_rate=5e-3",
    "kron": "kron:learning_rate=2e-3",
    "trac": "trac:learning_rate=5e-2",
}


def returns(spec):
    """Mean return over seeds before training and over the last five iterations."""
    optimizer = optim.make(spec, learning_rate=5e-3)
    learner = ppo(environments.make("Catch-bsuite"), CONFIG, optimizer)

    def lifetime(key):
        def iterate(state, _):
            state, metrics = learner.iterate(state)
            return state, (metrics["episode_return_sum"], metrics["episodes"])

        return jax.lax.scan(iterate, learner.init(key), length=CONFIG.iterations)[1]

    total, episodes = jax.jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(0), SEEDS))
    mean = lambda part: float(total[part].sum()) / float(episodes[part].sum())  # noqa: E731
    return mean(jnp.s_[:, :1]), mean(jnp.s_[:, -5:])


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_it_learns(name):
    package = optim.details(name).package
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    untrained, trained = returns(SPECS.get(name, name))
    assert -1 <= untrained < -0.2
    assert trained > untrained + MARGIN


def test_names_are_known():
    assert set(SPECS) <= set(NAMES)
    assert set(QUICK) <= set(NAMES)
