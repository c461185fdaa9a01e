"""Runs an optimizer over given gradients, and compares the result with a transcription's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Of the distance walked, per leaf. optax's Adam is itself off by 1e-5 in float32.
TOLERANCE = {"float32": 3e-5, "float64": 1e-11}


def replay(optimizer, params, trace, dtype, extra=None):
    """Parameters after each update, as dicts of float64 arrays, and the last state.

    `extra` gives a dict of extra arguments for each update.
    """

    @jax.jit
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
