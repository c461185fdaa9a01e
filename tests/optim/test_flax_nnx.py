"""Optimizers under `flax.nnx.Optimizer`, which keeps their state in nodes of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import suite
from flax import nnx
from quick import quick_jit

import optim


class Network(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs)])


class ActorCritic(nnx.Module):
    def __init__(self):
        self.actor, self.critic = Network(nnx.Rngs(0)), Network(nnx.Rngs(1))


def gradients(params, i):
    return jax.tree.map(lambda leaf: jnp.cos(3 * leaf + i), params)


def extras(name, grads):
    names = {"adahessian": ("hvp",), "mars_exact": ("previous_gradient",)}.get(name, ())
    return {"value": jnp.float32(1.0)} | dict.fromkeys(names, grads)


def walk(optimizer, name=None):
    """Parameters after two updates, as a dict."""

    graph, start = nnx.split(ActorCritic())

    @quick_jit
    def run(start):
        model = nnx.merge(graph, start)
        wrapped = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        for i in range(2):
            grads = gradients(nnx.state(model, nnx.Param), i)
            wrapped.update(model, grads, **extras(name, grads))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    return run(start)


def walk_of_dict(optimizer, name=None):
    """The same, by optax alone and without nnx."""

    @quick_jit
    def run(params):
        state = optimizer.init(params)
        for i in range(2):
            grads = gradients(params, i)
            updates, state = optimizer.update(grads, state, params, **extras(name, grads))
            params = optax.apply_updates(params, updates)
        return params

    return run(nnx.to_pure_dict(nnx.state(ActorCritic(), nnx.Param)))


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(check, actual, expected)


def with_kron():
    """The lists in whose state came back as other nodes; it is quick enough on few leaves."""
    others = [one for one in suite.parameters(long=True) if one.values != ("kron",)]
    return [pytest.param("kron"), *others]


@pytest.mark.parametrize("name", with_kron())
def test_same_as_without_nnx(name):
    optimizer = suite.CASES[name].build(learning_rate=0.01)
    assert_close(walk(optimizer, name), walk_of_dict(optimizer, name))


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (optim.adamo, {"kappa": 1.0, "matrix_mask": {"actor": False, "critic": True}}),
        (optim.adamp, {"delta": 10.0, "ensemble_axes": {"actor": 0, "critic": 1}}),
        (optim.exadam, {"weight_decay": 0.5, "mask": {"actor": False, "critic": True}}),
    ],
)
def test_masks_by_network(factory, options):
    """A dict by names, or what `jax.tree.map` makes of the model's state."""
    optimizer = factory(0.01, **options)
    expected = walk_of_dict(optimizer)
    assert_close(walk(optimizer), expected)
    *_, argument = options
    values = options[argument]
    state = nnx.state(ActorCritic(), nnx.Param)
    whole = jax.tree.map_with_path(lambda path, _: values[path[0].key], state)
    assert_close(walk(factory(0.01, **options | {argument: whole})), expected)
    without = walk(factory(0.01, **options | {argument: None}))
    changes = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), without, expected)
    assert max(jax.tree.leaves(changes)) > 1e-4
