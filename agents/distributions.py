"""The two distributions over actions that policies here use.

Written out because the usual library for them depends on nightly builds and relies on implicit
rank promotion, which this project's tests forbid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Categorical(NamedTuple):
    r"""Actions 0, ..., n - 1 with probabilities softmax(logits).

    Attributes:
        logits: float array of shape (..., n).

    Examples:
        >>> import jax.numpy as jnp
        >>> from agents.distributions import Categorical
        >>> distribution = Categorical(jnp.zeros((4,)))
        >>> round(float(distribution.entropy()), 4)  # log 4
        1.3863
    """

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws int32 actions of shape (...)."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """The likeliest actions, int32 of shape (...)."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_probability(self, action: jax.Array) -> jax.Array:
        """Logarithm of each action's probability, shape (...)."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(log_probabilities, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> jax.Array:
        """Entropy in nats, shape (...)."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)


class DiagonalGaussian(NamedTuple):
    """Independent normal actions in each dimension.

    Attributes:
        mean: float array of shape (..., n).
        log_std: logarithm of the standard deviation, the same shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from agents.distributions import DiagonalGaussian
        >>> distribution = DiagonalGaussian(jnp.zeros((2,)), jnp.zeros((2,)))
        >>> round(float(distribution.log_probability(jnp.zeros((2,)))), 4)  # -log(2 pi)
        -1.8379
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws float actions of shape (..., n)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> jax.Array:
        """The likeliest actions, which are the means."""
        return self.mean

    def log_probability(self, action: jax.Array) -> jax.Array:
        """Logarithm of each action's density, shape (...)."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(z) - self.log_std - 0.5 * math.log(2.0 * math.pi), axis=-1)

    def entropy(self) -> jax.Array:
        """Differential entropy in nats, shape (...)."""
        return jnp.sum(self.log_std + 0.5 * math.log(2.0 * math.pi * math.e), axis=-1)
