"""Shrink & Perturb against a NumPy transcription, its base, and steps worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from equations import equations
from numpy_adam import awkward_gradients, initial_params
from numpy_shrink_perturb import NumpyShrinkPerturb
from quick import quick_jit
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion


def constant(key):
    """What `init_fn` gives in these tests: parameters like those of the replayed walks."""
    return {name: jnp.full(jnp.shape(leaf), 0.5) for name, leaf in initial_params().items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["soft", "period", "reset"])
def test_numpy_trace(way, dtype):
    params, trace = initial_params(), awkward_gradients()
    new_adam = way != "soft"
    events = [way == "soft" or i % 3 == 2 for i in range(len(trace))]
    reference = NumpyShrinkPerturb(params, 0.1, 0.3, 0.2, new_adam, b2=0.99)
    expected = [dict(reference.step(g, e)) for g, e in zip(trace, events, strict=True)]
    optimizer = optim.shrink_perturb(
        optax.adam(0.1, b2=0.99),
        0.3,
        0.2,
        period={"soft": 1, "period": 3, "reset": None}[way],
        opt_state="reset" if new_adam else "keep",
    )
    extra = [{"reset": e} for e in events] if way == "reset" else None
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype, extra)
    assert_same_walk(actual, expected, params, dtype)


@pytest.mark.parametrize("noise", ["initial", "gaussian", "fresh"])
def test_nothing_to_do_is_the_inner_optimizer(noise):
    """With numbers of 0, or without any event."""
    params, trace = initial_params(), awkward_gradients()
    expected, _ = replay(with_standard_promotion(optax.adam(0.1)), params, trace, "float32")
    options = {"noise": noise, "init_fn": constant if noise == "fresh" else None}
    never = [{"reset": False}] * len(trace)
    for optimizer, extra in (
        (optim.shrink_perturb(optax.adam(0.1), 0.0, 0.0, **options), None),
        (optim.shrink_perturb(optax.adam(0.1), 0.5, 0.5, period=1000, **options), None),
        (optim.shrink_perturb(optax.adam(0.1), 0.5, 0.5, period=None, **options), None),
        (optim.shrink_perturb(optax.adam(0.1), 0.5, 0.5, period=None, **options), never),
    ):
        actual, _ = replay(optimizer, params, trace, "float32", extra)
        for mine, other in zip(actual, expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, mine, other)


def walk(optimizer, params, steps, grads=None, initial=None, **extra):
    """Parameters after each of several updates on the same gradient, zero by default."""
    grads = jax.tree.map(jnp.zeros_like, params) if grads is None else grads

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = (params, optimizer.init(params if initial is None else initial))
    (_, state), after = quick_jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)
    return after, state


def test_by_hand():
    params, initial = jnp.array([2.0]), jnp.array([1.0])
    optimizer = optim.shrink_perturb(optax.sgd(1.0), 0.1, 0.1)
    after, _ = walk(optimizer, params, 300, initial=initial)
    np.testing.assert_allclose(after[:2, 0], [1.9, 1.81], rtol=1e-6)
    np.testing.assert_allclose(after[-1], initial, rtol=1e-6)
    after, _ = walk(optimizer, initial, 50)
    np.testing.assert_allclose(after, 1.0, rtol=1e-6)
    shrunk = optim.shrink_and_perturb(params, initial, 0.1, 0.1)
    np.testing.assert_allclose(shrunk, [1.9], rtol=1e-6)


def test_small_steps_are_not_rounded_away():
    """0.999999 is no number of float32; 1e-6 is."""
    optimizer = optim.shrink_perturb(optax.sgd(1.0), 1e-6, 0.0)
    updates, _ = optimizer.update(jnp.zeros(1), optimizer.init(jnp.ones(1)), jnp.ones(1))
    np.testing.assert_allclose(updates, -1e-6, rtol=1e-6)


def test_without_noise_it_is_decoupled_decay():
    params, trace = initial_params(), awkward_gradients()
    actual, _ = replay(optim.shrink_perturb(optax.sgd(1e-3), 0.1, 0.0), params, trace, "float32")
    theta = {name: np.float64(value) for name, value in params.items()}
    expected = []
    for grads in trace:
        theta = {name: 0.9 * (theta[name] - 1e-3 * np.float64(grads[name])) for name in theta}
        expected.append(theta)
    assert_same_walk(actual, expected, params, "float32")


@pytest.mark.parametrize("noise", ["initial", "fresh"])
def test_all_is_replaced_at_a_change(noise):
    """Shrunk by 1: the parameters that there were at first, or new ones, and a new optimizer."""
    params, trace = initial_params(), awkward_gradients(5)
    optimizer = optim.shrink_perturb(
        optax.adam(lambda count: 0.1, b1=0.5),
        1.0,
        1.0,
        noise,
        period=None,
        opt_state="reset",
        init_fn=constant if noise == "fresh" else None,
    )
    extra = [{"reset": i == 3} for i in range(5)]
    after, state = replay(optimizer, params, trace, "float32", extra)
    expected = params if noise == "initial" else constant(None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after[3], expected)
    adam, schedule = state.inner_state
    assert int(adam.count) == 1
    assert int(schedule.count) == 5
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.5 * g), adam.mu, trace[4])


def test_the_schedule_of_weight_decay_goes_on():
    optimizer = optim.make(
        "shrink_perturb:period=2,opt_state=reset,decoupled_decay=0.1", lambda count: 0.1
    )
    _, state = walk(optimizer, jnp.ones(3), 5)
    assert int(state.count) == 1
    assert int(state.inner_state.count) == 5
    adam, schedule = state.inner_state.inner_state
    assert (int(adam.count), int(schedule.count)) == (1, 5)


def test_injected_schedules_go_on():
    inner = optax.inject_hyperparams(optax.adam)(learning_rate=lambda count: 0.1 * count)
    optimizer = optim.shrink_perturb(inner, 0.0, 0.0, period=2, opt_state="reset")
    _, state = walk(optimizer, jnp.ones(3), 5)
    assert int(state.inner_state.count) == 5
    np.testing.assert_allclose(state.inner_state.hyperparams["learning_rate"], 0.4)
    assert int(state.inner_state.inner_state[0].count) == 1


def test_gaussian_noise():
    """Of the right size, other for each leaf, update and seed; the key alone decides."""
    params = {"a": jnp.zeros((40, 50)), "b": jnp.zeros((40, 50))}

    def noise(key, start=params):
        optimizer = optim.shrink_perturb(optax.sgd(1.0), 1.0, 0.3, "gaussian", key=key)
        after, _ = walk(optimizer, params, 2, initial=start)
        return [after[name][i] / 0.3 for name in params for i in range(2)]

    other = jax.tree.map(lambda leaf: leaf.at[0, 0].set(0.1), params)
    drawn = [*noise(0), *noise(1), *noise(0, other)]
    for i, one in enumerate(drawn):
        assert abs(one.mean()) < 0.1
        assert abs(one.std() - 1) < 0.05
        for before in drawn[:i]:
            assert abs(jnp.mean(one * before)) < 0.1
    np.testing.assert_array_equal(noise(0)[0], drawn[0])


def test_fresh_parameters_are_found_by_name():
    """Whatever else the initialisation gives, and wherever it has flax's level."""

    def initialise(key):
        draw = jax.random.normal(key, (3, 2))
        return {"params": {"layer": {"kernel": draw, "calls": jnp.int32(0), "other": draw}}}

    optimizer = optim.shrink_perturb(optax.sgd(1.0), 1.0, 1.0, "fresh", init_fn=initialise)
    params = {"layer": {"kernel": jnp.ones((3, 2)), "calls": jnp.int32(3)}}
    grads = {"layer": {"kernel": jnp.zeros((3, 2)), "calls": None}}
    state = optimizer.init(params)
    draws = []
    for _ in range(2):
        updates, state = optimizer.update(grads, state, params)
        draws.append(params["layer"]["kernel"] + updates["layer"]["kernel"])
    assert np.all(draws[0] != draws[1])
    assert abs(draws[0]).max() > 0.1
    for wrong, message in (
        (lambda key: {"layer": {"bias": jnp.ones(2)}}, "init_fn must mirror the parameters"),
        (lambda key: {"layer": {"kernel": jnp.ones(2)}}, "init_fn must give leaves of the param"),
    ):
        optimizer = optim.shrink_perturb(optax.sgd(1.0), 1.0, 1.0, "fresh", init_fn=wrong)
        with pytest.raises(ValueError, match=message):
            optimizer.update(grads, optimizer.init(params), params)


@pytest.mark.parametrize("noise", ["initial", "gaussian"])
def test_the_mask(noise):
    params = {"kernel": jnp.ones((2, 2)), "log_std": jnp.ones(2)}
    optimizer = optim.shrink_perturb(
        optax.sgd(1.0), 0.5, 0.1, noise, mask={"kernel": True, "log_std": False}
    )
    after, state = walk(optimizer, params, 1)
    assert np.all(after["kernel"] != 1)
    np.testing.assert_array_equal(after["log_std"], 1.0)
    if noise == "initial":
        assert jax.tree.map(jnp.size, state.initial) == {"kernel": 4, "log_std": 0}


def test_members_with_events_of_their_own():
    """Under `vmap` it is each alone, and the program still branches instead of computing both."""
    optimizer = optim.shrink_perturb(
        optax.adam(0.1), 0.5, 0.1, "gaussian", period=None, opt_state="reset"
    )
    params = jnp.stack([jnp.ones(3), jnp.full(3, 2.0)])

    def update(params, reset):
        grads, state = jnp.cos(params), optimizer.init(params)
        for now in (False, reset, False):
            updates, state = optimizer.update(grads, state, params, reset=now)
            params = params + updates
        return params

    resets = jnp.array([True, False])
    together = quick_jit(jax.vmap(update))(params, resets)
    alone = [quick_jit(update)(p, r) for p, r in zip(params, resets, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-6)
    jaxpr = jax.make_jaxpr(jax.vmap(update))(params, resets).jaxpr
    assert [e for e in equations(jaxpr) if e.primitive.name == "cond"]


def test_periods_can_be_traced():
    def last(period):
        optimizer = optim.shrink_perturb(optax.sgd(1.0), 0.5, 0.0, period=period)
        return walk(optimizer, jnp.ones(()), 6)[0]

    for period in (1, 2, 4):
        expected = 0.5 ** (np.arange(1, 7) // period)
        np.testing.assert_allclose(last(period), expected)
        np.testing.assert_allclose(last(jnp.int32(period)), expected)


def test_errors():
    inner = optax.sgd(1.0)
    for options, message in (
        ({"shrink": 1.1}, r"^shrink must be in \[0, 1\], got 1.1"),
        ({"perturb": -1.0}, r"^perturb must be in \[0, inf\), got -1"),
        ({"period": 0}, "^period must be a whole number of at least 1, or None, got 0"),
        ({"noise": "normal"}, "^noise must be one of initial, gaussian, fresh, got 'normal'"),
        ({"opt_state": "new"}, "^opt_state must be one of keep, reset, got 'new'"),
        ({"noise": "fresh"}, "^init_fn must be a function .* got None with noise 'fresh'"),
        ({"init_fn": constant}, "^init_fn must be .* with noise 'initial'"),
    ):
        with pytest.raises(ValueError, match=message):
            optim.shrink_perturb(inner, **options)
    with pytest.raises(ValueError, match=r"^shrink must be in"):
        optim.shrink_and_perturb(jnp.ones(2), jnp.ones(2), 2.0, 0.0)
    optimizer = optim.shrink_perturb(inner)
    with pytest.raises(ValueError, match=r"^params must be the current parameters in Shrink"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
