"""Statistics of observations, as functions that apply them and pytrees that hold them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Normalizer(NamedTuple):
    """Shift and scale of observations in a data set, each of shape (observation_size,)."""

    mean: jax.Array
    std: jax.Array

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Normalises observations of any leading shape."""
        shape = (1,) * (observation.ndim - 1) + self.mean.shape
        return (observation - self.mean.reshape(shape)) / self.std.reshape(shape)


class ObservationScaling(NamedTuple):
    """Shift and factor of an environment's observations, each of the shape of one of them."""

    mean: jax.Array
    factor: jax.Array

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Normalises observations of any leading shape."""
        lead = (1,) * (observation.ndim - self.mean.ndim)
        mean = self.mean.reshape(lead + self.mean.shape)
        return (observation.astype(jnp.float32) - mean) * self.factor.reshape(mean.shape)
