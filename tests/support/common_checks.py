"""The checks of `behaviour` in one call, with a few for optimizers that need no extra inputs."""

import behaviour
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest


def check_behaviour(factory, needs_params=True):
    """`factory` is a function of the learning rate."""
    optimizer = factory(0.01)
    check_dtypes(optimizer)
    behaviour.check_donation(optimizer)
    behaviour.check_vmap(optimizer)
    behaviour.check_holes(optimizer)
    behaviour.check_traced_numbers(factory, learning_rate=0.01)
    rates = [0.0, -1.0, float("nan"), "0.1", None]
    behaviour.check_refusals(factory, {"learning_rate": rates}, needs_params)
    check_mixed_dtypes(optimizer)
    check_empty_leaves(optimizer)
    check_derivative(factory)


def check_dtypes(optimizer):
    """Updates have the type of the parameters, the state keeps its own; it is compiled once."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        params, grads = behaviour.make_params(0, dtype), behaviour.make_params(1, dtype)
        # A new function each time: those of one function share what is compiled.
        update, state = jax.jit(lambda *args: optimizer.update(*args)), optimizer.init(params)
        for _ in range(2):
            updates, after = update(grads, state, params)
            assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, params)
            assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
            assert all(np.all(np.isfinite(np.float32(leaf))) for leaf in jax.tree.leaves(updates))
            state = after
        assert update._cache_size() == 1


def check_mixed_dtypes(optimizer):
    with jax.enable_x64(True):
        params = {"narrow": jnp.ones((2, 2), jnp.float32), "wide": jnp.ones((2, 2), jnp.float64)}
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert all(updates[name].dtype == leaf.dtype for name, leaf in params.items())


def check_empty_leaves(optimizer):
    params = {"none": jnp.ones((3, 0)), "kernel": jnp.ones((2, 2))}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["none"].shape == (3, 0)
    assert np.all(np.isfinite(updates["kernel"]))


def check_derivative(factory):
    """The derivative through two updates is finite, also where gradients or parameters vanish."""

    @jax.jit
    @jax.grad
    def derivative(numbers):
        optimizer = factory(numbers["rate"])
        params = {"kernel": numbers["param"] * jnp.ones((2, 3)), "bias": jnp.zeros(3)}
        state = optimizer.init(params)
        for _ in range(2):
            grads = jax.tree.map(lambda leaf: numbers["grad"] * jnp.cos(leaf), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    for grad in (0.0, 1.0):
        for param in (0.0, 1.0):
            result = derivative({"rate": 0.01, "grad": grad, "param": param})
            assert all(np.isfinite(value) for value in result.values()), (grad, param)


def check_ranges(factory, ranges):
    """`ranges` maps an argument to its range in words and to numbers outside it."""
    for name, (words, values) in ranges.items():
        for value in (*values, float("nan"), "1", True):
            with pytest.raises(ValueError) as error:  # noqa: PT011
                factory(0.01, **{name: value})
            assert str(error.value) == f"{name} must be in {words}, got {value!r}."


def falling(start, end, steps):
    """A linear schedule that is as exact as the dtype; optax's is in float32."""
    return lambda count: start - (start - end) / steps * jnp.asarray(count, float)
