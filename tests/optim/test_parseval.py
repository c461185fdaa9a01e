"""Parseval regularisation against a NumPy transcription, its base, and matrices worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_parseval import NumpyParseval, parseval_gradient
from quick import quick_jit
from replay import assert_same_walk, replay
from told import check_told_of_penalty

import optim
from optim._promotion import with_standard_promotion


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyParseval(params, 0.1, 0.1, 2.0, 5.0, b2=0.99, eps=1e-2)
    expected = [dict(reference.step(grads)) for grads in trace]
    optimizer = optim.parseval(optax.adam(0.1, b2=0.99, eps=1e-2), 0.1, reference_width=5.0)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


def test_no_strength_is_the_inner_optimizer():
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    actual, _ = replay(optim.parseval(optax.adam(0.1), 0.0), params, trace, "float32")
    for mine, other in zip(actual, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


def term(params, **options):
    """What the inner optimizer is given beside a gradient of zero."""
    optimizer = optim.parseval(optax.identity(), **options)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return quick_jit(lambda p: optimizer.update(zeros, optimizer.init(p), p)[0])(params)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 3, 2, 5)])
def test_kernels_of_all_shapes(shape):
    """Against the transcription, which knows but the larger Gram matrix of wide ones."""
    kernel = np.random.default_rng(0).normal(size=shape)
    weight = kernel.reshape(-1, shape[-1]).T
    expected = parseval_gradient(weight, 0.3, 1.5, 64.0).T.reshape(shape)
    found = term(jnp.asarray(kernel, jnp.float32), strength=0.3, scale=1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


def test_by_hand():
    params = jnp.diag(jnp.array([1.0, 2.0]))
    wrap = lambda inner: optim.parseval(inner, 1.0, reference_width=None)  # noqa: E731
    value, gradient = check_told_of_penalty(wrap, params)
    np.testing.assert_allclose(value, 5.0, rtol=1e-5)
    np.testing.assert_allclose(gradient, np.diag([-4.0, 16.0]), atol=1e-5)
    double = term(params, strength=1.0, reference_width=4.0)
    np.testing.assert_allclose(double, 4 * np.diag([-4.0, 16.0]), atol=1e-4)


def test_the_gradient_is_that_of_the_value():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": {"kernel": jax.random.normal(keys[0], (2, 3, 4)), "bias": jnp.ones((2, 4))},
        "b": {"kernel": jax.random.normal(keys[1], (2, 4, 1))},
    }
    wrap = lambda inner: optim.parseval(inner, 0.01, ensemble_axes=1)  # noqa: E731
    value, gradient = check_told_of_penalty(wrap, params, rtol=1e-4)
    assert value > 0
    assert np.any(gradient["a"]["kernel"] != 0)
    np.testing.assert_array_equal(gradient["a"]["bias"], 0.0)
    np.testing.assert_array_equal(gradient["b"]["kernel"], 0.0)  # a head


@pytest.mark.parametrize("shape", [(64, 27), (27, 64), (3, 3, 4, 8)])
def test_no_pull_at_scaled_orthogonal_matrices(shape):
    matrix = jax.nn.initializers.orthogonal(2**0.5)(jax.random.key(0), shape)
    np.testing.assert_allclose(term(matrix, strength=1.0, reference_width=None), 0, atol=1e-4)


def test_step_at_which_plain_descent_oscillates():
    """It converges from below 1 / (4 scale) only."""
    for rate, limit in ((0.12, True), (0.13, False)):
        optimizer = optim.parseval(optax.sgd(rate), 1.0, reference_width=None)

        def step(params, _, optimizer=optimizer):
            updates, _ = optimizer.update(0 * params, optimizer.init(params), params)
            return optax.apply_updates(params, updates), None

        run = quick_jit(lambda p, step=step: jax.lax.scan(step, p, length=400)[0])
        end = run(1.3 * jnp.eye(2))
        assert (np.max(np.abs(end @ end.T - 2 * np.eye(2))) < 1e-3) == limit


def test_masks_heads_and_members():
    rng = np.random.default_rng(1)
    one, two = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(2))
    layers = {"Dense_0": {"kernel": one}, "Dense_1": {"kernel": two}}
    alone = [term(kernel, strength=0.1) for kernel in (one, two)]
    found = term(layers, strength=0.1)
    np.testing.assert_allclose(found["Dense_0"]["kernel"], alone[0], rtol=1e-5)
    np.testing.assert_array_equal(found["Dense_1"]["kernel"], 0.0)
    found = term(layers, strength=0.1, heads=True)
    np.testing.assert_allclose(found["Dense_1"]["kernel"], alone[1], rtol=1e-5)
    found = term(layers, strength=0.1, matrix_mask={"Dense_0": False, "Dense_1": True})
    np.testing.assert_array_equal(found["Dense_0"]["kernel"], 0.0)
    np.testing.assert_allclose(found["Dense_1"]["kernel"], alone[1], rtol=1e-5)
    together = term(jnp.stack([one, two]), strength=0.1, ensemble_axes=1)
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5)


def test_errors():
    for name, value in {"strength": -1.0, "scale": 0.0, "reference_width": 0.0}.items():
        with pytest.raises(ValueError, match=f"^{name} must be in"):
            optim.parseval(optax.sgd(1.0), **{name: value})
    optimizer = optim.parseval(optax.sgd(1.0))
    state = optimizer.init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"^params must be the current parameters in Parseval"):
        optimizer.update(jnp.ones(2), state)
