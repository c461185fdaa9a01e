"""Weight clipping against a NumPy transcription, its base, and bounds worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_weight_clipping import NumpyWeightClipping
from quick import quick_jit
from replay import assert_same_walk, first_update, replay

import optim
from optim._promotion import with_standard_promotion


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyWeightClipping(params, 0.1, kappa=1.0, b2=0.99)
    expected = [dict(reference.step(grads)) for grads in trace]
    for name in ("kernel", "bias"):
        assert any(np.any(np.abs(step[name]) == 0.5) for step in expected)
    optimizer = optim.weight_clipping(optax.adam(0.1, b2=0.99), kappa=1.0)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


def test_wide_bounds_are_the_inner_optimizer():
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    actual, _ = replay(optim.weight_clipping(optax.adam(0.1), 1e30), params, trace, "float32")
    for mine, other in zip(actual, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


def test_by_hand():
    """Bounds of dense layers of 64 and 17 inputs, and of a convolution of 3 x 3 x 2."""
    params = {
        "a": {
            "kernel": jnp.full((64, 2), 0.4),
            "bias": jnp.full(2, 0.4),
            "scale": jnp.full(2, 9.0),
        },
        "b": {"kernel": jnp.full((17, 2), -1.0)},
        "c": {"kernel": jnp.full((3, 3, 2, 4), 1.0), "bias": jnp.full(4, -1.0)},
        "norm": {"bias": jnp.full(2, 9.0)},
        "log_std": jnp.full((2,), -9.0),
    }
    clipped = optim.clip_weights(params)
    expected = {
        "a": {"kernel": 0.375, "bias": 0.375, "scale": 9.0},
        "b": {"kernel": -3 / np.sqrt(17)},
        "c": {"kernel": 3 / np.sqrt(18), "bias": -3 / np.sqrt(18)},
        "norm": {"bias": 9.0},
        "log_std": -9.0,
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, expected)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.01), params)
    updates, _ = first_update(optim.weight_clipping(optax.sgd(1.0)), grads, params)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.025, rtol=1e-5)
    np.testing.assert_allclose(updates["log_std"], -0.01, rtol=1e-6)


def test_heads_and_ensembles():
    params = {
        "Dense_0": {"kernel": jnp.ones((2, 9, 3))},
        "Dense_1": {"kernel": jnp.ones((2, 4, 1))},
    }
    clipped = optim.clip_weights(params, 1.0, ensemble_axes=1, heads=False)
    np.testing.assert_allclose(clipped["Dense_0"]["kernel"], 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(clipped["Dense_1"]["kernel"], 1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bounds_hold(dtype):
    """Exactly by the function, to a rounding by the updates."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(100, 50)), dtype)}
    grads = {"kernel": jnp.asarray(rng.normal(size=(100, 50)), dtype)}
    bound = jnp.asarray(0.3, dtype)
    updates, _ = first_update(optim.weight_clipping(optax.sgd(1.0), 3.0), grads, params)
    reached = quick_jit(optax.apply_updates)(params, updates)["kernel"]
    excess = np.float64(jnp.max(jnp.abs(reached)).astype(jnp.float32)) / np.float64(bound) - 1
    assert excess <= 4 * float(jnp.finfo(dtype).eps)
    exact = optim.clip_weights(params)["kernel"]
    assert exact.dtype == dtype
    assert jnp.max(jnp.abs(exact)) == bound


def test_errors():
    for build in (
        lambda: optim.weight_clipping(optax.sgd(1.0), 0.0),
        lambda: optim.clip_weights({}, -1),
    ):
        with pytest.raises(ValueError, match=r"^kappa must be in \(0, inf\), got"):
            build()
    optimizer = optim.weight_clipping(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"^params must be the current parameters in weight"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
