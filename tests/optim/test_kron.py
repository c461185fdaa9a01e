"""Kron: its settings, what whitening means, and the package being there or not."""

import builtins
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from equations import equations
from quick import quick_jit
from replay import first_update

import optim

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("psgdax") is None, reason="psgdax is not installed"
)


@needs_package
def test_factors_and_silence(capsys):
    """Full factors for both sides of a matrix, also the longer one; vectors are diagonal."""
    params = {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4), "scale": jnp.ones([])}
    optimizer = optim.kron(1e-3)
    state = optimizer.init(params)
    jax.eval_shape(optimizer.update, params, state, params)
    assert capsys.readouterr().out == ""
    shapes = jax.tree.map(jnp.shape, state[0].Qs_preconditioners, is_leaf=lambda x: False)
    assert shapes == {"kernel": [(8, 8), (4, 4)], "bias": [(4,)], "scale": [()]}
    for factor in state[0].Qs_preconditioners["kernel"]:
        np.testing.assert_array_equal(factor, np.eye(len(factor)))
    wide = optim.kron(1e-3, max_size=6).init(params)[0].Qs_preconditioners["kernel"]
    assert [factor.shape for factor in wide] == [(8,), (4, 4)]


@needs_package
def test_whitening():
    """Gradients whose columns differ by 100 times in size come out alike."""
    optimizer = optim.scale_by_kron(b1=0.01, max_rms=100.0)
    sizes = jnp.array([10.0, 1.0, 0.1])

    def step(state, key):
        grads = jax.random.normal(key, (6, 3)) * sizes[None, :]
        updates, state = optimizer.update(grads, state)
        return state, jnp.sqrt(jnp.mean(updates**2, axis=0))

    state = optimizer.init(jnp.zeros((6, 3)))
    keys = jax.random.split(jax.random.key(0), 500)
    _, rms = quick_jit(lambda: jax.lax.scan(step, state, keys))()
    after = rms[-100:].mean(axis=0)
    np.testing.assert_allclose(after, 1.0, atol=0.6)
    assert after.max() / after.min() < 3


@needs_package
def test_first_steps_are_capped_momentum():
    """With the preconditioner at the identity the direction is the gradient, cut to the cap."""
    grads = jnp.full((4, 4), 100.0)
    optimizer = optim.scale_by_kron(preconditioner_rate=1e-9, max_rms=1.1)
    update = quick_jit(lambda grads: optimizer.update(grads, optimizer.init(grads))[0])
    np.testing.assert_allclose(update(grads), 1.1, rtol=1e-5)
    updates = update(grads / 1000)
    np.testing.assert_allclose(updates, 0.1, rtol=1e-5)


@needs_package
def test_weight_decay_is_for_matrices():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(jnp.cos, params)
    steps = []
    for options in ({}, {"weight_decay": 0.5}, {"weight_decay": 0.5, "weight_decay_mask": True}):
        optimizer = optim.kron(0.1, **options)
        steps.append(first_update(optimizer, grads, params)[0])
    plain, decayed, all_decayed = steps
    np.testing.assert_allclose(decayed["kernel"] - plain["kernel"], -0.05, rtol=1e-4)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
    np.testing.assert_allclose(all_decayed["bias"] - plain["bias"], -0.05, rtol=1e-4)


@needs_package
def test_seeds_give_noise():
    grads = jnp.cos(jnp.arange(12.0)).reshape(4, 3)

    def factor(seed):
        optimizer = optim.scale_by_kron(seed=seed)
        return optimizer.update(grads, optimizer.init(grads))[1].Qs_preconditioners[0]

    together, alone = quick_jit(lambda: (jax.vmap(factor)(jnp.array([0, 1])), factor(1)))()
    assert np.max(np.abs(together[0] - together[1])) > 1e-4
    np.testing.assert_allclose(alone, together[1], rtol=1e-4, atol=1e-6)


@needs_package
def test_solves_nothing_in_batches():
    """Batched triangular solves of two programs at once can deadlock XLA on a CPU."""
    optimizer = optim.scale_by_kron()
    grads = jnp.ones((5, 4, 3))
    states = jax.vmap(optimizer.init)(grads)
    jaxpr = jax.make_jaxpr(jax.vmap(optimizer.update))(grads, states).jaxpr
    ranks = [
        equation.invars[0].aval.ndim
        for equation in equations(jaxpr)
        if equation.primitive.name == "triangular_solve"
    ]
    assert ranks
    assert set(ranks) == {2}


@needs_package
def test_reverse_mode():
    optimizer = optim.scale_by_kron()
    grads = jnp.cos(jnp.arange(12.0)).reshape(4, 3)
    state = optimizer.init(grads)

    def length(grads):
        return jnp.sum(optimizer.update(grads, state)[0] ** 2)

    slope = quick_jit(jax.grad(length))(grads)
    along = jnp.ones_like(grads)
    _, forward = quick_jit(lambda: jax.jvp(length, (grads,), (along,)))()
    np.testing.assert_allclose(jnp.sum(slope * along), forward, rtol=1e-4)


@needs_package
def test_inject_hyperparams():
    params = jnp.ones((3, 2))
    factory = optax.inject_hyperparams(optim.kron, static_args=("b1", "max_size", "seed"))
    optimizer = factory(optax.linear_schedule(1e-2, 0.0, 2))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = first_update(optimizer, params, params)
    assert np.all(np.isfinite(updates))


def test_without_the_package(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "psgdax":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "psgdax", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    message = r"^kron needs the package psgdax: pip install rl-optim\[kron\]\.$"
    with pytest.raises(ImportError, match=message):
        optim.kron(1e-3)
    with pytest.raises(ValueError, match=message):
        optim.make("kron", 1e-3)
    assert "kron" in optim.optimizer_names()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("b1", 0.0),
        ("b1", 1.0),
        ("weight_decay", -1.0),
        ("preconditioner_rate", 0.0),
        ("max_rms", 0.0),
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.kron(**{"learning_rate": 1e-3, name: value})
