"""Learners tell optimizers all that they ask for."""

import warnings

import jax
import optax
import pytest

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo


@pytest.mark.parametrize("kind", [optim.OPEN, optim.LearnedCorrection])
def test_nothing_is_missed(kind):
    optimizer = kind().transform(kind().init(jax.random.key(0)))
    chain = optax.chain(optim.clip_by_network_norm(0.5), optimizer)
    config = PPOConfig(iterations=2, num_envs=4, num_steps=8, minibatches=2)
    agent = ppo(environments.make("CartPole-v1"), config, chain)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is not told")
        warnings.filterwarnings("error", message="update was given")
        jax.eval_shape(lambda key: agent.iterate(agent.init(key)), jax.random.key(0))
