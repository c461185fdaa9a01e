"""EXAdam against a NumPy transcription, Adam and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_adam import NumpyAdam, awkward_gradients, initial_params
from numpy_exadam import NumpyEXAdam
from ranges import check_ranges
from replay import assert_same_walk, replay

import optim

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyEXAdam(params, 0.01, **HYPER, weight_decay=0.1)
    expected = [reference.step(grads) for grads in trace]
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optim.exadam(0.01, **HYPER, weight_decay=0.1), params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)


def test_first_step_by_hand():
    """With g = 1 and eps = 1: v = 0.001, m = 0.1, in units that make each factor visible."""
    optimizer = optim.scale_by_exadam(eps=1.0)
    params = jnp.zeros(())
    update, _ = optimizer.update(jnp.ones(()), optimizer.init(params), params)
    d1 = 1 + 0.001 / 1.001 * 0.999
    d2 = 1 + 0.01 / 1.01 * 0.9
    np.testing.assert_allclose(update, (d1 + 10 * d1) / (np.sqrt(d2) + 1), rtol=1e-5)


def test_no_memory_is_twice_sign_descent():
    """With both decay rates 0 the corrections are 1 and both terms of the step are g."""
    params, trace = initial_params(), awkward_gradients()
    optimizer = optim.scale_by_exadam(b1=0.0, b2=0.0, eps=1e-20)
    state = optimizer.init(params)
    for grads in trace:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
        for name, g in grads.items():
            np.testing.assert_allclose(updates[name], 2 * np.sign(g), rtol=1e-5)


def test_long_run_is_adam_plus_the_gradient():
    """Late, the mutual corrections are gone: Adam's step, and the same of the gradient."""
    adam, optimizer = NumpyAdam((), 0.5, 0.6), optim.scale_by_exadam(0.5, 0.6)
    params, rng = jnp.zeros(()), np.random.default_rng(0)
    state = optimizer.init(params)
    for _ in range(60):
        g = np.float32(rng.normal())
        update, state = optimizer.update(jnp.asarray(g), state, params)
        expected = adam.step(float(g)) + g / (np.sqrt(adam.v) + 1e-8)
    np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_ranges():
    check_ranges(optim.exadam, b1="[0, 1)", b2="[0, 1)", eps="(0, inf)", weight_decay="[0, inf)")
