"""Projection to given norms against a NumPy transcription, its base, and kernels worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_normalize_project import NumpyNormalizeProject
from quick import quick_jit
from replay import assert_same_walk, first_update, replay

import optim
from optim._promotion import with_standard_promotion

NORMS = ["initial", "unit_columns"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norms", NORMS)
def test_numpy_trace(norms, dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyNormalizeProject(params, 0.1, norms, b2=0.99)
    expected = [dict(reference.step(grads)) for grads in trace]
    optimizer = optim.normalize_project(optax.adam(0.1, b2=0.99), norms)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


@pytest.mark.parametrize("norms", NORMS)
def test_nothing_selected_is_the_inner_optimizer(norms):
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    optimizer = optim.normalize_project(optax.adam(0.1), norms, matrix_mask=False)
    actual, _ = replay(optimizer, params, trace, "float32")
    for mine, other in zip(actual, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


def test_by_hand():
    kernel = jnp.array([[3.0, 0.0], [4.0, 2.0]])
    columns = np.array([[0.6, 0.0], [0.8, 1.0]])
    np.testing.assert_allclose(optim.normalize_kernels(kernel), columns, rtol=1e-6)
    like = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    scaled = optim.normalize_kernels(jnp.array([[3.0, 4.0]]), like=like[:1])
    np.testing.assert_allclose(scaled, [[0.6, 0.8]], rtol=1e-6)
    optimizer = optim.normalize_project(optax.sgd(1.0))
    updates, _ = first_update(optimizer, jnp.array([[-2.0, 0.0], [4.0, 2.0]]), kernel)
    length = np.sqrt(29) / 5
    np.testing.assert_allclose(kernel + updates, length * np.array([[5, 0], [0, 0]]), atol=1e-6)


@pytest.mark.parametrize("norms", NORMS)
def test_members_and_convolutions(norms):
    """Columns hold all weights into one output; norms are of each member."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(3, 2, 2, 4, 5)), jnp.float32)
    grads = jnp.asarray(rng.normal(size=params.shape), jnp.float32)
    optimizer = optim.normalize_project(optax.sgd(0.1), norms, ensemble_axes=1)
    updates, state = first_update(optimizer, grads, params)
    after = np.float64(params + updates)
    reached = np.float64(params) - 0.1 * np.float64(grads)
    if norms == "initial":
        assert state.norms.shape == (3, 1, 1, 1, 1)
        lengths = np.linalg.norm(after.reshape(3, -1), axis=1)
        expected = np.linalg.norm(np.float64(params).reshape(3, -1), axis=1)
        np.testing.assert_allclose(lengths, expected, rtol=1e-6)
        expected = reached * (expected / np.linalg.norm(reached.reshape(3, -1), axis=1)).reshape(
            3, 1, 1, 1, 1
        )
    else:
        lengths = np.linalg.norm(after.reshape(3, 16, 5), axis=1)
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)
        expected = reached / np.linalg.norm(reached.reshape(3, 16, 5), axis=1).reshape(
            3, 1, 1, 1, 5
        )
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6)
    alone = optim.normalize_project(optax.sgd(0.1), norms)
    together = quick_jit(jax.vmap(lambda g, p: alone.update(g, alone.init(p), p)[0]))(grads, params)
    np.testing.assert_allclose(together, updates, rtol=1e-4, atol=1e-6)


def test_once_there_it_stays():
    """Without a gradient, from the first update on."""
    optimizer = optim.normalize_project(optax.sgd(1.0), "unit_columns")
    params = jax.random.normal(jax.random.key(0), (6, 4))
    zeros = jnp.zeros_like(params)
    first, state = first_update(optimizer, zeros, params)
    params = params + first
    again, _ = optimizer.update(zeros, state, params)
    np.testing.assert_allclose(again, 0.0, atol=2e-7)


def test_a_scale_invariant_network_is_left_as_it_is():
    def network(params, x):
        x = x @ params["Dense_0"]["kernel"]
        x = jax.nn.relu(x / jnp.linalg.norm(x, axis=-1, keepdims=True))
        x = x @ params["Dense_1"]["kernel"]
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        f"Dense_{i}": {"kernel": jax.random.normal(key, shape)}
        for i, (key, shape) in enumerate(zip(keys, ((4, 8), (8, 3)), strict=False))
    }
    other = jax.tree.map(lambda leaf: 3 * jnp.cos(leaf), params)
    x = jax.random.normal(keys[2], (5, 4))
    projected = optim.normalize_kernels(params, like=other, heads=True)
    np.testing.assert_allclose(network(projected, x), network(params, x), rtol=1e-4, atol=1e-6)
    lengths = jax.tree.map(lambda a, b: jnp.linalg.norm(a) / jnp.linalg.norm(b), projected, other)
    np.testing.assert_allclose(jax.tree.leaves(lengths), 1.0, rtol=1e-6)


def test_zeros_are_left_alone():
    """Kernels that begin with nothing train; a column of zeros does not become NaN."""
    params = {"kernel": jnp.zeros((2, 2))}
    grads = {"kernel": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
    updates, _ = first_update(optim.normalize_project(optax.sgd(1.0)), grads, params)
    np.testing.assert_array_equal(updates["kernel"], -grads["kernel"])
    updates, _ = first_update(
        optim.normalize_project(optax.sgd(1.0), "unit_columns"), grads, params
    )
    np.testing.assert_array_equal(updates["kernel"], -grads["kernel"])


def test_half_precision_and_what_is_selected():
    layers = {
        name: {
            "kernel": jnp.full((4, 2), 2.0, jnp.bfloat16),
            "bias": jnp.full(2, 5.0, jnp.bfloat16),
        }
        for name in ("Dense_0", "Dense_1")
    }
    found = optim.normalize_kernels(layers)
    assert found["Dense_0"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(found["Dense_0"]["kernel"]), 0.5)
    np.testing.assert_array_equal(np.float32(found["Dense_1"]["kernel"]), 2.0)
    np.testing.assert_array_equal(np.float32(found["Dense_0"]["bias"]), 5.0)
    optimizer = optim.normalize_project(optax.sgd(1.0), "unit_columns")
    updates, _ = first_update(optimizer, jax.tree.map(jnp.zeros_like, layers), layers)
    np.testing.assert_array_equal(np.float32(updates["Dense_0"]["kernel"]), -1.5)
    np.testing.assert_array_equal(np.float32(updates["Dense_1"]["kernel"]), 0.0)


def test_errors():
    with pytest.raises(ValueError, match=r"^norms must be one of initial, unit_columns, got 'l1'"):
        optim.normalize_project(optax.sgd(1.0), "l1")
    optimizer = optim.normalize_project(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"^params must be the current parameters in Normalize"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
