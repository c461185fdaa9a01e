"""FIRE against a NumPy transcription, its base, a decomposition, and matrices worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from equations import equations
from numpy_adam import awkward_gradients, initial_params
from numpy_fire import NumpyFire, fire
from quick import quick_jit
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["period", "reset"])
def test_numpy_trace(way, dtype):
    params, trace = initial_params(), awkward_gradients()
    new_adam = way == "reset"
    events = [i % 4 == 3 for i in range(len(trace))]
    reference = NumpyFire(params, 0.1, 7, new_adam, b2=0.99)
    expected = [dict(reference.step(g, e)) for g, e in zip(trace, events, strict=True)]
    optimizer = optim.fire(
        optax.adam(0.1, b2=0.99),
        period=4 if way == "period" else None,
        ns_steps=7,
        opt_state="reset" if new_adam else "keep",
    )
    extra = [{"reset": e} for e in events] if way == "reset" else None
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype, extra)
    assert_same_walk(actual, expected, params, dtype)


def test_without_events_it_is_the_inner_optimizer():
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    never = [{"reset": False}] * len(trace)
    for period, extra in ((None, None), (None, never), (1000, None)):
        optimizer = optim.fire(optax.adam(0.1), period, opt_state="reset")
        actual, _ = replay(optimizer, params, trace, "float32", extra)
        for mine, other in zip(actual, expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, mine, other)


def test_by_hand():
    params = jnp.diag(jnp.array([2.0, 0.5]))
    for steps, expected in ((10, [1, 1]), (5, [1, 0.979])):
        found = optim.fire_projection(params, steps)
        np.testing.assert_allclose(found, np.diag(expected), atol=1e-3)
    rescaled = optim.fire_projection(params, 0)
    np.testing.assert_allclose(rescaled, params / np.sqrt(4.25), rtol=1e-6)
    np.testing.assert_array_equal(optim.fire_projection(jnp.zeros((3, 2))), 0.0)


@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48)])
def test_thirty_steps_are_the_decomposition(shape):
    kernel = np.random.default_rng(0).normal(size=shape)
    found = quick_jit(lambda k: optim.fire_projection(k, 30))(jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(found, fire(kernel.T, None).T, atol=1e-4)
    again = quick_jit(lambda k: optim.fire_projection(k, 30))(found)
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_convolutions_and_members():
    """Each place of the window is a matrix of its own, and the scale is shared out."""
    kernel = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 5))
    expected = np.stack(
        [[[fire(place.T, 30).T / 6 for place in row] for row in member] for member in kernel]
    )
    found = optim.fire_projection(jnp.asarray(kernel, jnp.float32), 30, ensemble_axes=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    stack = optim.fire_projection(jnp.asarray(kernel[0, 0], jnp.float32), 30, ensemble_axes=1)
    np.testing.assert_allclose(stack, 6 * expected[0, 0], atol=1e-5)


def test_what_is_projected():
    rng = np.random.default_rng(0)
    layer = {"kernel": jnp.asarray(rng.normal(size=(4, 4)), jnp.bfloat16), "bias": jnp.ones(4)}
    params = {"actor": {"Dense_0": layer, "Dense_1": layer}, "critic": {"Dense_0": layer}}

    def changed(**options):
        after = optim.fire_projection(params, **options)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, params)
        assert all(np.all(after[n][k]["bias"] == 1) for n in after for k in after[n])
        return {
            f"{n}/{k}"
            for n in after
            for k in after[n]
            if np.any(after[n][k]["kernel"] != layer["kernel"])
        }

    assert changed() == {"actor/Dense_0", "critic/Dense_0"}
    assert changed(heads=True) == {"actor/Dense_0", "actor/Dense_1", "critic/Dense_0"}
    assert changed(matrix_mask={"actor": False, "critic": True}) == {"critic/Dense_0"}


def test_what_becomes_of_the_inner_state():
    """It is as it was, bit for bit, or new but for its schedule."""
    params, trace = initial_params(), awkward_gradients(3)
    inner = with_standard_promotion(optax.adam(lambda count: 0.1))
    _, plain = replay(inner, params, trace, "float32")
    _, kept = replay(optim.fire(inner, period=3), params, trace, "float32")
    jax.tree.map(np.testing.assert_array_equal, kept.inner_state, plain)
    _, new = replay(optim.fire(inner, period=3, opt_state="reset"), params, trace, "float32")
    adam, schedule = new.inner_state
    assert (int(adam.count), int(schedule.count), int(new.count)) == (0, 3, 0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(adam))


def test_seeds_side_by_side():
    """As alone; what costs much is in a branch that is not taken, though the seeds differ."""
    optimizer = optim.fire(optax.sgd(0.1), period=2)
    params = jax.random.normal(jax.random.key(0), (3, 4, 4))

    def update(params, count):
        state = optimizer.init(params)._replace(count=count)
        return params + optimizer.update(jnp.cos(params), state, params)[0]

    counts = jnp.array([0, 1, 0], jnp.int32)
    together = quick_jit(jax.vmap(update))(params, counts)
    alone = [quick_jit(update)(p, c) for p, c in zip(params, counts, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(alone[1] @ alone[1].T - np.eye(4))) < 0.9
    assert np.max(np.abs(alone[0] @ alone[0].T - np.eye(4))) > 1
    jaxpr = jax.make_jaxpr(jax.vmap(update))(params, counts).jaxpr
    outside = [equation.primitive.name for equation in jaxpr.eqns]
    assert "dot_general" not in outside
    assert "cond" in outside
    assert "dot_general" in [e.primitive.name for e in equations(jaxpr)]


def test_errors():
    for options, message in (
        ({"period": 0}, r"^period must be a whole number of at least 1, or None, got 0\."),
        ({"ns_steps": -1}, r"^ns_steps must be a static integer of at least 0, got -1\."),
        ({"opt_state": "new"}, r"^opt_state must be one of keep, reset, got 'new'\."),
    ):
        with pytest.raises(ValueError, match=message):
            optim.fire(optax.sgd(1.0), **options)
    optimizer = optim.fire(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"^params must be the current parameters in FIRE"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
