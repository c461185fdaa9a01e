"""SWATS against a NumPy transcription, Adam, SGD and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_swats import NumpySWATS
from ranges import check_ranges
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}


def settling_gradients(steps=16):
    """Awkward ones with a steady direction among them, on which the estimates settle."""
    trace = awkward_gradients(steps)
    steady = {name: 2 + np.abs(g) for name, g in trace[0].items()}
    return [
        jax.tree.map(lambda a, b: np.float32(a + 0.1 * b), steady, grads) if i % 7 < 2 else grads
        for i, grads in enumerate(trace)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("tolerance", "switch"), [(1e-9, False), (1e-3, True)])
def test_numpy_trace(tolerance, switch, dtype):
    params, trace = initial_params(), settling_gradients()
    reference = NumpySWATS(params, 0.01, **HYPER, tolerance=tolerance)
    expected = [reference.step(grads) for grads in trace]
    assert (reference.switched_at is not None) == switch
    if switch:
        assert 1 < reference.switched_at < len(trace) - 5
    with jax.enable_x64(dtype == "float64"):
        optimizer = optim.swats(0.01, **HYPER, tolerance=tolerance)
        actual, (state, _) = replay(optimizer, params, trace, dtype)
        sgd_rate = float(state.sgd_rate)
    assert_same_walk(actual, expected, params, dtype, factor=3)
    if switch:
        np.testing.assert_allclose(0.01 * sgd_rate, reference.sgd_rate, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_before_the_switch_it_is_adam(dtype):
    """With an eps that does not count: SWATS adds it to the root of the uncorrected moment."""
    params, trace = initial_params(), awkward_gradients()
    trace = [{n: g + np.float32(0.1) for n, g in grads.items()} for grads in trace]
    with jax.enable_x64(dtype == "float64"):
        ours, (state, _) = replay(optim.swats(0.01, eps=1e-30, tolerance=0.0), params, trace, dtype)
        adam = with_standard_promotion(optax.adam(0.01, eps=1e-30))
        theirs, _ = replay(adam, params, trace, dtype)
        assert state.sgd_rate == 0
    assert_same_walk(ours, theirs, params, dtype)


def test_after_the_switch_it_is_sgd():
    """By hand: steady gradients [1, 3] have the estimate 2 / 4, at which it switches at once."""
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    grads = {"a": jnp.asarray(1.0), "b": jnp.asarray(3.0)}
    optimizer = optim.swats(0.1, b1=0.8, tolerance=1e-4)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(grads, state, params)
        np.testing.assert_allclose(updates["b"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(state[0].sgd_rate, 0.5, rtol=1e-5)
    sgd = optax.sgd(0.2 * 0.1 * 0.5, momentum=0.8)
    sgd_state = sgd.init(params)
    for i in range(4):
        grads = jax.tree.map(lambda g, i=i: g * (1 - i), grads)
        updates, state = optimizer.update(grads, state, params)
        expected, sgd_state = sgd.update(grads, sgd_state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)
        np.testing.assert_allclose(state[0].sgd_rate, 0.5, rtol=1e-5)


def test_zero_gradients_leave_the_estimate():
    optimizer = optim.scale_by_swats(tolerance=1.0)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.zeros(2), state, params)
        np.testing.assert_array_equal(updates, 0.0)
    assert state.rate_average == state.sgd_rate == 0


def test_negative_rates_are_refused():
    """After the turn the momentum goes uphill: every estimate is negative."""
    optimizer = optim.scale_by_swats(tolerance=1e-9)
    params = jnp.zeros(())
    state = optimizer.init(params)
    _, state = optimizer.update(jnp.asarray(100.0), state, params)
    average = state.rate_average
    for _ in range(5):
        update, state = optimizer.update(
            jnp.asarray(-1.0), state._replace(nu=state.nu * 0 + 1), params
        )
        assert update > 0
    assert state.rate_average < average
    settled = state._replace(rate_average=-(1 - 0.999**6) * update / 1.0, sgd_rate=jnp.zeros(()))
    _, after = optim.scale_by_swats(tolerance=100.0).update(jnp.asarray(-1.0), settled, params)
    assert after.sgd_rate == 0


def test_schedule_acts_after_the_switch():

    def schedule(count):
        return jnp.where(count < 3, 0.1, 0.05)

    optimizer = optim.swats(schedule, b1=0.0, tolerance=1e-4)
    params, grads = jnp.zeros(2), jnp.array([1.0, 3.0])
    state = optimizer.init(params)
    sizes = []
    for _ in range(5):
        updates, state = optimizer.update(grads, state, params)
        sizes.append(-updates[1])
    np.testing.assert_allclose(sizes, [0.1, 0.1, 0.15, 0.075, 0.075], rtol=1e-5)


def test_each_seed_switches_on_its_own():
    optimizer = optim.scale_by_swats(tolerance=1e-3)

    def run(turns):
        params = jnp.zeros(2)
        state = optimizer.init(params)
        for i in range(4):
            grads = jnp.array([1.0, 3.0]) * jnp.where(turns, (-2.0) ** i, 1.0)
            _, state = optimizer.update(grads, state, params)
        return state.sgd_rate > 0

    np.testing.assert_array_equal(jax.vmap(run)(jnp.array([False, True])), [True, False])


def test_ranges():
    check_ranges(optim.swats, b1="[0, 1)", b2="[0, 1)", eps="(0, inf)", tolerance="[0, inf)")
