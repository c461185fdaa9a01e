"""Runs an optimizer over given gradients, and compares the result with a transcription's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from quick import quick_jit

# Of the distance walked, per leaf. optax's Adam is itself off by 1e-5 in float32.
TOLERANCE = {"float32": 3e-5, "float64": 1e-11}


def replay(optimizer, params, trace, dtype, extra=None):
    """Parameters after each update, as dicts of float64 arrays, and the last state.

    `extra` gives a dict of extra arguments for each update.
    """

    @quick_jit
    def step(grads, state, params, extra):
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    params = {name: jnp.asarray(value, dtype) for name, value in params.items()}
    state = optimizer.init(params)
    after = []
    for i, grads in enumerate(trace):
        grads = {name: jnp.asarray(value, dtype) for name, value in grads.items()}
        params, state = step(grads, state, params, extra[i] if extra else {})
        after.append({name: np.asarray(value, np.float64) for name, value in params.items()})
    return after, state


def first_update(optimizer, grads, params, **extra):
    """Updates and state of one compiled step from a new state."""
    update = quick_jit(lambda g, p: optimizer.update(g, optimizer.init(p), p, **extra))
    return update(grads, params)


def assert_same_walk(actual, expected, start, dtype, factor=1.0):
    """Each leaf's error, relative to the way that it has gone so far, is within the tolerance."""
    walked = dict.fromkeys(start, 0.0)
    last = {name: np.float64(value) for name, value in start.items()}
    rounding = np.finfo(dtype).eps
    for i, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        for name, value in theirs.items():
            walked[name] += np.linalg.norm(np.ravel(value - last[name]))
            error = np.linalg.norm(np.ravel(ours[name] - value))
            floor = rounding * np.linalg.norm(np.ravel(value)) * (i + 1)
            assert error <= factor * TOLERANCE[dtype] * walked[name] + floor, (i, name)
        last = dict(theirs)


def compare(optimizer, transcription, trace, start, dtype, extra=None, factor=1.0):
    """Replays gradients through an optimizer and through its transcription in NumPy."""
    params = {name: np.float64(value) for name, value in start.items()}
    expected = []
    for i, grads in enumerate(trace):
        params = transcription.step(params, grads, **(extra[i] if extra else {}))
        expected.append(params)
    with jax.enable_x64(dtype == "float64"):
        actual, _ = replay(optimizer, start, trace, dtype, extra)
    assert_same_walk(actual, expected, start, dtype, factor)


def falling(start, end, steps):
    """A linear schedule that is as exact as the dtype; optax's is in float32."""
    return lambda count: start - (start - end) / steps * jnp.asarray(count, float)
