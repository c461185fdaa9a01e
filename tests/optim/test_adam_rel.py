"""Adam-Rel against a NumPy transcription, Adam, and the steps that its paper states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_adam_rel import NumpyAdamRel
from quick import quick_jit
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-5}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["period", "reset"])
def test_numpy_trace(way, dtype):
    params, trace = initial_params(), awkward_gradients()
    new = [i % 4 == 0 for i in range(len(trace))]
    reference = NumpyAdamRel(params, 0.01, **HYPER)
    expected = [dict(reference.step(g, r)) for g, r in zip(trace, new, strict=True)]
    optimizer = optim.adam_rel(0.01, **HYPER, period=4 if way == "period" else None)
    extra = [{"reset": r} for r in new] if way == "reset" else None
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, params, trace, dtype, extra)
    assert_same_walk(actual, expected, params, dtype)


@pytest.mark.parametrize("options", [{}, {"period": 1000}])
def test_one_objective_is_adam_exactly(options):
    params, trace = initial_params(), awkward_gradients()
    ours, _ = replay(optim.adam_rel(0.01, **options), params, trace, "float32")
    theirs, _ = replay(with_standard_promotion(optax.adam(0.01)), params, trace, "float32")
    for mine, other in zip(ours, theirs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, other)


@pytest.mark.parametrize(("jump", "adam_rel", "adam"), [(1.0, 0.316, 1.0), (1e6, 1.0, 10**0.5)])
def test_first_step_on_a_new_objective(jump, adam_rel, adam):
    """In units of the learning rate: a warm-up, and no overshoot where gradients grow."""
    grads = jnp.concatenate([jnp.ones(12_000), jnp.full(1, jump)])

    def last_step(period):
        optimizer = optim.adam_rel(1.0, period=period)
        step = lambda state, g: optimizer.update(g, state)[::-1]  # noqa: E731
        return jax.lax.scan(step, optimizer.init(jnp.zeros([])), grads)[1][-1]

    np.testing.assert_allclose(-last_step(12_000), adam_rel, rtol=2e-3)
    np.testing.assert_allclose(-last_step(None), adam, rtol=2e-3)


def test_moments_and_schedule_go_on():
    """The same moments as Adam's, a local step count, a global count of the schedule."""
    params, trace = initial_params(), awkward_gradients(steps=7)
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    _, state = replay(optim.adam_rel(schedule, period=3), params, trace, "float32")
    adam = with_standard_promotion(optax.adam(schedule))
    _, expected = replay(adam, params, trace, "float32")
    jax.tree.map(np.testing.assert_array_equal, state[0].mu, expected[0].mu)
    jax.tree.map(np.testing.assert_array_equal, state[0].nu, expected[0].nu)
    assert int(state[0].count) == 1
    assert int(state[1].count) == int(expected[1].count) == 7


def test_a_period_comes_before_reset():
    """So that a period of one's own holds under a learner that passes `reset`."""
    direction = optim.scale_by_adam_rel(period=3)
    grads = jnp.ones(1)
    state = direction.init(grads)
    counts = []
    for i in range(6):
        _, state = direction.update(grads, state, reset=jnp.asarray(i == 2))
        counts.append(int(state.count))
    assert counts == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("factory", [optim.adam_rel, optim.adam_reset])
def test_multi_steps_drop_what_is_not_emitted(factory):
    """Of three mini-steps the last one emits; a period counts what is emitted."""
    params = grads = jnp.ones(1)

    def counts(period, last):
        optimizer = optax.MultiSteps(factory(1e-3, period=period), 3)
        state, found = optimizer.init(params), []
        update = quick_jit(
            lambda state, reset: optimizer.update(grads, state, params, reset=reset)[1]
        )
        for i in range(12):
            state = update(state, (i == 8) if last else (i == 6))
            if i % 3 == 2:
                found.append(int(state.inner_opt_state[0].count))
        return found

    with jax.numpy_dtype_promotion("standard"):  # As optax needs it here.
        assert counts(None, last=False) == [1, 2, 3, 4]
        assert counts(None, last=True) == [1, 2, 1, 2]
        assert counts(2, last=False) == [1, 2, 1, 2]


def test_the_period_can_be_traced():
    """So that `jax.vmap` tries several."""
    grads = jnp.linspace(0.1, 2.0, 10)

    def last_count(period):
        direction = optim.scale_by_adam_rel(period=period)
        step = lambda state, g: (direction.update(g, state)[1], None)  # noqa: E731
        return jax.lax.scan(step, direction.init(grads[0]), grads)[0].count

    np.testing.assert_array_equal(jax.vmap(last_count)(jnp.array([1, 4, 7])), [1, 2, 3])


@pytest.mark.parametrize("period", [0, -1, 2.5, float("nan"), True, "4", np.array([1, 0])])
def test_periods_out_of_range(period):
    with pytest.raises(ValueError, match="period must be a whole number of at least 1"):
        optim.adam_rel(1e-3, period=period)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", -1.0), ("b1", 1.0), ("b2", 1.0), ("eps", -1.0), ("eps_root", -1.0)],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.adam_rel(**{"learning_rate": 1e-3, name: value})
