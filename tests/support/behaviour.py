"""What every optimizer must do whatever its algorithm, as checks to call on one of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from replay import assert_same_walk, replay

SHAPES = {"kernel": (4, 3), "wide": (2, 5), "conv": (2, 2, 2, 3), "bias": (3,), "scale": ()}


def make_params(key=0, dtype=jnp.float32):
    rng = np.random.default_rng(key)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def loss(params):
    terms = [jnp.sum((leaf - 0.5) ** 2 + leaf**4 / 4) for leaf in jax.tree.leaves(params)]
    return sum((term.astype(jnp.float32) for term in terms), start=jnp.zeros(()))


def step(optimizer, params, state):
    """One update with all the extra arguments that a learner passes."""
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(
        grads, state, params, value=value, obj_fn=loss, activations=None, training_progress=0.5
    )
    return optax.apply_updates(params, updates), state


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


def close(actual, expected, rtol=1e-4, atol=1e-6):
    check = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(lambda a, b: check(np.asarray(a, np.float64), b), actual, expected)


def check_dtypes(optimizer):
    """Keeps dtypes of parameters and state, compiles once, follows float32 in half precision."""
    after = {}
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        params = make_params(dtype=dtype)
        state = optimizer.init(params)
        jitted = jax.jit(functools.partial(step, optimizer))
        new_params, new_state = jitted(params, state)
        new_params, new_state = jitted(new_params, new_state)
        assert jitted._cache_size() == 1
        for tree, new in ((params, new_params), (state, new_state)):
            assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, new)
            assert jax.tree.map(lambda x: x.dtype, tree) == jax.tree.map(lambda x: x.dtype, new)
        after[dtype] = jax.tree.map(lambda x: np.asarray(x, np.float64), new_params)
    for dtype in (jnp.bfloat16, jnp.float16):
        close(after[dtype], after[jnp.float32], rtol=0.05, atol=0.05)


def check_donation(optimizer):
    """Parameters and state share no buffers."""
    params = make_params()
    one = functools.partial(step, optimizer)
    keeping, donating = jax.jit(one), jax.jit(one, donate_argnums=(0, 1))
    expected = keeping(*keeping(params, optimizer.init(params)))
    close(donating(*donating(make_params(), optimizer.init(params))), expected)


def check_vmap(optimizer):
    """Seeds together are the seeds alone."""

    def train(params):
        state = optimizer.init(params)
        for _ in range(3):
            params, state = step(optimizer, params, state)
        return params

    seeds = [make_params(key) for key in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.jit(jax.vmap(train))(stacked)
    for i, params in enumerate(seeds):
        close(jax.tree.map(lambda x, i=i: x[i], together), jax.jit(train)(params))


def check_traced_numbers(factory, **numbers):
    """Numbers that are tracers give what the same Python numbers give."""

    def train(numbers):
        optimizer = factory(**numbers)
        params = make_params()
        state = optimizer.init(params)
        for _ in range(2):
            params, state = step(optimizer, params, state)
        return params

    close(jax.jit(train)(numbers), jax.jit(lambda: train(numbers))())


def check_holes(optimizer):
    """Trees that are empty, have None in them, or are masked."""
    for tree in ({}, (), {"a": None, "b": {}}):
        updates, _ = optimizer.update(
            tree, optimizer.init(tree), tree, value=jnp.ones(()), obj_fn=loss, hvp=tree
        )
        assert updates == tree
    params = make_params() | {"none": None}
    after, _ = jax.eval_shape(lambda: step(optimizer, params, optimizer.init(params)))
    assert after["none"] is None
    params = make_params()
    mask = {name: name in ("kernel", "scale") for name in params}
    masked = optax.masked(optimizer, mask, mask_compatible_extra_args=True)
    chosen = {name: leaf for name, leaf in params.items() if mask[name]}

    @functools.partial(jax.jit, static_argnums=0)
    def updates_of(transform, tree):
        state = transform.init(tree)
        extra = {"value": jnp.ones(()), "hvp": tree, "previous_gradient": tree}
        return transform.update(tree, state, tree, **extra)[0]

    together, alone = updates_of(masked, params), updates_of(optimizer, chosen)
    close({name: together[name] for name in chosen}, alone)
    np.testing.assert_array_equal(together["wide"], params["wide"])


def check_refusals(factory, ranges, needs_params=True):
    """Numbers out of range, complex gradients, missing parameters."""
    for name, values in ranges.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name} must be .*got "):
                factory(**{"learning_rate": 0.1, name: value})
    optimizer = factory(learning_rate=0.1)
    params = {"kernel": jnp.ones((2, 2), jnp.complex64)}
    with pytest.raises(ValueError, match="split_real_and_imaginary"):
        optimizer.update(
            params, optimizer.init(params), params, value=jnp.ones(()), obj_fn=loss, hvp=params
        )
    if needs_params:
        params = make_params()
        with pytest.raises(ValueError, match="params"):
            optimizer.update(params, optimizer.init(params), value=jnp.ones(()), obj_fn=loss)
