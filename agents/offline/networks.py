"""Networks of the offline learners; they compute in the dtype of what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from agents.distributions import DiagonalGaussian
from agents.networks import Activations, _orthogonal, _unit_activity

Initialize = Callable[..., jax.Array]

INITIALIZATIONS = ("uniform", "edac", "orthogonal")
LOG_STD_RANGE = (-20.0, 2.0)


def _uniform(bound: float) -> Initialize:
    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _initializers(
    initialization: str, fan_in: int, output_bound: float | None
) -> tuple[Initialize, Initialize]:
    """Initialisers of a kernel and its bias; `output_bound` is None in hidden layers."""
    by_fan_in = _uniform(fan_in**-0.5)
    if initialization == "orthogonal":
        return _orthogonal(2**0.5), nn.initializers.zeros
    if initialization == "edac":
        if output_bound is not None:
            return _uniform(output_bound), _uniform(output_bound)
        return by_fan_in, nn.initializers.constant(0.1)
    return by_fan_in, by_fan_in


def applied(module: nn.Module, params: dict[str, Any], *inputs: Any) -> Any:
    """Applies a module, whose results flax types too widely."""
    return module.apply({"params": params}, *inputs)


def _dropped(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


class _LayerNorm(nn.Module):
    """Layer normalisation with a scale and a bias, in the dtype of its input.

    flax's own computes partly in float32, which JAX's strict promotion refuses for float64, and its
    default variance cancels where activations are large (in PARS, at actions of 1000).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-6)
        lead = (1,) * (x.ndim - 1)
        return x * scale.reshape(lead + scale.shape) + bias.reshape(lead + bias.shape)


class MultilayerPerceptron(nn.Module):
    """Dense layers with ReLU, and layer normalisation after it where asked; the base of the rest.

    Parameters are `Dense_0`, ..., each with `kernel` and `bias`, and `LayerNorm_0`, ..., each with
    `scale` and `bias`.

    Attributes:
        widths: units of the hidden layers.
        outputs: units of the last layer.
        layer_norm: whether hidden layers are normalised, after the nonlinearity (epsilon 1e-6).
        initialization: of kernel and bias. 'uniform': both uniform within 1 / sqrt(fan-in), as
            PyTorch does; 'edac': likewise, but hidden biases 0.1 and the last layer uniform within
            `output_bound`; 'orthogonal': orthogonal times sqrt(2), biases 0.
        output_bound: see 'edac'.
        dropout: rate of dropout after each hidden layer, where a key is given.
    """

    widths: Sequence[int]
    outputs: int
    layer_norm: bool = False
    initialization: str = "uniform"
    output_bound: float = 3e-3
    dropout: float = 0.0

    def layers(self, x: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, Activations]:
        """Applies all layers, inside a compact method.

        Returns outputs of shape (..., outputs), and the mean absolute activations as a tree that
        mirrors the parameters.
        """
        activations: Activations = {}
        for i, width in enumerate([*self.widths, self.outputs]):
            hidden = i < len(self.widths)
            kernel_init, bias_init = _initializers(
                self.initialization, x.shape[-1], None if hidden else self.output_bound
            )
            dense = nn.Dense(width, kernel_init=kernel_init, bias_init=bias_init, name=f"Dense_{i}")
            x = dense(x)
            if hidden:
                x = nn.relu(x)
            activations[f"Dense_{i}"] = dict.fromkeys(("kernel", "bias"), _unit_activity(x))
            if hidden and self.layer_norm:
                x = _LayerNorm(name=f"LayerNorm_{i}")(x)
                activations[f"LayerNorm_{i}"] = dict.fromkeys(("scale", "bias"), _unit_activity(x))
            if hidden and self.dropout > 0.0 and key is not None:
                key, layer_key = jax.random.split(key)
                x = _dropped(x, layer_key, self.dropout)
        return x, activations


class DeterministicActor(MultilayerPerceptron):
    """A policy a = tanh(network(s)) in [-1, 1]; `outputs` is the number of action dimensions."""

    @nn.compact
    def __call__(self, observation: jax.Array) -> tuple[jax.Array, Activations]:
        """Gives actions of shape (..., outputs), and activations."""
        x, activations = self.layers(observation)
        return jnp.tanh(x), activations


class GaussianActor(MultilayerPerceptron):
    """A Gaussian policy with mean tanh(network(s)) and a spread that does not depend on s.

    The logarithmic standard deviation is a parameter `log_std`, one number for each action
    dimension, clipped to [-20, 2] and initially 0. Its activation is the standard deviation.
    """

    @nn.compact
    def __call__(
        self, observation: jax.Array, key: jax.Array | None = None
    ) -> tuple[DiagonalGaussian, Activations]:
        """Gives the distribution, and activations; the key is for dropout."""
        x, activations = self.layers(observation, key)
        log_std = jnp.clip(
            self.param("log_std", nn.initializers.zeros, (self.outputs,), jnp.float32),
            *LOG_STD_RANGE,
        )
        activations["log_std"] = jnp.exp(log_std)
        spread = jnp.broadcast_to(log_std.reshape((1,) * (x.ndim - 1) + log_std.shape), x.shape)
        return DiagonalGaussian(jnp.tanh(x), spread), activations


class Critic(MultilayerPerceptron):
    """A value of observations, or of observations joined with actions; `outputs` is 1."""

    outputs: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, Activations]:
        """Gives values of the leading shape, and activations."""
        x, activations = self.layers(inputs)
        return x[..., 0], activations
