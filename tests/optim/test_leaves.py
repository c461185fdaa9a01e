"""Arithmetic that others build on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim._leaves import largest


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_largest(shape):
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    value, slope = jax.value_and_grad(largest)(x)
    assert value == jnp.max(x)
    np.testing.assert_array_equal(slope, (x == jnp.max(x)).astype(jnp.float32))
