"""Runs a learned optimizer through a trace, with the derivative by its meta-parameters."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixed_meta_params import FACTORIES
from numpy_learned import nest, part
from quick import quick_jit

# Names of the authors' traces and, in them, of STAR's accumulators.
GOLDEN = {"optim4rl": "optim4rl", "linear_optim": "linear", "l2lgd2": "l2lgd2", "star": "star"}
ACCUMULATORS = {
    "momentum": "mom",
    "square": "rms",
    "rows": "v_row",
    "columns": "v_col",
    "diagonal": "v_diag",
}


def golden_folder(name="optim4rl"):
    if "RL_OPTIM_REFERENCE" in os.environ:
        return pathlib.Path(os.environ["RL_OPTIM_REFERENCE"]) / "golden" / name
    for parent in pathlib.Path(__file__).parents:
        folder = parent / "shared" / "reference" / "golden" / name
        if folder.is_dir():
            return folder
    return None


def meta_params_of(flat):
    """Meta-parameters named as ours are; the authors' STAR has its own names for the network."""
    tree = nest(flat)
    if "nn" in tree:
        network = tree.pop("nn")["~"]
        tree["mlp"] = {
            f"layers_{2 * i}": {"kernel": network[f"w{i}"], "bias": network[f"b{i}"]}
            for i in range(len(network) // 2)
        }
    return tree


@functools.cache
def program(name, differentiate=True):
    """A function of meta-parameters, learning rate, clip and a trace, compiled once.

    It returns, in the trace's dtype, the loss and, for each step, updates, parameters and the
    optimizer's state; then, if wanted, the derivative of the loss by the meta-parameters.
    """

    def loss_of(meta_params, rate, clip, trace):
        optimizer = FACTORIES[name](meta_params, learning_rate=rate, grad_clip=clip)

        def step(carry, noise):
            params, state = carry
            grads = jax.tree.map(
                lambda c, p, t, n: c * (p - t) + n,
                trace["curvature"],
                params,
                trace["target"],
                noise,
            )
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (updates, params, state)

        carry = (trace["init"], optimizer.init(trace["init"]))
        _, (updates, params, states) = jax.lax.scan(step, carry, trace["noise"])
        loss = jnp.zeros((), trace["weights"].dtype)
        for leaf in updates:
            loss += jnp.sum(trace["cotangent"][leaf] * updates[leaf])
            away = jnp.square(params[leaf] - trace["target"][leaf][None])
            size = trace["curvature"][leaf][None] * away / 2
            loss += trace["weights"] @ size.reshape(size.shape[0], -1).sum(axis=1)
        states = states[0] if isinstance(states, tuple) and name != "star" else states
        return loss, (updates, params, states)

    if differentiate:
        return quick_jit(jax.value_and_grad(loss_of, has_aux=True))
    return quick_jit(lambda *args: (loss_of(*args), None))


def run(name, meta, rate, clip, trace, dtype, differentiate=True):
    """Loss, derivative or None, updates, parameters and state, as numpy arrays."""
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    (loss, (updates, params, states)), slope = program(name, differentiate)(
        cast(meta), jnp.asarray(rate, dtype), jnp.asarray(clip, dtype), cast(trace)
    )
    return jax.tree.map(np.asarray, (loss, slope, updates, params, states._asdict()))


def golden_traces(data):
    """The open and the closed loop of an authors' trace, both of its full length."""
    start = {leaf: value[0] for leaf, value in part(data, "param").items()}
    grads = part(data, "grad")
    steps = len(next(iter(grads.values())))
    zero = {leaf: np.zeros_like(value) for leaf, value in start.items()}
    zeros = {leaf: np.zeros_like(value) for leaf, value in grads.items()}
    at_the_end = np.zeros(steps)
    at_the_end[5] = 1  # the closed loop has six steps
    shared = {"init": start}
    opened = shared | {
        "curvature": zero,
        "target": zero,
        "noise": grads,
        "cotangent": part(data, "cotangent"),
        "weights": np.zeros(steps),
    }
    closed = shared | {
        "curvature": part(data, "closed/curvature"),
        "target": part(data, "closed/target"),
        "noise": zeros,
        "cotangent": zeros,
        "weights": at_the_end,
    }
    return opened, closed


def relative_error(actual, expected):
    """Error relative to the norm of the leaf."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    size = np.linalg.norm(expected.ravel())
    return np.linalg.norm((actual - expected).ravel()) / (size if size else 1)
