"""L2 Init against a NumPy transcription, its base, and pulls worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_l2_init import NumpyL2Init
from replay import assert_same_walk, replay
from told import check_told_of_penalty

import optim
from optim._promotion import with_standard_promotion

PENALTIES = ["squared", "mean", "norm"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_numpy_trace(penalty, dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyL2Init(params, 0.1, 0.5, penalty, b2=0.99, eps=1e-2)
    expected = [dict(reference.step(grads)) for grads in trace]
    optimizer = optim.l2_init(optax.adam(0.1, b2=0.99, eps=1e-2), 0.5, penalty)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_no_strength_is_the_inner_optimizer(penalty):
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    optimizer = optim.l2_init(optax.adam(0.1), 0.0, penalty)
    actual, _ = replay(optimizer, params, trace, "float32")
    for mine, other in zip(actual, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


def gradient(penalty, strength, params, initial, **options):
    """What the inner optimizer is given beside a gradient of zero."""
    optimizer = optim.l2_init(optax.identity(), strength, penalty, **options)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optimizer.update(zeros, optimizer.init(initial), params)[0]


def test_by_hand():
    params, initial = jnp.array([1.3, -2.4]), jnp.array([1.0, -2.0])
    for penalty, expected in {
        "squared": [0.003, -0.004],
        "mean": [0.003, -0.004],
        "norm": [0.006, -0.008],
    }.items():
        found = gradient(penalty, 0.01, params, initial)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_array_equal(gradient(penalty, 0.01, initial, initial), 0.0)
    four = gradient("mean", 0.01, jnp.full(4, 2.0), jnp.zeros(4))
    np.testing.assert_allclose(four, 0.01, rtol=1e-6)


def test_from_zero_it_is_weight_decay():
    params, trace = initial_params(), awkward_gradients()
    params = jax.tree.map(np.zeros_like, params)
    expected, _ = replay(optim.make("adam:l2=0.1", 0.1), params, trace, "float32")
    actual, _ = replay(optim.l2_init(optax.adam(0.1), 0.1), params, trace, "float32")
    assert_same_walk(actual, expected, params, "float32")


def test_only_what_the_mask_selects():
    """Also under the one norm for all leaves."""
    initial = {"actor": jnp.zeros(2), "critic": jnp.zeros((1, 2))}
    params = {"actor": jnp.array([3.0, 4.0]), "critic": jnp.array([[30.0, 40.0]])}
    mask = {"actor": True, "critic": False}
    found = gradient("norm", 1.0, params, initial, mask=mask)
    np.testing.assert_allclose(found["actor"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(found["critic"], 0.0)
    state = optim.l2_init(optax.identity(), mask=mask).init(params)
    assert jax.tree.map(jnp.size, state.initial) == {"actor": 2, "critic": 0}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradient_is_that_of_the_value(penalty):
    """With which line searches and second-order optimizers are told of the penalty."""
    initial = {"a": jnp.ones(3), "b": jnp.zeros((2, 2))}
    params = {"a": jnp.arange(3.0), "b": jnp.full((2, 2), -0.7)}
    wrap = lambda inner: optim.l2_init(inner, 0.3, penalty)  # noqa: E731
    more, _ = check_told_of_penalty(wrap, params, initial)
    assert more > 0.1


def test_errors():
    with pytest.raises(ValueError, match=r"^strength must be in \[0, inf\), got -1"):
        optim.l2_init(optax.sgd(1.0), -1.0)
    with pytest.raises(ValueError, match=r"^penalty must be one of squared, mean, norm, got 'l1'"):
        optim.l2_init(optax.sgd(1.0), penalty="l1")
    optimizer = optim.l2_init(optax.sgd(1.0))
    state = optimizer.init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"^params must be the current parameters in L2 Init"):
        optimizer.update(jnp.ones(2), state)
    with pytest.raises(ValueError, match=r"^hvp must be left out where L2 Init is set"):
        optimizer.update(jnp.ones(2), state, jnp.ones(2), hvp=jnp.ones(2))
