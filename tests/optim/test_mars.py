"""MARS against a NumPy transcription and AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees
from numpy_adam import awkward_gradients, initial_params
from numpy_mars import NumpyMars
from quick import quick_jit
from ranges import check_ranges
from replay import compare
from trees import close, make_params

import optim
from optim._promotion import with_standard_promotion


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimize_1d", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_numpy_trace(dtype, optimize_1d, exact):
    extra = [{"previous_gradient": grads} for grads in awkward_gradients(seed=5)]
    compare(
        optim.mars(3e-3, gamma=0.1, weight_decay=0.02, optimize_1d=optimize_1d, exact=exact),
        NumpyMars(3e-3, gamma=0.1, decay=0.02, optimize_1d=optimize_1d),
        awkward_gradients(),
        initial_params(),
        dtype,
        extra if exact else None,
        factor=3.0,
    )


def test_without_gamma_it_is_adamw_on_clipped_gradients():
    ours = optim.mars(0.01, gamma=0.0, weight_decay=0.1, optimize_1d=True)
    adamw = with_standard_promotion(optax.adamw(0.01, b1=0.95, b2=0.99, weight_decay=0.1))
    params = make_params()
    state, their_state = ours.init(params), adamw.init(params)
    update, their_update = quick_jit(ours.update), quick_jit(adamw.update)
    for key in range(4):
        grads = make_params(key + 1)
        clipped = {n: g / max(float(np.linalg.norm(np.ravel(g))), 1) for n, g in grads.items()}
        updates, state = update(grads, state, params)
        expected, their_state = their_update(clipped, their_state, params)
        close(updates, expected, rtol=1e-4)


def test_leaves_other_than_matrices_take_adamw_steps():
    ours = optim.mars(0.01)
    adamw = with_standard_promotion(optax.adamw(0.01, b1=0.9, b2=0.95, weight_decay=0.1))
    params = make_params()
    state, their_state = ours.init(params), adamw.init(params)
    update, their_update = quick_jit(ours.update), quick_jit(adamw.update)
    for key in range(3):
        grads = make_params(key + 1)
        updates, state = update(grads, state, params)
        expected, their_state = their_update(grads, their_state, params)
    for name in ("conv", "bias", "scale"):
        close(updates[name], expected[name], rtol=1e-4)
    for name in ("kernel", "wide"):
        assert np.max(np.abs(updates[name] - expected[name])) > 1e-4


def test_the_first_gradient_is_scaled_in_the_approximate_form():
    grads = {"kernel": 0.1 * jnp.ones((2, 2))}
    _, state = optim.scale_by_mars().update(grads, optim.scale_by_mars().init(grads))
    np.testing.assert_allclose(state.mu["kernel"], 0.05 * 1.475 * 0.1, rtol=1e-5)


def test_obj_fn_gives_the_gradient_at_the_last_parameters():
    """Each step has a loss of its own, as each batch has."""
    ours = optim.mars(0.01, exact=True)

    def run(pass_function):
        @quick_jit
        def step(i, params, last, state):
            def loss(params):
                return trees.loss(jax.tree.map(lambda p: p * (1 + i), params))

            extra = (
                {"obj_fn": loss} if pass_function else {"previous_gradient": jax.grad(loss)(last)}
            )
            updates, state = ours.update(jax.grad(loss)(params), state, params, **extra)
            return optax.apply_updates(params, updates), params, state

        params, last, trail = make_params(), make_params(9), []
        state = ours.init(params)
        for i in range(4):
            params, last, state = step(jnp.float32(i), params, last, state)
            trail.append(params)
        return trail

    close(run(True), run(False))


def test_exact_form_on_a_constant_gradient_corrects_nothing():
    grads = {"kernel": 0.1 * jnp.ones((2, 2))}
    exact = optim.mars(0.01, exact=True, weight_decay=0.0)
    plain = optim.mars(0.01, gamma=0.0, weight_decay=0.0)
    params, states = {"kernel": jnp.ones((2, 2))}, [exact.init(grads), plain.init(grads)]
    update, plain_update = quick_jit(exact.update), quick_jit(plain.update)
    for _ in range(3):
        first, states[0] = update(grads, states[0], params, previous_gradient=grads)
        second, states[1] = plain_update(grads, states[1], params)
        close(first, second, rtol=1e-6)


def test_huge_matrices_are_clipped_without_overflow():
    grads = {"kernel": jnp.full((3, 3), 1e37)}
    _, state = optim.scale_by_mars(gamma=0.0).update(grads, optim.scale_by_mars().init(grads))
    np.testing.assert_allclose(state.mu["kernel"], 0.05 / 3, rtol=1e-5)


def test_errors():
    check_ranges(optim.mars, **dict.fromkeys(("b1", "b2", "b1_1d", "b2_1d"), "[0, 1)"))
    others = ("eps", "gamma", "weight_decay", "weight_decay_1d")
    check_ranges(optim.mars, **dict.fromkeys(others, "[0, inf)"))
    optimizer, params = optim.mars(0.1, exact=True), jnp.ones((2, 2))
    with pytest.raises(ValueError, match=r"obj_fn must be .*previous_gradient.*update\("):
        optimizer.update(params, optimizer.init(params), params, value=1.0)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(params, optimizer.init(params), previous_gradient=params)
