"""Spectral regularisation against a NumPy transcription, its base, and a decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_spectral_regularization import NumpySpectralRegularization
from quick import quick_jit
from replay import assert_same_walk, replay
from told import check_told_of_penalty

import optim
from optim._promotion import with_standard_promotion


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_numpy_trace(exponent, dtype):
    params, trace = initial_params(), awkward_gradients()
    adam = optax.adam(0.05, b2=0.99, eps=1e-2)
    optimizer = optim.spectral_regularization(adam, 0.2, exponent)
    with jax.enable_x64(dtype == "float64"):
        start = {name: jnp.asarray(value, dtype) for name, value in params.items()}
        vector = optimizer.init(start).vectors["kernel"]
        reference = NumpySpectralRegularization(
            params, 0.05, 0.2, exponent, vector, b2=0.99, eps=1e-2
        )
        expected = [dict(reference.step(grads)) for grads in trace]
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


def test_no_strength_is_the_inner_optimizer():
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    optimizer = optim.spectral_regularization(optax.adam(0.1), 0.0)
    actual, _ = replay(optimizer, params, trace, "float32")
    for mine, other in zip(actual, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


def terms(params, steps=1, **options):
    """What the inner optimizer is given beside a gradient of zero, after some updates."""
    optimizer = optim.spectral_regularization(optax.identity(), 1.0, **options)
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(state, _):
        updates, state = optimizer.update(zeros, state, params)
        return state, updates

    state = optimizer.init(params)
    run = quick_jit(lambda state: jax.lax.scan(step, state, length=steps))
    return jax.tree.map(lambda leaf: leaf[-1], run(state)[1])


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (2, 2, 3, 4)])
def test_it_comes_to_the_decomposition(shape):
    kernel = np.random.default_rng(0).normal(size=shape)
    matrix = {"kernel": kernel.reshape(-1, shape[-1]), "bias": np.zeros(shape[-1])}
    exact = NumpySpectralRegularization(matrix, 0.1, 1.0, 2, None).pulls()["kernel"]
    found = terms(jnp.asarray(kernel, jnp.float32), 300)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found, exact.reshape(shape), rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("size", [64, 256])
def test_how_much_too_small_the_first_values_are(size):
    """As the note has it: persistent vectors make it good."""
    kernel = jax.random.normal(jax.random.key(1), (size, size)) / size**0.5
    largest = np.linalg.svd(kernel, compute_uv=False)[0]
    optimizer = optim.spectral_regularization(optax.identity(), 1.0)
    update = quick_jit(lambda s: optimizer.update(0 * kernel, s, kernel)[1])
    state, shares = optimizer.init(kernel), []
    for _ in range(20):
        state = update(state)
        shares.append(np.linalg.norm(kernel @ state.vectors) / largest)
    assert 0.65 < shares[0] < 0.85
    assert shares[-1] > 0.98


def test_by_hand():
    params = {"kernel": jnp.diag(jnp.array([2.0, 1.0])), "bias": jnp.array([0.6, 0.8])}
    found = terms(params, 40)
    np.testing.assert_allclose(found["kernel"], np.diag([24.0, 0.0]), atol=1e-3)
    np.testing.assert_allclose(found["bias"], 4 * params["bias"], rtol=1e-5)
    at_rest = {"kernel": jnp.diag(jnp.array([1.0, 0.1])), "bias": jnp.zeros(2)}
    found = terms(at_rest, 40)
    np.testing.assert_allclose(found["kernel"], 0.0, atol=1e-5)
    np.testing.assert_array_equal(found["bias"], 0.0)


def test_the_gradient_is_that_of_the_value():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": {"kernel": jax.random.normal(keys[0], (2, 3, 4)), "bias": jnp.full((2, 4), 0.3)},
        "b": {"kernel": jax.random.normal(keys[1], (2, 4, 1))},
        "norm": {"scale": jnp.ones((2, 4)), "bias": jnp.ones((2, 4))},
    }
    axes = jax.tree.map(lambda leaf: 1, params)
    wrap = lambda inner: optim.spectral_regularization(inner, 0.1, ensemble_axes=axes)  # noqa: E731
    value, gradient = check_told_of_penalty(wrap, params, rtol=1e-4)
    assert value > 0
    assert all(np.any(gradient[n]["kernel"] != 0) for n in ("a", "b"))
    assert np.any(gradient["a"]["bias"] != 0)
    assert not any(np.any(leaf) for leaf in gradient["norm"].values())


def test_members_masks_and_heads():
    rng = np.random.default_rng(1)
    one, two = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(2))
    together = terms(jnp.stack([one, two]), 300, ensemble_axes=1)
    for found, kernel in zip(together, (one, two), strict=True):
        np.testing.assert_allclose(found, terms(kernel, 300), rtol=1e-3, atol=1e-3)
    layers = {"Dense_0": {"kernel": one}, "Dense_1": {"kernel": two, "bias": jnp.ones(3)}}
    for options, expected in (
        ({}, [True, True, True]),
        ({"heads": False}, [True, False, False]),
        ({"matrix_mask": {"Dense_0": False, "Dense_1": True}}, [False, True, True]),
    ):
        found = jax.tree.leaves(terms(layers, **options))
        assert [bool(np.any(leaf)) for leaf in found] == expected


@pytest.mark.parametrize("exponent", [1, 2])
def test_zeros_and_overflow(exponent):
    """A kernel of zeros and one beyond the powers' range leave all finite, and the state usable."""
    optimizer = optim.spectral_regularization(optax.identity(), 1.0, exponent)
    for size in (0.0, 1e12, 1e30):
        params = {"kernel": jnp.full((3, 2), size), "bias": jnp.full(2, size)}
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, state = optimizer.update(zeros, optimizer.init(params), params)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((updates, state)))
        np.testing.assert_allclose(jnp.linalg.norm(state.vectors["kernel"]), 1.0, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"^strength must be in \[0, inf\), got -1"):
        optim.spectral_regularization(optax.sgd(1.0), -1.0)
    for exponent in (0, 1.5):
        with pytest.raises(ValueError, match=r"^exponent must be a static integer of at least 1"):
            optim.spectral_regularization(optax.sgd(1.0), exponent=exponent)
    optimizer = optim.spectral_regularization(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"^params must be the current parameters in spectral"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
