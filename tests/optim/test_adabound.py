"""AdaBound and AMSBound against a NumPy transcription, Adam, AMSGrad and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adabound import NumpyAdaBound
from numpy_adam import awkward_gradients, initial_params
from ranges import check_ranges
from replay import assert_same_walk, falling, first_update, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}
BOTH = pytest.mark.parametrize("factory", [optim.adabound, optim.amsbound])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("base", [None, 0.005])
@BOTH
def test_numpy_trace(factory, base, dtype):
    """On a schedule, with bounds that are met from either side."""
    params, trace = initial_params(), awkward_gradients()
    rates = np.linspace(0.01, 0.001, len(trace) + 1)[:-1]
    reference = NumpyAdaBound(
        params,
        rates,
        base or rates[0],
        *HYPER.values(),
        final=0.02,
        gamma=0.3,
        weight_decay=0.1,
        ams=factory is optim.amsbound,
    )
    expected = [reference.step(grads) for grads in trace]
    assert min(reference.clipped) > 5
    with jax.enable_x64(dtype == "float64"):
        optimizer = factory(
            falling(0.01, 0.001, len(trace)),
            **HYPER,
            final_lr=0.02,
            gamma=0.3,
            weight_decay=0.1,
            base_learning_rate=base,
        )
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_open_bounds_are_adam(dtype):
    """With an eps that does not count: AdaBound adds it to the root of the uncorrected one."""
    params, trace = initial_params(), awkward_gradients()
    trace = [{n: g + np.float32(0.1) for n, g in grads.items()} for grads in trace]
    with jax.enable_x64(dtype == "float64"):
        adam = with_standard_promotion(optax.adam(0.01, eps=1e-30))
        for optimizer in (
            optim.adabound(0.01, eps=1e-30, gamma=0.0),
            optim.adabound(0.01, eps=1e-30, gamma=1e-20),
        ):
            ours, _ = replay(optimizer, params, trace, dtype)
            theirs, _ = replay(adam, params, trace, dtype)
            assert_same_walk(ours, theirs, params, dtype)


def test_eps_is_adams_without_its_correction():
    """By hand at the first step: g / (|g| + eps / sqrt(1 - b2))."""
    params, grad = jnp.zeros(()), jnp.asarray(0.5)
    optimizer = optim.adabound(0.1, b2=0.99, eps=0.05, gamma=0.0)
    updates, _ = first_update(optimizer, grad, params)
    np.testing.assert_allclose(updates, -0.1 * 0.5 / (0.5 + 0.05 / 0.1), rtol=1e-5)


@BOTH
def test_closed_bounds_are_sgd(factory):
    """With a large gamma every step size is final_lr, whatever the gradient."""
    optimizer = factory(0.1, final_lr=0.3, gamma=1e9)
    params, grads = jnp.zeros(3), jnp.array([1e-3, -1.0, 1e3])
    updates, _ = first_update(optimizer, grads, params)
    np.testing.assert_allclose(updates, -0.3 * 0.1 * grads, rtol=1e-5)


def test_amsbound_keeps_the_largest_moment():
    params = jnp.zeros(())
    steps = {}
    for factory in (optim.adabound, optim.amsbound):
        optimizer = factory(1.0, b1=0.0, b2=0.5, eps=1e-12, gamma=0.0)
        state = optimizer.init(params)
        for grad in (8.0, 0.0, 0.0, 1.0):
            updates, state = optimizer.update(jnp.asarray(grad), state, params)
        steps[factory] = -updates
    # v goes 32, 16, 8, 4.5.
    scale = np.sqrt(1 - 0.5**4)
    np.testing.assert_allclose(steps[optim.adabound], scale / np.sqrt(4.5), rtol=1e-5)
    np.testing.assert_allclose(steps[optim.amsbound], scale / np.sqrt(32), rtol=1e-5)


@BOTH
def test_direction_times_learning_rate(factory):
    direction = {
        optim.adabound: optim.scale_by_adabound,
        optim.amsbound: optim.scale_by_amsbound,
    }[factory]
    params, trace = initial_params(), awkward_gradients()
    chain = optax.chain(
        direction(final_ratio=0.02 / 0.01, gamma=0.3), optax.scale_by_learning_rate(0.01)
    )
    whole, _ = replay(factory(0.01, final_lr=0.02, gamma=0.3), params, trace, "float32")
    parts, _ = replay(chain, params, trace, "float32")
    assert_same_walk(parts, whole, params, "float32")


@BOTH
def test_ranges(factory):
    check_ranges(
        factory,
        b1="[0, 1)",
        b2="[0, 1)",
        eps="(0, inf)",
        final_lr="(0, inf)",
        gamma="[0, inf)",
        weight_decay="[0, inf)",
        base_learning_rate="(0, inf)",
    )


@BOTH
def test_warm_up_from_zero(factory):
    """It says what to give, in Python and in a spec; with that the bounds follow the schedule."""
    warm_up = optax.linear_schedule(0.0, 0.1, 5)
    message = (
        r"^base_learning_rate must be given for a schedule that starts at 0, .*: "
        r"base_learning_rate=\.\.\., its peak .*, as an argument or an option of the spec\.$"
    )
    with pytest.raises(ValueError, match=message):
        factory(warm_up)
    with pytest.raises(ValueError, match=message):
        optim.make(factory.__name__, warm_up)
    # With closed bounds every step is final_lr times the share of the peak that is reached.
    optimizer = factory(warm_up, base_learning_rate=0.1, final_lr=0.3, gamma=1e9, b1=0.0)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for share in (0.0, 0.2, 0.4):
        updates, state = optimizer.update(jnp.array([1.0, 10.0]), state, params)
        np.testing.assert_allclose(updates, [-0.3 * share, -3.0 * share], rtol=1e-5)


def test_injected_schedule_to_zero():
    params = initial_params()
    optimizer = optax.inject_hyperparams(optim.adabound)(optax.linear_schedule(0.1, 0.0, 1))
    optimizer = with_standard_promotion(optimizer)
    _, state = first_update(optimizer, params, params)
    updates, _ = optimizer.update(params, state, params)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0.0), updates)
