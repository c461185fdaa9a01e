"""Periodic resets against a NumPy transcription and the inner optimizer started anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_periodic_reset import NumpyAdamReset
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-5}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["period", "reset"])
def test_numpy_trace(way, dtype):
    params, trace = initial_params(), awkward_gradients()
    new = [i % 4 == 0 for i in range(len(trace))]
    reference = NumpyAdamReset(params, 0.01, **HYPER)
    expected = [dict(reference.step(g, r)) for g, r in zip(trace, new, strict=True)]
    optimizer = optim.adam_reset(0.01, **HYPER, period=4 if way == "period" else None)
    extra = [{"reset": r} for r in new] if way == "reset" else None
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype, extra)
    assert_same_walk(actual, expected, params, dtype)


@pytest.mark.parametrize("period", [None, 1000])
def test_no_reset_is_the_inner_optimizer(period):
    params, trace = initial_params(), awkward_gradients()
    inner = with_standard_promotion(optax.adam(0.01))
    expected, _ = replay(inner, params, trace, "float32")
    for optimizer in (
        optim.adam_reset(0.01, period=period),
        optim.reset_state(optax.adam(0.01), period),
    ):
        actual, _ = replay(optimizer, params, trace, "float32")
        for mine, other in zip(actual, expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, mine, other)


def test_after_a_reset_the_inner_optimizer_is_new():
    """For one whose state begins with the parameters."""
    params, trace = initial_params(), awkward_gradients(steps=5)
    inner = with_standard_promotion(optax.contrib.schedule_free_sgd(0.1))
    expected, _ = replay(inner, params, trace[:3], "float32")
    rest, state = replay(inner, expected[-1], trace[3:], "float32")
    actual, reset = replay(optim.reset_state(inner, 3), params, trace, "float32")
    for mine, other in zip(actual, expected + rest, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine, other)
    assert int(reset.count) == 2
    assert jax.tree.structure(reset.inner_state) == jax.tree.structure(state)


def test_the_schedule_goes_on():
    params, trace = initial_params(), awkward_gradients(steps=7)
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    _, state = replay(optim.adam_reset(schedule, period=3), params, trace, "float32")
    assert int(state[0].count) == int(state[0].inner_state.count) == 1
    assert int(state[1].count) == 7


def test_a_period_comes_before_reset():
    """So that a period of one's own holds under a learner that passes `reset`."""
    optimizer = optim.reset_state(optax.sgd(1.0, momentum=1.0), period=3)
    params = jnp.zeros([])
    state = optimizer.init(params)
    steps = []
    for i in range(6):
        updates, state = optimizer.update(jnp.ones([]), state, params, reset=i == 2)
        steps.append(-float(updates))
    assert steps == [1, 2, 3, 1, 2, 3]


def test_the_period_can_be_traced():
    def last_step(period):
        optimizer = optim.reset_state(optax.sgd(1.0, momentum=1.0), period)
        params = jnp.zeros([])
        step = lambda state, g: optimizer.update(g, state, params)[::-1]  # noqa: E731
        return jax.lax.scan(step, optimizer.init(params), jnp.ones(10))[1][-1]

    np.testing.assert_array_equal(jax.vmap(last_step)(jnp.array([1, 4, 7])), [-1.0, -2.0, -3.0])


def test_random_keys_in_the_state():
    inner = optax.add_noise(0.1, 0.5, jax.random.key(0))
    optimizer = optim.reset_state(inner, period=2)
    params = jnp.zeros(3)
    state = optimizer.init(params)
    noise = []
    for _ in range(3):
        updates, state = optimizer.update(jnp.zeros(3), state, params)
        noise.append(updates)
    np.testing.assert_array_equal(noise[2], noise[0])
    assert np.any(noise[1] != noise[0])


def test_errors():
    with pytest.raises(ValueError, match=r"period must be .*got 0\."):
        optim.reset_state(optax.adam(1e-3), period=0)
    with pytest.raises(ValueError, match="learning_rate must be in"):
        optim.adam_reset(0.0)
    for name in ("b1", "b2"):
        with pytest.raises(ValueError, match=f"^{name} must be in"):
            optim.adam_reset(1e-3, **{name: 1.0})
    optimizer = optim.adam_reset(1e-3)
    with pytest.raises(ValueError, match="params must be the current parameters"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
