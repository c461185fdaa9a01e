"""AdaMod against a NumPy transcription, Adam and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_adamod import NumpyAdaMod
from ranges import check_ranges
from replay import assert_same_walk, falling, first_update, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "b3": 0.8, "eps": 1e-6}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    """On a schedule, with step sizes on both sides of their average."""
    params, trace = initial_params(), awkward_gradients(steps=21)
    rates = np.linspace(0.01, 0.001, len(trace) + 1)[:-1]
    reference = NumpyAdaMod(params, rates, **HYPER, weight_decay=0.1)
    expected = [reference.step(grads) for grads in trace]
    assert min(reference.free, reference.bounded) > 20
    with jax.enable_x64(dtype == "float64"):
        schedule = falling(0.01, 0.001, len(trace))
        actual, _ = replay(optim.adamod(schedule, **HYPER, weight_decay=0.1), params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_average_is_adam(dtype):
    """With an eps that does not count: AdaMod's is added to the root of the uncorrected moment."""
    params, trace = initial_params(), awkward_gradients()
    trace = [{n: g + np.float32(0.1) for n, g in grads.items()} for grads in trace]
    with jax.enable_x64(dtype == "float64"):
        ours, _ = replay(
            optim.adamod(0.01, b3=0.0, eps=1e-30, weight_decay=0.1), params, trace, dtype
        )
        adamw = with_standard_promotion(optax.adamw(0.01, eps=1e-30, weight_decay=0.1))
        theirs, _ = replay(adamw, params, trace, dtype)
    assert_same_walk(ours, theirs, params, dtype)


def test_warm_up_by_hand():
    """With steady gradients the step sizes are 1, their average 1 - b3**t."""
    optimizer = optim.adamod(0.1, b1=0.0, b3=0.5, eps=1e-12)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for share in (0.5, 0.75, 0.875):
        updates, state = optimizer.update(jnp.array([1.0, -4.0]), state, params)
        np.testing.assert_allclose(updates, [-0.1 * share, 0.1 * share], rtol=1e-5)


def test_schedule_lags_by_hand():
    """After a drop from 1 to 0.1 the bound is still near 1 and does not bind."""

    def schedule(count):
        return jnp.where(count < 3, 1.0, 0.1)

    params = jnp.zeros(())
    whole = optim.adamod(schedule, b1=0.0, b3=0.5, eps=1e-12)
    without = optax.chain(
        optim.scale_by_adamod(b1=0.0, b3=0.5, eps=1e-12), optax.scale_by_learning_rate(schedule)
    )
    steps = {}
    for name, optimizer in {"whole": whole, "without": without}.items():
        state = optimizer.init(params)
        for _ in range(4):
            updates, state = optimizer.update(jnp.ones(()), state, params)
        steps[name] = -updates
    np.testing.assert_allclose(steps["whole"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(steps["without"], 0.1 * (1 - 0.5**4), rtol=1e-5)


def test_zero_learning_rate():
    optimizer = optim.adamod(optax.linear_schedule(0.1, 0.0, 1))
    params = jnp.ones(2)
    _, state = first_update(optimizer, params, params)
    updates, _ = optimizer.update(params, state, params)
    np.testing.assert_array_equal(updates, 0.0)


def test_ranges():
    check_ranges(
        optim.adamod,
        b1="[0, 1)",
        b2="[0, 1)",
        b3="[0, 1)",
        eps="(0, inf)",
        weight_decay="[0, inf)",
    )
