"""AdamP and SGDP against a NumPy transcription, AdamW and SGD, and the geometry they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients
from numpy_adamp import NumpyAdamP, NumpySGDP
from quick import quick_jit
from ranges import check_ranges
from replay import assert_same_walk, first_update, replay
from trees import make_params

import optim
from optim._promotion import with_standard_promotion

# The threshold is raised so that the small matrices here are projected in some steps.
ADAMP = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "delta": 0.4, "wd_ratio": 0.2, "weight_decay": 0.1}
SGDP = {
    "momentum": 0.9,
    "dampening": 0.3,
    "eps": 1e-8,
    "delta": 0.4,
    "wd_ratio": 0.2,
    "weight_decay": 0.1,
}
BOTH = pytest.mark.parametrize("factory", [optim.adamp, optim.sgdp])


def many_params():
    rng = np.random.default_rng(3)
    shapes = {"wide": (3, 6), "tall": (5, 2), "conv": (2, 2, 2, 3), "bias": (3,), "scale": ()}
    return {n: np.asarray(rng.normal(size=shape), np.float32) for n, shape in shapes.items()}


def many_gradients():
    """The awkward ones; every third step at nearly right angles to the parameters."""
    params, rng, trace = many_params(), np.random.default_rng(4), []
    sizes = [1.0, 1.0, 0.0, 1e-9, 1e3, -1.0, 1.0] * 2
    for i, size in enumerate(sizes):
        grads = {}
        for name, w in params.items():
            g = rng.normal(size=w.shape)
            if i % 3 == 0 and w.ndim > 1:
                axes = tuple(range(w.ndim - 1)) if i % 2 else None
                radial = np.sum(g * w, axis=axes, keepdims=True)
                g = g - 0.99 * w * radial / np.sum(w * w, axis=axes, keepdims=True)
            grads[name] = np.asarray(size * g, np.float32)
        trace.append(grads)
    return trace


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_numpy_adamp(nesterov, dtype):
    params, trace = many_params(), many_gradients()
    reference = NumpyAdamP(params, 0.01, **ADAMP, nesterov=nesterov)
    expected = [reference.step(grads) for grads in trace]
    assert 5 < reference.projected < 3 * len(trace)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optim.adamp(0.01, **ADAMP, nesterov=nesterov), params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_numpy_sgdp(nesterov, dtype):
    params, trace = many_params(), many_gradients()
    reference = NumpySGDP(params, 0.01, **SGDP, nesterov=nesterov)
    expected = [reference.step(grads) for grads in trace]
    assert 5 < reference.projected < 3 * len(trace)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optim.sgdp(0.01, **SGDP, nesterov=nesterov), params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)


def test_no_projection_is_adamw():
    params, trace = many_params(), many_gradients()
    ours, _ = replay(optim.adamp(0.01, delta=0.0, weight_decay=0.1), params, trace, "float32")
    adamw = with_standard_promotion(optax.adamw(0.01, weight_decay=0.1))
    theirs, _ = replay(adamw, params, trace, "float32")
    assert_same_walk(ours, theirs, params, "float32")


def test_no_projection_is_sgd():
    params, trace = many_params(), awkward_like(many_params())
    for nesterov in (False, True):
        ours = optim.sgdp(0.01, momentum=0.9, delta=0.0, nesterov=nesterov)
        theirs = optax.sgd(0.01, momentum=0.9, nesterov=nesterov)
        ours, theirs = (replay(o, params, trace, "float32")[0] for o in (ours, theirs))
        assert_same_walk(ours, theirs, params, "float32")


def awkward_like(params):
    return [
        {n: np.resize(g["kernel"], np.shape(params[n])) for n in params}
        for g in awkward_gradients()
    ]


@BOTH
def test_projected_steps_are_tangential(factory):
    """No step along any output channel, or along the whole leaf if only that test passes."""
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 40, 3))
    with jax.enable_x64(True):
        optimizer = factory(0.1)
        columns = g - w * np.sum(g * w, 0) / np.sum(w * w, 0)
        updates, _ = optimizer.update(
            jnp.asarray(columns), optimizer.init(jnp.asarray(w)), jnp.asarray(w)
        )
        np.testing.assert_allclose(np.sum(updates * w, axis=0), 0, atol=1e-6)
        assert np.linalg.norm(updates) > 0.01

        tilt = columns + 5.0 * w * np.array([1.0, -1.0, 0.0]) / np.sum(w * w, 0)
        updates, _ = optimizer.update(
            jnp.asarray(tilt), optimizer.init(jnp.asarray(w)), jnp.asarray(w)
        )
        np.testing.assert_allclose(np.sum(updates * w), 0, atol=1e-6)
        if factory is optim.sgdp:
            assert np.max(np.abs(np.sum(updates * w, axis=0))) > 1e-3


def test_weight_decay_of_projected_leaves():
    """By hand: zero gradients pass as tangential, so only the reduced decay is left."""
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    grads = jax.tree.map(jnp.zeros_like, params)
    for optimizer, divisor in (
        (optim.adamp(0.1, weight_decay=0.5, wd_ratio=0.2), 1.0),
        (optim.sgdp(0.1, momentum=0.75, weight_decay=0.5, wd_ratio=0.2), 0.25),
    ):
        updates, _ = first_update(optimizer, grads, params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 0.2 * 3 / divisor, rtol=1e-6)
        np.testing.assert_allclose(updates["bias"], -0.1 * 0.5 * 3 / divisor, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("axes", [1, {"kernel": 1, "bias": 1}])
def test_ensemble_is_each_member_alone(factory, axes):
    members = [
        {"kernel": make_params(i)["kernel"], "bias": make_params(i)["bias"]} for i in range(3)
    ]
    grads = [jax.tree.map(jnp.cos, member) for member in members]
    # One member's gradient is tangential: a joint decision would be another one.
    kernel = members[1]["kernel"]
    turned = jnp.stack([-kernel[1], kernel[0], -kernel[3], kernel[2]])
    grads[1] = grads[1] | {"kernel": turned}
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    ensemble = factory(0.1, weight_decay=0.5, ensemble_axes=axes)
    single = factory(0.1, weight_decay=0.5)
    updates, _ = first_update(ensemble, stack(grads), stack(members))
    alone = quick_jit(lambda g, p: single.update(g, single.init(p), p)[0])
    expected = [alone(g, p) for g, p in zip(grads, members, strict=True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, stack(expected))


@BOTH
def test_ensemble_axes_are_static(factory):
    params = jnp.ones((2, 2))
    for axes in (-1, 0.5, True):
        optimizer = factory(0.1, ensemble_axes=axes)
        with pytest.raises(ValueError, match="ensemble_axes must be a static integer"):
            optimizer.update(params, optimizer.init(params), params)


@BOTH
def test_ranges(factory):
    check_ranges(
        factory, eps="(0, inf)", delta="[0, inf)", wd_ratio="[0, inf)", weight_decay="[0, inf)"
    )
    decay_rates = ("b1", "b2") if factory is optim.adamp else ("momentum", "dampening")
    check_ranges(factory, **dict.fromkeys(decay_rates, "[0, 1)"))
