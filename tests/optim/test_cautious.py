"""Cautious updates against a NumPy transcription, Adam, and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_cautious import NumpyCautiousAdamW
from replay import assert_same_walk, first_update, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", ["mean", "paper"])
def test_numpy_trace(scale, dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyCautiousAdamW(params, 0.01, **HYPER, decay=0.1, scale=scale)
    expected = [dict(reference.step(grads)) for grads in trace]
    optimizer = optim.cautious_adamw(0.01, **HYPER, weight_decay=0.1, scale=scale)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


def test_wrapper_is_the_alias():
    """On the negative updates of a whole optimizer the same entries are kept."""
    params, trace = initial_params(), awkward_gradients()
    alias, _ = replay(optim.cautious_adamw(0.01, **HYPER), params, trace, "float32")
    wrapper = optim.cautious(optax.adam(0.01, **HYPER))
    wrapped, _ = replay(wrapper, params, trace, "float32")
    assert_same_walk(wrapped, alias, params, "float32")


def test_all_kept_is_adamw():
    """A gradient that never turns keeps every entry."""
    params = initial_params()
    trace = [{name: np.abs(g) + 0.1 for name, g in grads.items()} for grads in awkward_gradients()]
    ours, _ = replay(optim.cautious_adamw(0.01, weight_decay=0.1), params, trace, "float32")
    adamw = with_standard_promotion(optax.adamw(0.01, eps=1e-6, weight_decay=0.1))
    theirs, _ = replay(adamw, params, trace, "float32")
    for mine, other in zip(ours, theirs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


@pytest.mark.parametrize(("scale", "factor"), [("mean", 2.0), ("paper", 4 / 3)])
def test_mask_and_scale_by_hand(scale, factor):
    """Of four entries the momentum agrees with the gradient in two."""
    optimizer = optim.cautious(optax.sgd(1.0, momentum=1.0), scale)
    params = jnp.zeros(4)
    _, state = first_update(optimizer, jnp.array([1.0, 1.0, 3.0, 1.0]), params)
    updates, _ = optimizer.update(jnp.array([1.0, -3.0, -1.0, 0.0]), state, params)
    np.testing.assert_allclose(updates, factor * np.array([-2.0, 2.0, 0.0, 0.0]), rtol=1e-6)


def test_scale_is_bounded():
    optimizer = optim.cautious(optax.sgd(1.0, momentum=1.0))
    params = jnp.zeros(5000)
    _, state = optimizer.update(jnp.ones(5000), optimizer.init(params), params)
    grads = jnp.full(5000, -0.1).at[0].set(1.0)
    updates, _ = optimizer.update(grads, state, params)
    np.testing.assert_allclose(updates[0], -2000.0, rtol=1e-6)
    np.testing.assert_array_equal(updates[1:], 0.0)


def test_products_that_underflow_still_count():
    optimizer = optim.cautious(optax.sgd(1.0))
    grads = jnp.array([1e-30, -1e-30])
    updates, _ = first_update(optimizer, grads, grads)
    np.testing.assert_array_equal(updates, -grads)


def test_nan_shows():
    optimizer = optim.cautious(optax.sgd(1.0))
    grads = jnp.array([jnp.nan, 1.0])
    updates, _ = first_update(optimizer, grads, grads)
    assert jnp.isnan(updates[0])


def test_decay_is_not_masked_by_sign():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = optim.cautious_adamw(0.1, weight_decay=0.5, mask={"kernel": True, "bias": False})
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = first_update(optimizer, grads, params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("b1", 1.0), ("b2", -0.1), ("eps", -1.0), ("weight_decay", -1.0)],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.cautious_adamw(**{"learning_rate": 1e-3, name: value})


def test_other_errors():
    for build in (lambda: optim.cautious_adamw(1e-3, scale="sum"), lambda: optim.cautious(None, 1)):
        with pytest.raises(ValueError, match="scale must be one of mean, paper"):
            build()
    optimizer = optim.cautious_adamw(1e-3)
    params = jnp.ones(2, jnp.complex64)
    with pytest.raises(ValueError, match="cautious must be given real gradients"):
        optimizer.update(params, optimizer.init(params), params)
