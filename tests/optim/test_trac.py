"""TRAC against a NumPy transcription, SciPy's erfi, and steps worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from numpy_adam import awkward_gradients, initial_params
from numpy_trac import NumpyTrac
from quick import quick_jit
from replay import assert_same_walk, first_update, replay

import optim
from optim.trac import _ERFI_UNIT, _erfi


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-13)])
def test_erfi(dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        sizes = np.concatenate([np.geomspace(1e-30, 0.01, 200), np.linspace(0.01, 9.0, 5000)])
        x = np.concatenate([-sizes, [0.0], sizes]).astype(dtype)
        expected = scipy.special.erfi(x.astype(np.float64))
        np.testing.assert_allclose(quick_jit(_erfi)(jnp.asarray(x)), expected, rtol=rtol)
        slope = jax.grad(lambda x: _erfi(x[None])[0])(jnp.zeros([], dtype))
        np.testing.assert_allclose(slope, 2 / np.sqrt(np.pi), rtol=1e-6)


def test_erfi_of_large_numbers_is_finite():
    y = _erfi(jnp.array([-jnp.inf, -100.0, 9.5, jnp.inf]))
    assert np.all(np.isfinite(y))
    np.testing.assert_array_equal(y[2:], -y[:2])
    assert scipy.special.erfi(np.sqrt(0.5)) == pytest.approx(_ERFI_UNIT, rel=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("s_prev", [1e-8, 0.05])
def test_numpy_trace(s_prev, dtype):
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyTrac(params, 0.01, s_prev)
    expected, scales = [], []
    for grads in trace:
        expected.append(dict(reference.step(grads)))
        scales.append(sum(reference.s))
    with jax.enable_x64(dtype == "float64"):
        optimizer = optim.trac_adam(0.01, s_prev=s_prev)
        actual, state = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)
    rtol = 1e-4 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(state.scale, scales[-1], rtol=rtol)
    np.testing.assert_allclose(state.variance, reference.v, rtol=rtol)
    np.testing.assert_allclose(state.sigma, reference.sigma, rtol=rtol)
    for name, displacement in reference.displacement.items():
        np.testing.assert_allclose(state.displacement[name], displacement, rtol=rtol, atol=1e-7)
        np.testing.assert_array_equal(state.reference[name], params[name])
    assert min(scales) < 0 < max(scales)  # The clip at 0 has been at work.


def test_numpy_trace_with_exact_reference():
    params, trace = initial_params(), awkward_gradients()
    reference = NumpyTrac(params, 0.01, 0.05, exact_reference=True)
    expected = [dict(reference.step(grads)) for grads in trace]
    with jax.enable_x64(True):
        optimizer = optim.trac_adam(0.01, s_prev=0.05, exact_reference=True)
        actual, state = replay(optimizer, params, trace, "float64")
    # What is rounded in the parameters is divided by the scale.
    assert_same_walk(actual, expected, params, "float64", factor=1e3)
    assert state.displacement is None


def test_first_step_by_hand():
    """The displacement is 0, hence h = 0 and sigma / eps = beta."""
    params = {"a": jnp.zeros(2), "b": jnp.zeros([])}
    inner = optax.sgd(1.0)
    optimizer = optim.trac(inner, betas=(0.9, 0.99), s_prev=0.01)
    grads = {"a": jnp.array([1.0, -2.0]), "b": jnp.float32(3.0)}
    updates, state = first_update(optimizer, grads, params)
    scale = 0.01 / 0.9534383 * (scipy.special.erfi(0.9) + scipy.special.erfi(0.99))
    np.testing.assert_allclose(state.scale, scale, rtol=1e-5)
    np.testing.assert_allclose(updates["a"], scale * np.array([-1.0, 2.0]), rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -3 * scale, rtol=1e-5)
    # Then h = <(-1, 2, -3), g> = -14 if the gradient stays: all tuners are at erfi(1/sqrt(2)).
    params = optax.apply_updates(params, updates)
    updates, state = optimizer.update(grads, state, params)
    np.testing.assert_allclose(state.sigma, 14.0, rtol=1e-6)
    np.testing.assert_allclose(state.scale, 0.02, rtol=1e-5)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["b"], -6 * 0.02, rtol=1e-5)


def train(optimizer, start, steps=3000):
    loss = lambda params: jnp.sum((params - 1.5) ** 2)  # noqa: E731

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0]


def test_parameters_move_that_are_not_near_zero():
    """In float32; worked out from the parameters, the displacement is rounded to nothing."""
    start = jnp.full(32, 0.5)
    params, _ = quick_jit(lambda: train(optim.trac_adam(1e-3), start))()
    np.testing.assert_allclose(params, 1.5, atol=0.1)
    stuck, _ = quick_jit(lambda: train(optim.trac_adam(1e-3, exact_reference=True), start))()
    np.testing.assert_array_equal(stuck, start)


def test_a_learning_rate_far_too_small_or_large():
    start = jnp.full(8, 0.5)
    for rate in (1e-5, 1.0):
        params, _ = quick_jit(lambda rate=rate: train(optim.trac_adam(rate), start, 6000))()
        np.testing.assert_allclose(params, 1.5, atol=0.2)


def test_one_scale_for_all_and_the_reference_at_the_first_update():
    optimizer = optim.trac_adam(0.01, s_prev=0.1)
    other, params = initial_params(5), initial_params()
    state = optimizer.init({name: jnp.asarray(p) for name, p in other.items()})
    trace = awkward_gradients(steps=2)
    for grads in trace:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert state.scale.shape == ()
    for name, start in initial_params().items():
        np.testing.assert_array_equal(state.reference[name], start)
        expected = start + max(float(state.scale), 0.0) * state.displacement[name]
        np.testing.assert_allclose(params[name], expected, rtol=1e-6, atol=1e-7)


def test_half_precision_rounds_once():
    """The displacement is float32 and the update absolute: errors do not pile up."""
    params, trace = initial_params(), awkward_gradients()
    optimizer = optim.trac_adam(1e-3, s_prev=0.01)
    half, state = replay(optimizer, params, trace, jnp.bfloat16)
    assert state.displacement["kernel"].dtype == jnp.float32
    start = {name: jnp.asarray(p, jnp.bfloat16) for name, p in params.items()}
    for name, value in half[-1].items():
        exact = start[name].astype(jnp.float32) + state.displacement[name] * jnp.maximum(
            state.scale, 0
        )
        np.testing.assert_allclose(value, exact, rtol=2**-7)


def test_other_inner_optimizers_and_their_extra_arguments():
    inner = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    optimizer = optim.trac(inner)
    params = jnp.zeros(2)
    grads = jnp.ones(2)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, value=jnp.ones(()))
    assert np.all(updates < 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("b1", 1.0), ("b2", 1.0), ("eps", -1.0), ("s_prev", 0.0)],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.trac_adam(**{"learning_rate": 1e-3, name: value})


def test_other_errors():
    with pytest.raises(ValueError, match="betas must be in"):
        optim.trac(optax.sgd(0.1), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="eps must be in"):
        optim.trac(optax.sgd(0.1), eps=0.0)
    optimizer = optim.trac_adam(1e-3)
    params = jnp.ones(2)
    with pytest.raises(ValueError, match="params must be the current parameters"):
        optimizer.update(params, optimizer.init(params))
    params = params.astype(jnp.complex64)
    with pytest.raises(ValueError, match="TRAC must be given real gradients"):
        optimizer.update(params, optimizer.init(jnp.ones(2)), params)
