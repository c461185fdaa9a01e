"""Adam with critical momenta against a NumPy transcription and steps worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_adam_cm import NumpyAdamCM
from ranges import check_ranges
from replay import assert_same_walk, replay

import optim
from optim._promotion import with_standard_promotion

HYPER = {"b1": 0.9, "b2": 0.99, "eps": 1e-6, "capacity": 3, "decay": 0.6}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    params, trace = initial_params(), awkward_gradients(steps=21)
    reference = NumpyAdamCM(params, 0.01, **HYPER, weight_decay=0.1)
    expected = [reference.step(grads) for grads in trace]
    assert min(reference.replaced, reference.refused) > 2
    with jax.enable_x64(dtype == "float64"):
        optimizer = optim.adam_cm(0.01, **HYPER, weight_decay=0.1)
        actual, (state, *_) = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)
    priorities = [priority for priority, _ in reference.buffer]
    np.testing.assert_allclose(state.priorities, priorities, rtol=1e-5)
    for slot, (_, momenta) in enumerate(reference.buffer):
        for name, momentum in momenta.items():
            size = np.max(np.abs(momentum))
            np.testing.assert_allclose(
                state.buffer[name][slot], momentum, rtol=1e-4, atol=1e-5 * size
            )


def test_first_steps_by_hand():
    """The buffer holds 1 after the first step, [1, 0.5 * 3] after the second."""
    optimizer = optim.scale_by_adam_cm(b1=0.5, b2=0.75, eps=1e-12, capacity=2, decay=0.5)
    params = jnp.zeros(())
    state = optimizer.init(params)

    updates, state = optimizer.update(jnp.asarray(1.0), state, params)
    assert updates == 0
    assert state.mu == state.nu == 0
    np.testing.assert_allclose(state.buffer, [1, 0])
    np.testing.assert_allclose(state.priorities, [0.5, 0])
    assert state.size == 1

    updates, state = optimizer.update(jnp.asarray(-3.0), state, params)
    total = -1.5 + 1
    root = np.sqrt(0.25 * total**2 / (1 - 0.75**2))
    np.testing.assert_allclose(updates, total / 0.75 / root, rtol=1e-6)
    np.testing.assert_allclose(state.buffer, [1, -1.5])
    np.testing.assert_allclose(state.priorities, [0.25, 1.5])

    # Too small to enter: 0.2 is less than 0.25.
    _, refused = optimizer.update(jnp.asarray(0.2), state, params)
    np.testing.assert_allclose(refused.buffer, [1, -1.5])
    np.testing.assert_allclose(refused.priorities, [0.125, 0.75])

    # Large enough: it takes the place of the first.
    updates, entered = optimizer.update(jnp.asarray(0.3), state, params)
    momentum = 0.5 * -1.5 + 0.5 * 0.3
    nu = 0.75 * 0.25 * total**2 + 0.25 * (momentum - 0.25) ** 2
    expected = (momentum - 0.25) / 0.875 / np.sqrt(nu / (1 - 0.75**3))
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    np.testing.assert_allclose(entered.buffer, [momentum, -1.5])
    np.testing.assert_allclose(entered.priorities, [0.15, 0.75])


def test_priority_is_the_sum_of_norms_and_shared():
    """By the norm of the whole gradient, 5 then 5.05, the second would not have come in."""
    optimizer = optim.scale_by_adam_cm(capacity=1, decay=0.99)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    _, state = optimizer.update(
        {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros(())}, optimizer.init(params), params
    )
    np.testing.assert_allclose(state.priorities, [0.99 * 5], rtol=1e-6)
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.asarray(-2.5)}
    _, state = optimizer.update(grads, state, params)
    np.testing.assert_allclose(state.priorities, [0.99 * 5.5], rtol=1e-6)
    np.testing.assert_allclose(state.buffer["a"], [[0.3, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(state.buffer["b"], [-0.25], rtol=1e-6)


def test_empty_memory_is_adam():
    """After a first gradient of zero the buffer is zero, and the second step is Adam's.

    Adam's without momentum: the second moment is that of the momentum, not of the gradient.
    """
    params = initial_params()
    zeros = jax.tree.map(np.zeros_like, params)
    trace = [zeros, awkward_gradients()[0]]
    ours, _ = replay(optim.adam_cm(0.01, b1=0.0), params, trace, "float32")
    theirs, _ = replay(with_standard_promotion(optax.adam(0.01, b1=0.0)), params, trace, "float32")
    assert_same_walk(ours, theirs, params, "float32")


def test_capacity():
    params = jnp.ones((3, 2))
    assert optim.scale_by_adam_cm().init(params).buffer.shape == (5, 3, 2)
    assert optim.scale_by_adam_cm(capacity=2).init(params).buffer.shape == (2, 3, 2)
    for capacity in (0, 2.5, True, jnp.ones(2)):
        with pytest.raises(ValueError, match="capacity must be a static integer of at least 1"):
            optim.adam_cm(0.1, capacity=capacity)


def test_ranges():
    check_ranges(
        optim.adam_cm,
        b1="[0, 1)",
        b2="[0, 1)",
        decay="[0, 1)",
        eps="(0, inf)",
        weight_decay="[0, inf)",
    )
