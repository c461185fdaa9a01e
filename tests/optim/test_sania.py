"""SANIA against a NumPy transcription, its limits and the invariance it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_sania import NumpySania
from quick import quick_jit
from ranges import check_ranges
from replay import compare

import optim

# Below the smallest, far below half the inner product, near it, above it.
VALUES = [3.0, 1.5, 0.0, 0.4, 40.0, 0.1, 1e-8, 2.0, -0.9, 1.0, 5.0, 0.3, 0.2, 0.1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_numpy_trace(kind, root, dtype):
    compare(
        optim.sania(0.5, preconditioner=kind, b2=0.9, f_min=-0.5, square_root=root),
        NumpySania(0.5, kind, b2=0.9, f_min=-0.5, root=root),
        awkward_gradients(),
        initial_params(),
        dtype,
        [{"value": value} for value in VALUES],
    )


def direction_of(grads, value, **options):
    direction = optim.scale_by_sania(**options)
    return quick_jit(direction.update)(grads, direction.init(grads), value=value)[0]


def test_the_step_is_whole_where_the_loss_is_large():
    """B is g^2 in the first step, so d is 1 / g, and n counts the weights."""
    grads = jnp.array([2.0, -4.0])
    for value in (1.001, 10.0, 1e30):
        np.testing.assert_allclose(direction_of(grads, value), [0.5, -0.25], rtol=1e-6)
    # rho = 2 * 0.5 / 2.
    np.testing.assert_allclose(direction_of(grads, 0.5), 0.29289322 / grads, rtol=1e-6)


def test_small_losses_give_polyaks_step():
    """1 - sqrt(1 - rho) is rho / 2 there, and must keep its digits in float32."""
    grads = jnp.array([2.0, -4.0])
    np.testing.assert_allclose(direction_of(grads, 1e-12), 5e-13 / grads, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -0.5, -1e30])
def test_no_step_at_or_below_the_smallest_loss(value):
    np.testing.assert_array_equal(direction_of(jnp.array([2.0, -4.0]), value), 0.0)
    assert np.all(direction_of(jnp.ones(2), value, f_min=-2e30) > 0)


def test_zero_gradients_take_no_step():
    for value in (-1.0, 0.0, 1.0):
        np.testing.assert_array_equal(direction_of(jnp.zeros(2), value), 0.0)


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_scaled_problems_take_the_same_path(kind):
    """With x = s y, the path of y is that of x divided by s, while eps is out of play."""
    scales = jnp.array([0.1, 1.0, 30.0])
    target = jnp.array([1.0, -2.0, 3.0])

    @quick_jit
    def path(scales):
        optimizer = optim.sania(preconditioner=kind, eps=1e-12)
        params = 0.1 / scales
        state = optimizer.init(params)
        losses = []
        for _ in range(8):
            value, grads = jax.value_and_grad(lambda p: jnp.sum((scales * p - target) ** 2) + 1.0)(
                params
            )
            updates, state = optimizer.update(grads, state, params, value=value)
            params = optax.apply_updates(params, updates)
            losses.append(value)
        return jnp.stack(losses)

    np.testing.assert_allclose(path(scales), path(jnp.ones(3)), rtol=1e-3)


def test_errors():
    check_ranges(optim.sania, b2="[0, 1)", eps="(0, inf)", f_min="(-inf, inf)")
    with pytest.raises(ValueError, match="preconditioner must be one of adam, adagrad, got"):
        optim.sania(preconditioner="adam_sqr")
    optimizer, params = optim.sania(), jnp.ones(2)
    with pytest.raises(ValueError, match=r"value must be the loss.*update\(.*value=\.\.\.\)"):
        optimizer.update(params, optimizer.init(params), params, obj_fn=jnp.sum)
