"""Trees with leaves of all kinds, a loss of them, and their comparison."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"kernel": (4, 3), "wide": (2, 5), "conv": (2, 2, 2, 3), "bias": (3,), "scale": ()}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """A layer as equinox has it: also a function and an integer are among its leaves."""

    kernel: Any
    bias: Any
    activation: Any
    calls: Any
    width: int = dataclasses.field(metadata={"static": True}, default=3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Networks:
    """Two networks side by side, in a node that is no dict."""

    actor: Any
    critic: Any


def make_params(key=0):
    rng = np.random.default_rng(key)
    return {name: jnp.asarray(rng.normal(size=shape), float) for name, shape in SHAPES.items()}


def loss(params):
    terms = [jnp.sum((leaf - 0.5) ** 2 + leaf**4 / 4) for leaf in jax.tree.leaves(params)]
    return sum(terms, start=jnp.zeros(()))


def close(actual, expected, rtol=1e-4, atol=1e-6):
    check = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(lambda a, b: check(np.asarray(a, np.float64), b), actual, expected)
