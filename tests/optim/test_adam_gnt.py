"""AdamGnT against a NumPy transcription, Adam, and entries that begin anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_redo import NumpyAdamGnT
from quick import quick_jit
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    params, trace = initial_params(), awkward_gradients()
    adam = {name: NumpyAdamGnT(p.shape, **HYPER) for name, p in params.items()}
    expected, last = [], {name: np.float64(p) for name, p in params.items()}
    for grads in trace:
        last = {
            name: p - 0.01 * adam[name].step(np.float64(grads[name])) for name, p in last.items()
        }
        expected.append(last)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optim.adam_gnt(0.01, **HYPER), params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype)


def test_it_is_adam_until_something_is_put_back():
    params, trace = initial_params(), awkward_gradients()
    with jax.enable_x64(True):
        actual, _ = replay(optim.adam_gnt(0.01), params, trace, "float64")
        adam = with_standard_promotion(optax.adam(0.01))
        expected, _ = replay(adam, params, trace, "float64")
    assert_same_walk(actual, expected, params, "float64")


@pytest.mark.parametrize(
    ("optimizer", "longest", "first"),
    [(optim.adam_gnt(1.0), 1.0, 1.0), (optax.adam(1.0), 6.57, 3.16)],
    ids=["adam_gnt", "adam"],
)
def test_steps_of_entries_whose_moments_are_put_back(optimizer, longest, first):
    """Gradients stay the same. Adam's count, which is that of the others, makes its steps long."""
    optimizer = with_standard_promotion(optimizer)
    params = jnp.zeros(2)
    fresh = optimizer.init(params)

    def step(state, i):
        state = jax.tree.map(
            lambda old, new: (
                old.at[0].set(jnp.where(i == 10_000, new[0], old[0])) if old.ndim else old
            ),
            state,
            fresh,
        )
        updates, state = optimizer.update(jnp.ones(2), state, params)
        return state, updates

    _, updates = quick_jit(lambda: jax.lax.scan(step, fresh, jnp.arange(10_200)))()
    np.testing.assert_allclose(-updates[10_000, 0], first, rtol=2e-3)
    np.testing.assert_allclose(np.max(-updates[10_000:, 0]), longest, rtol=2e-3)
    np.testing.assert_allclose(-updates[:, 1], 1.0, rtol=2e-3)


def test_state_of_half_precision_is_float32():
    state = optim.adam_gnt(0.1).init(jnp.zeros(2, jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.0), ("b1", 1.0), ("b2", -0.1), ("eps", -1.0)]
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.adam_gnt(**{"learning_rate": 1e-3, name: value})
