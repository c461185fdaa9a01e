"""Loops that pass no parameters train just as those that do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees
from quick import quick_jit

import optim


def make_params():
    layers = {"kernel": jnp.eye(3) * 2, "bias": jnp.ones(3)}
    return {"actor": layers, "critic": jax.tree.map(lambda leaf: leaf / 2, layers)}


def train(optimizer, params, with_params, steps=4):
    """Parameters after some steps, and the state."""

    def step(carry, i):
        params, state = carry
        grads = jax.tree.map(lambda leaf: jnp.cos(3 * leaf + i.astype(leaf.dtype)), params)
        given = (params,) if with_params else ()
        updates, state = optimizer.update(grads, state, *given)
        return (optax.apply_updates(params, updates), state), None

    steps = jnp.arange(float(steps))
    return quick_jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), steps)[0])(
        params
    )


def equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def optimizers():
    return {
        "adamo": optim.adamo(0.1, kappa=1.0, tau=0.05),
        "trac": optim.trac(optax.adam(0.1), s_prev=0.1),
        "chain": optax.chain(
            optim.clip_by_network_norm(0.5),
            optim.open_optimizer(optim.OPEN().init(jax.random.key(0)), key=3),
        ),
        "plain": optax.sgd(0.1, momentum=0.9),
    }


@pytest.mark.parametrize("name", ["adamo", "trac", "chain", "plain"])
def test_the_same_as_with_parameters(name):
    optimizer = optimizers()[name]
    expected, inner_state = train(optimizer, make_params(), with_params=True)
    params, state = train(optim.keep_params(optimizer), make_params(), with_params=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    equal(state.params, params)
    assert jax.tree.structure(state.inner_state) == jax.tree.structure(inner_state)


def test_given_parameters_count():
    optimizer = optim.keep_params(optim.adamo(0.1, kappa=1.0))
    params, state = make_params(), optimizer.init(make_params())
    grads = jax.tree.map(jnp.cos, params)
    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    updates, state = optimizer.update(grads, state, moved)
    plain = optim.adamo(0.1, kappa=1.0)
    equal(updates, plain.update(grads, plain.init(params), moved)[0])
    equal(state.params, optax.apply_updates(moved, updates))


def test_a_lower_precision_is_rounded_as_the_loops_own():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_params())
    params, state = train(optim.keep_params(optim.adamo(0.1)), params, with_params=False)
    equal(state.params, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_the_copy_outlives_the_donated_parameters():
    optimizer = optim.keep_params(optim.adamo(0.1))
    params = make_params()
    state = optimizer.init(params)
    donate = jax.jit(lambda params: jax.tree.map(jnp.negative, params), donate_argnums=0)
    expected = donate(params)
    equal(jax.tree.map(jnp.negative, state.params), expected)


def test_extra_arguments_are_passed():
    optimizer = optim.keep_params(optim.aegd(0.1))
    params = make_params()
    updates, _ = optimizer.update(params, optimizer.init(params), value=jnp.float32(2))
    plain = optim.aegd(0.1)
    equal(updates, plain.update(params, plain.init(params), params, value=jnp.float32(2))[0])


def test_leaves_that_are_not_trained():
    """Gradients of a module hold None for its function and its integer."""
    kernel, bias = jnp.eye(3) * 2, jnp.ones(3)
    module = trees.Module(kernel, bias, jax.nn.relu, jnp.int32(3))
    shown = trees.Module(kernel, bias, None, jnp.int32(3))
    grads = trees.Module(kernel, bias, None, None)
    optimizer = optim.keep_params(optim.adamo(0.1, kappa=1.0))
    state = optimizer.init(shown)
    for given in ((), (module,)):
        updates, _ = optimizer.update(grads, state, *given)
        assert updates.activation is None
        assert updates.calls is None
        plain = optim.adamo(0.1, kappa=1.0)
        pair, expected = {"kernel": kernel, "bias": bias}, plain
        expected, _ = plain.update(pair, plain.init(pair), pair)
        equal({"kernel": updates.kernel, "bias": updates.bias}, expected)


@pytest.mark.parametrize("name", ["adamo", "trac", "weight_clipping", "redo", "adam_reset"])
def test_the_error_names_it(name):
    optimizer = optim.make(name, 0.1)
    params = {f"Dense_{i}": {"kernel": jnp.eye(3), "bias": jnp.ones(3)} for i in range(2)}
    with pytest.raises(ValueError, match=r"got None; .* needs optim.keep_params around the whole"):
        optimizer.update(params, optimizer.init(params))
