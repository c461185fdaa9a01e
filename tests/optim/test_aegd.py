"""AEGD against a NumPy transcription and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_aegd import NumpyAegd
from quick import quick_jit
from ranges import check_ranges
from replay import compare
from trees import loss, make_params

import optim

# Too small for its c in the fourth step.
VALUES = [3.0, 1.5, 0.0, -7.0, 40.0, 0.1, 1e-8, 2.0, -0.9, 1.0, 5.0, 0.3, 0.2, 0.1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_numpy_trace(dtype, decoupled):
    schedule = optax.linear_schedule(0.1, 0.0, 20)
    rates = [0.1 * (1 - i / 20) for i in range(14)]
    compare(
        optim.aegd(schedule, weight_decay=0.02, decoupled_weight_decay=decoupled),
        NumpyAegd(rates, decay=0.02, decoupled=decoupled),
        awkward_gradients(),
        initial_params(),
        dtype,
        [{"value": value} for value in VALUES],
        # The schedule itself is computed in float32.
        factor=1.0 if dtype == "float32" else 1e5,
    )


def test_by_hand():
    """f = x^2 at 2 with c = 0: F = 2, q = 4 / 4 = 1, r = 2 / (1 + 2 * 0.5) = 1, step 2 * 0.5."""
    optimizer = optim.aegd(0.5, c=0.0)
    params = jnp.array([2.0])
    state = optimizer.init(params)
    updates, state = optimizer.update(2 * params, state, params, value=4.0)
    np.testing.assert_allclose(updates, [-1.0])
    np.testing.assert_allclose(state[0].energy, [1.0])
    params = params + updates
    # F = 1, q = 2 / 2 = 1, r = 1 / 2, step 2 * 0.5 * 0.5.
    updates, state = optimizer.update(2 * params, state, params, value=1.0)
    np.testing.assert_allclose(updates, [-0.5])
    np.testing.assert_allclose(state[0].energy, [0.5])


def test_the_energy_never_rises():
    optimizer = optim.aegd(10.0)
    params = make_params()
    state = optimizer.init(params)
    energies = []

    @quick_jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
        energies.append(state[0].energy)
    for name in params:
        path = np.stack([energy[name] for energy in energies])
        assert np.all(np.diff(path, axis=0) <= 0)
        assert np.all(path >= 0)


def test_small_steps_are_gradient_descent():
    """r q is near F times grad / (2 F)."""
    optimizer, grads = optim.aegd(1e-4), jnp.array([0.3, -2.0])
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads, value=5.0)
    np.testing.assert_allclose(updates, -1e-4 * grads, rtol=1e-3)


@pytest.mark.parametrize("value", [-0.999, -1.0, -50.0, -1e30])
def test_a_loss_below_minus_c_is_taken_for_the_floor(value):
    optimizer, grads = optim.aegd(0.1, floor=0.04), jnp.array([0.0, 1.0])
    state = optimizer.init(grads)
    updates, state = quick_jit(optimizer.update)(grads, state, grads, value=value)
    # F = 0.2, q = 2.5, r = 0.2 / (1 + 0.2 * 6.25).
    np.testing.assert_allclose(updates, [0.0, -0.2 * 2.5 * 0.2 / 2.25], rtol=1e-5)
    assert np.all(np.isfinite(state[0].energy))


def test_a_loss_that_is_nan_shows():
    optimizer, grads = optim.aegd(0.1), jnp.ones(2)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads, value=jnp.nan)
    assert np.all(np.isnan(updates))


def test_errors():
    check_ranges(optim.aegd, c="[0, inf)", weight_decay="[0, inf)", floor="(0, inf)")
    with pytest.raises(ValueError, match=r"^weight_decay must be"):
        optim.aegd(0.1, weight_decay=-1.0, decoupled_weight_decay=True)
    optimizer, params = optim.aegd(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"value must be the loss.*update\(.*value=\.\.\.\)"):
        optimizer.update(params, optimizer.init(params), params, obj_fn=jnp.sum)
