"""Trees with leaves of all kinds, a loss of them, and their comparison."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"kernel": (4, 3), "wide": (2, 5), "conv": (2, 2, 2, 3), "bias": (3,), "scale": ()}


def make_params(key=0):
    rng = np.random.default_rng(key)
    return {name: jnp.asarray(rng.normal(size=shape), float) for name, shape in SHAPES.items()}


def loss(params):
    terms = [jnp.sum((leaf - 0.5) ** 2 + leaf**4 / 4) for leaf in jax.tree.leaves(params)]
    return sum(terms, start=jnp.zeros(()))


def close(actual, expected, rtol=1e-4, atol=1e-6):
    check = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(lambda a, b: check(np.asarray(a, np.float64), b), actual, expected)
