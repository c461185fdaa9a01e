"""Subspace momentum against a NumPy transcription and ordinary momentum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_subspace_momentum import NumpySubspaceMomentum, svd_rows, topk_rows
from quick import quick_jit
from ranges import check_ranges
from replay import compare
from trees import close, make_params

import optim

CHOICES = {"svd": svd_rows, "topk": topk_rows}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("projection", CHOICES)
def test_numpy_trace(projection, dtype):
    compare(
        optim.subspace_momentum(0.1, rank=2, update_proj_gap=5, projection=projection),
        NumpySubspaceMomentum(0.1, CHOICES[projection]),
        awkward_gradients(),
        initial_params(),
        dtype,
        factor=3.0 if dtype == "float32" else 1e2,
    )


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4), (1, 5), (2, 3, 4), (5,), ()])
@pytest.mark.parametrize("projection", CHOICES)
def test_shapes(projection, shape):
    rng = np.random.default_rng(0)
    trace = [{"leaf": rng.normal(size=shape)} for _ in range(12)]
    start = {"leaf": rng.normal(size=shape).astype(np.float32)}
    ours = optim.subspace_momentum(0.1, rank=2, update_proj_gap=5, projection=projection)
    compare(
        ours, NumpySubspaceMomentum(0.1, CHOICES[projection]), trace, start, "float32", factor=3
    )


@pytest.mark.parametrize("projection", ["svd", "uniform", "topk"])
def test_full_rank_is_momentum(projection):
    params = make_params()
    ours = optim.subspace_momentum(0.1, rank=99, projection=projection)
    momentum = optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1))
    state, their_state = ours.init(params), momentum.init(params)
    update, their_update = quick_jit(ours.update), quick_jit(momentum.update)
    for key in range(5):
        grads = make_params(key + 1)
        updates, state = update(grads, state, params)
        expected, their_state = their_update(grads, their_state, params)
        close(updates, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("projection", ["svd", "uniform", "topk"])
def test_projections(projection):
    """Orthonormal rows, chosen in the first step and again after the gap, when momentum is 0."""
    direction = optim.scale_by_subspace_momentum(
        rank=3, update_proj_gap=4, projection=projection, b1=0.5
    )
    params = {"kernel": jnp.zeros((9, 7))}
    state = direction.init(params)
    chosen, rng, update = [], np.random.default_rng(0), quick_jit(direction.update)
    for _ in range(9):
        grads = {"kernel": jnp.asarray(rng.normal(size=(9, 7)), jnp.float32)}
        updates, state = update(grads, state, params)
        grads, updates = np.asarray(grads["kernel"]), np.asarray(updates["kernel"])
        rows = np.asarray(state.projection["kernel"])
        np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-5)
        # Outside of the subspace, the gradient is untouched.
        rest = np.eye(7) - rows.T @ rows
        np.testing.assert_allclose(updates @ rest, grads @ rest, atol=1e-5)
        if len(chosen) % 4 == 0:
            np.testing.assert_allclose(updates @ rows.T, 0.5 * grads @ rows.T, atol=1e-5)
        chosen.append(rows)
    changes = [np.max(np.abs(a - b)) > 1e-3 for a, b in itertools.pairwise(chosen)]
    assert changes == [False, False, False, True, False, False, False, True]


def test_uniform_draws_differ_between_leaves_and_keys():
    def rows(key):
        direction = optim.scale_by_subspace_momentum(rank=8, projection="uniform", key=key)
        params = {"a": jnp.ones((20, 20)), "b": jnp.ones((20, 20))}
        return quick_jit(direction.update)(params, direction.init(params))[1].projection

    first, second = rows(0), rows(1)
    assert np.any(first["a"] != first["b"])
    assert np.any(first["a"] != second["a"])


def test_gradients_flow_through_all_but_the_choice():
    direction = optim.scale_by_subspace_momentum(rank=1)

    def size(grads):
        return jnp.sum(direction.update(grads, direction.init(grads))[0] ** 2)

    assert np.all(np.isfinite(quick_jit(jax.grad(size))(jnp.diag(jnp.array([1.0, 5.0])))))


def test_errors():
    check_ranges(optim.subspace_momentum, b1="[0, 1)")
    for name, values in {"rank": (0, 2.0, True), "update_proj_gap": (0, 1.5)}.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name} must be a.* integer of at least 1"):
                optim.subspace_momentum(0.01, **{name: value})
    with pytest.raises(ValueError, match="projection must be one of svd, uniform, topk, got"):
        optim.subspace_momentum(0.01, projection="random")
    with pytest.raises(ValueError, match="rank must be a static integer"):
        quick_jit(lambda rank: optim.subspace_momentum(0.1, rank=rank).init(jnp.ones(2)))(3)
