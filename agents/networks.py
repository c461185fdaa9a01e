"""Actor and critic networks that also report how active their units are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from agents.distributions import Categorical, DiagonalGaussian
from agents.environment import Box, Discrete

Activations = dict[str, Any]

NONLINEARITIES: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": nn.tanh}


def _orthogonal(scale: float) -> Callable[..., jax.Array]:
    """Orthogonal initialisation whose QR decomposition is never batched.

    On a CPU, XLA spreads a batched decomposition over its thread pool and waits there; two of them
    at the same time (actor and critic, under a vmap over seeds) can wait for each other forever.
    """
    initializer = nn.initializers.orthogonal(scale)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.custom_batching.sequential_vmap(lambda key: initializer(key, shape, dtype))(key)

    return init


def _unit_activity(x: jax.Array) -> jax.Array:
    """Mean absolute activation of each unit, shape (units,), over all leading axes."""
    return jnp.mean(jnp.abs(x), axis=tuple(range(x.ndim - 1)))


def _multilayer_perceptron(
    x: jax.Array, widths: Sequence[int], outputs: int, nonlinearity: str, output_scale: float
) -> tuple[jax.Array, Activations]:
    """Dense layers with orthogonal weights, called inside a compact module.

    Returns the output and, for each layer's kernel and bias, the activity of its units after the
    nonlinearity (for the last layer, of its raw output).
    """
    activations: Activations = {}
    for i, width in enumerate([*widths, outputs]):
        hidden = i < len(widths)
        name = f"Dense_{i}"
        x = nn.Dense(width, kernel_init=_orthogonal(2**0.5 if hidden else output_scale), name=name)(
            x
        )
        if hidden:
            x = NONLINEARITIES[nonlinearity](x)
        activations[name] = dict.fromkeys(("kernel", "bias"), _unit_activity(x))
    return x, activations


def hidden_layers(
    network: Actor | Critic, params: Any, observation: jax.Array
) -> tuple[jax.Array, ...]:
    """Activations of a network's hidden layers, after the nonlinearity, from first to last.

    Args:
        network: whose layers.
        params: its parameters.
        observation: observations of any leading shape.

    Returns:
        For each layer an array of shape (..., units), the observations' leading axes first.
    """
    _, captured = network.apply(
        {"params": params},
        observation,
        capture_intermediates=lambda module, method: isinstance(module, nn.Dense),
        mutable="intermediates",
    )
    dense = captured["intermediates"]
    return tuple(
        NONLINEARITIES[network.nonlinearity](dense[f"Dense_{i}"]["__call__"][0])
        for i in range(len(network.widths))
    )


def _flat(observation: jax.Array, observation_ndim: int) -> jax.Array:
    lead = observation.shape[: observation.ndim - observation_ndim]
    return observation.reshape((*lead, -1)).astype(jnp.float32)


class Actor(nn.Module):
    """A policy: categorical for `Discrete` actions, a diagonal Gaussian for `Box` ones.

    The Gaussian's logarithmic standard deviation is a parameter `log_std` of shape (size,) that
    does not depend on the observation and starts at 0.

    Attributes:
        action_space: `Discrete` or `Box`.
        observation_ndim: number of trailing axes that make one observation; they are flattened.
        widths: units of the hidden layers.
        nonlinearity: a key of `NONLINEARITIES`.

    Returns from `apply({"params": ...}, observation)`: the distribution, and the mean absolute
    activations as a tree that mirrors the parameters. `log_std` counts as a single unit whose
    activity is the mean standard deviation.
    """

    action_space: Discrete | Box
    observation_ndim: int = 1
    widths: Sequence[int] = (64, 64)
    nonlinearity: str = "relu"

    @nn.compact
    def __call__(
        self, observation: jax.Array
    ) -> tuple[Categorical | DiagonalGaussian, Activations]:
        """Gives the distribution over actions and the activations."""
        x = _flat(observation, self.observation_ndim)
        x, activations = _multilayer_perceptron(
            x, self.widths, self.action_space.size, self.nonlinearity, output_scale=0.01
        )
        if isinstance(self.action_space, Discrete):
            return Categorical(x), activations
        log_std = self.param(
            "log_std", nn.initializers.zeros, (self.action_space.size,), jnp.float32
        )
        activations["log_std"] = jnp.mean(jnp.exp(log_std), keepdims=True)
        log_std = jnp.broadcast_to(log_std.reshape((1,) * (x.ndim - 1) + log_std.shape), x.shape)
        return DiagonalGaussian(x, log_std), activations


class Critic(nn.Module):
    """A state-value function.

    Attributes are as `Actor`'s. Returns from `apply({"params": ...}, observation)`: values of the
    observation's leading shape, and the mean absolute activations.
    """

    observation_ndim: int = 1
    widths: Sequence[int] = (64, 64)
    nonlinearity: str = "relu"

    @nn.compact
    def __call__(self, observation: jax.Array) -> tuple[jax.Array, Activations]:
        """Gives the values and the activations."""
        x = _flat(observation, self.observation_ndim)
        x, activations = _multilayer_perceptron(
            x, self.widths, 1, self.nonlinearity, output_scale=1.0
        )
        return x[..., 0], activations
