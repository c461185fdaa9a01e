"""The parameters to use: y - (1 - b1) z over b1 for schedule-free optimizers, else the trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from quick import quick_jit

import optim

RATE, B1 = 0.1, 0.8
START = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]]), "bias": np.array([0.3, -0.7])}
SCHEDULE_FREE = {"schedule_free_adamw", "schedule_free_sgd"}


def start():
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), START)


def gradient(params):
    """Of a sum of (p - 1)^4 / 4, which is not the same at x, y and z."""
    return jax.tree.map(lambda p: (p - 1.0) ** 3, params)


def trained(optimizer, params, steps=6):
    """Parameters and state after some updates with gradients at the parameters."""
    optimizer = optax.with_extra_args_support(optimizer)

    def loss(params):
        return sum(jnp.sum((p - 1.0) ** 4) / 4 for p in jax.tree.leaves(params))

    @quick_jit
    def step(params, state):
        grads = gradient(params)
        value = loss(params)
        extra = {"value": value, "grad": grads, "value_fn": loss, "obj_fn": loss, "reset": False}
        with jax.numpy_dtype_promotion("standard"):  # optax's wrappers need it
            updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def averages(start, steps=6):
    """x and y of schedule-free SGD by its equations, with x as it is defined, not solved for."""
    x = z = y = jax.tree.map(np.float64, start)
    for t in range(1, steps + 1):
        z = jax.tree.map(lambda z, y: z - RATE * (y - 1.0) ** 3, z, y)
        x = jax.tree.map(lambda x, z, t=t: (1 - 1 / t) * x + z / t, x, z)
        y = jax.tree.map(lambda x, z: (1 - B1) * z + B1 * x, x, z)
    return x, y


def assert_close(tree, other, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-5} | tolerance),
        tree,
        other,
    )


def free():
    return optim.make(f"schedule_free_sgd:b1={B1}", RATE)


def labels(params):
    return jax.tree.map_with_path(lambda path, _: "free" if "bias" in str(path) else "sgd", params)


WRAPPERS = {
    "alone": free,
    "chain": lambda: optax.chain(optax.clip(100.0), optax.chain(free())),
    "inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda learning_rate: optax.contrib.schedule_free_sgd(learning_rate, b1=B1)
    )(RATE),
    "multi_steps": lambda: optax.MultiSteps(free(), every_k_schedule=1).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(free(), 3),
    "masked_all": lambda: optax.masked(free(), True),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_average_is_found_in_any_wrapper(name):
    params, state = trained(WRAPPERS[name](), start())
    x, y = averages(START)
    assert_close(params, y)
    used = optim.evaluation_params(state, params)
    assert_close(used, x)
    assert abs(x["kernel"] - y["kernel"]).max() > 0.01


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: optax.partition({"free": free(), "sgd": optax.sgd(RATE)}, labels),
        lambda: optax.chain(
            optax.masked(free(), {"kernel": False, "bias": True}),
            optax.masked(optax.sgd(RATE), {"kernel": True, "bias": False}),
        ),
    ],
    ids=["partition", "masked"],
)
def test_only_the_leaves_that_it_trains_are_averaged(optimizer):
    params, state = trained(optimizer(), start())
    x, y = averages(START)
    assert_close(params["bias"], y["bias"])
    used = optim.evaluation_params(state, params)
    assert_close(used["bias"], x["bias"])
    np.testing.assert_array_equal(used["kernel"], params["kernel"])


def test_two_schedule_free_optimizers_side_by_side():
    optimizer = optax.partition({"free": free(), "sgd": free()}, labels)
    params, state = trained(optimizer, start())
    assert_close(optim.evaluation_params(state, params), averages(START)[0])


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_sgd"])
def test_states_of_many_seeds(name):
    """Leading axes on the outside, or a vmap around: the same as one by one."""
    starts = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), start())
    optimizer = optim.make(name, RATE)
    params, state = jax.vmap(lambda p: trained(optimizer, p))(starts)
    outside = optim.evaluation_params(state, params)
    inside = jax.vmap(optim.evaluation_params)(state, params)
    assert_close(outside, inside, rtol=0, atol=0)
    alone = trained(optimizer, jax.tree.map(lambda p: p[1], starts))
    assert_close(
        jax.tree.map(lambda p: p[1], outside), optim.evaluation_params(*alone[::-1]), rtol=1e-3
    )


@pytest.mark.parametrize("name", optim.optimizer_names())
def test_every_named_optimizer(name):
    """Schedule-free ones are used at their average, all others at what they train."""
    params, state = trained(optax.chain(optax.clip(100.0), optim.make(name, 0.01)), start(), 3)
    used = optim.evaluation_params(state, params)
    if name in SCHEDULE_FREE:
        expected = optax.contrib.schedule_free_eval_params(state[1], params)
        assert_close(used, expected, rtol=1e-6)
        assert abs(used["kernel"] - params["kernel"]).max() > 1e-5
    else:
        assert used is params


def test_no_other_named_optimizer_keeps_such_a_state():
    """What optax offers for evaluation: a new function of this kind would need a place here."""
    offered = {name for name in dir(optax) + dir(optax.contrib) if "eval" in name}
    assert offered == {"schedule_free_eval_params"}


class AverageState(NamedTuple):
    """State of an optimizer written elsewhere, which averages."""

    average: Any

    def evaluation_params(self, params):
        return jax.tree.map(lambda average, p: average.astype(p.dtype), self.average, params)


def test_an_optimizer_of_ones_own_takes_part():
    def update(updates, state, params):
        average = jax.tree.map(lambda a, p: 0.5 * (a + p), state.average, params)
        return updates, AverageState(average)

    average = optax.GradientTransformation(AverageState, update)
    params, state = trained(optax.chain(optax.sgd(RATE), average), start(), 1)
    assert_close(optim.evaluation_params(state, params), START)
    assert abs(params["kernel"] - START["kernel"]).max() > 0.1


def test_dtypes_are_those_of_the_parameters():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), start())
    state = optax.contrib.schedule_free_sgd(RATE, state_dtype=jnp.float32).init(params)
    used = optim.evaluation_params(state, params)
    assert {p.dtype for p in jax.tree.leaves(used)} == {jnp.dtype(jnp.bfloat16)}


def test_a_state_of_other_parameters_is_named():
    params, state = trained(free(), start(), 1)
    with pytest.raises(ValueError, match=r"state must be that of an optimizer of params"):
        optim.evaluation_params(state, {"kernel": params["kernel"]})
