"""Brax's PPO with another optimizer: it takes none and passes no parameters to `update`."""

import types
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from brax import envs
from brax.training.agents.ppo import networks
from brax.training.agents.ppo import train as ppo

import optim


def adam(learning_rate):
    """In the place of `optax.adam`. Brax's networks are called policy and value."""
    return optim.keep_params(  # `update(grads, state)`: the state keeps the parameters
        optax.chain(
            optim.clip_by_network_norm(0.5),
            optim.adamo(
                learning_rate, kappa=1.0, tau=0.05, matrix_mask={"policy": False, "value": True}
            ),
        )
    )


def device_put_replicated(tree, devices):
    """Newer versions of jax have this no more, and Brax 0.14 calls it."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(devices)), tree)


def report(steps, metrics):
    print(f"{steps} steps: return {metrics['eval/episode_reward']:.1f}")


theirs = types.SimpleNamespace(**vars(optax) | {"adam": adam})
with (
    mock.patch.object(ppo, "optax", theirs),
    mock.patch.object(jax, "device_put_replicated", device_put_replicated, create=True),
):
    ppo.train(
        envs.get_environment("fast"),  # moves nothing, but is compiled at once; or "ant"
        num_timesteps=2048,
        episode_length=16,
        num_envs=32,
        num_eval_envs=8,
        num_evals=2,
        unroll_length=8,
        batch_size=32,
        num_minibatches=2,
        num_updates_per_batch=2,
        learning_rate=1e-3,
        network_factory=lambda *args, **kwargs: networks.make_ppo_networks(
            *args, policy_hidden_layer_sizes=(16,), value_hidden_layer_sizes=(16,), **kwargs
        ),
        progress_fn=report,
    )
