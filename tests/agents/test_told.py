"""Learners tell optimizers all that they ask for."""

import warnings

import jax
import numpy as np
import optax
import pytest
from quick import quick_jit

import optim
from agents import environments, networks
from agents.environment import Discrete
from agents.offline import networks as offline_networks
from agents.ppo import PPOConfig, ppo


@pytest.mark.parametrize("kind", [optim.OPEN, optim.LearnedCorrection])
def test_nothing_is_missed(kind):
    optimizer = kind().transform(kind().init(jax.random.key(0)))
    chain = optax.chain(optim.clip_by_network_norm(0.5), optimizer)
    config = PPOConfig(iterations=2, num_envs=4, num_steps=8, minibatches=2)

    def warned(tx):
        agent = ppo(environments.make("CartPole-v1"), config, tx)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jax.eval_shape(lambda key: agent.iterate(agent.init(key)), jax.random.key(0))
        messages = [str(warning.message) for warning in caught]
        return [text for text in messages if "is not told" in text or "update was given" in text]

    assert warned(chain) == []
    assert len(warned(optim.with_only_extra_args(chain, ["value"]))) == 1


@pytest.mark.parametrize(
    "network",
    [
        networks.Actor(Discrete(3), 1, (5, 6)),
        networks.Critic(1, (5, 6), "tanh"),
        offline_networks.Critic((5, 6), 1, layer_norm=True),
    ],
)
def test_the_helper_for_other_loops_says_the_same(network):
    key = jax.random.key(0)
    observations = jax.random.normal(key, (7, 4))

    @quick_jit
    def both():
        params = network.init(key, observations)
        found = optim.extras.activations(network, observations, params=params)
        return found, network.apply(params, observations)[1]

    found, expected = both()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
