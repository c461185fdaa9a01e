"""What every optimizer of ours must bear, by name from the registry."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from extra_inputs import extra_inputs

import optim

NAMES = [name for name in optim.optimizer_names() if optim.details(name)]

# Not finite after a gradient of 1e30, where Adam is, and why.
OVERFLOWS = {"kron": "its preconditioner multiplies gradients with each other"}


def params_for(seed=0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "kernel": jax.random.normal(keys[0], (4, 3), dtype),
        "bias": jax.random.normal(keys[1], (3,), dtype),
        "scale": jax.random.normal(keys[2], (), dtype),
    }


def loss_of(params):
    """Positive, with a slope at every parameter; also of a masked, empty or batched tree."""
    leaves = [jnp.sum(jnp.square(leaf - 3)) for leaf in jax.tree.leaves(params)]
    return sum((leaf.astype(jnp.float32) for leaf in leaves), jnp.float32(1))


def build(name, **options):
    package = optim.details(name).package
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    # Not by make, which would relax the promotion of dtypes.
    return optim.details(name).factory(learning_rate=0.01, **options)


def update_with(name, optimizer, grads, state, params, **unexpected):
    """One update with all that a learner passes."""
    return optimizer.update(
        grads,
        state,
        params,
        value=loss_of(params),
        training_progress=jnp.float32(0.5),
        batch_progress=jnp.float32(0.5),
        **extra_inputs(name, loss_of),
        **unexpected,
    )


def train(name, optimizer, params, steps=3, state=None):
    """Parameters and state after a scan of steps."""

    def step(carry, _):
        params, state = carry
        grads = jax.grad(loss_of)(params)
        updates, state = update_with(name, optimizer, grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params) if state is None else state)
    return jax.lax.scan(step, carry, length=steps)[0]


def all_finite(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)


def assert_close(actual, expected, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected
    )


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_seeds_is_each_seed_alone(name):
    optimizer = build(name)
    seeds = [params_for(i) for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    run = lambda params: train(name, optimizer, params)[0]  # noqa: E731
    together, second = jax.jit(lambda: (jax.vmap(run)(stacked), run(seeds[1])))()
    assert_close(jax.tree.map(lambda leaf: leaf[1], together), second)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), second, seeds[1])
    # TRAC's first steps vanish beside parameters near 1.
    assert any(jax.tree.leaves(moved)) or name == "trac"


@pytest.mark.parametrize("name", NAMES)
def test_gradient_through_update_is_finite(name):
    """With respect to the initial parameters and the size of the steps, as meta-learning needs."""
    optimizer = build(name)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slope(factor, params):
        state = optimizer.init(params)
        for _ in range(2):
            grads = jax.tree.map(lambda g: factor * g, jax.grad(loss_of)(params))
            updates, state = update_with(name, optimizer, grads, state, params)
            params = optax.apply_updates(params, updates)
        return loss_of(params)

    factor, params = slope(jnp.float32(1), params_for())
    assert all_finite((factor, params))
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", NAMES)
def test_masked_and_partitioned(name):
    """What is chosen is updated as if it were alone."""
    optimizer = build(name)
    params = params_for()
    chosen = {"kernel": True, "bias": False, "scale": True}
    labels = {key: "ours" if value else "frozen" for key, value in chosen.items()}
    alone = {key: params[key] for key, value in chosen.items() if value}
    masked = optax.masked(optimizer, chosen)
    parts = optax.partition({"ours": optimizer, "frozen": optax.set_to_zero()}, labels)

    @jax.jit
    def updates():
        results = []
        for transform, tree in ((optimizer, alone), (masked, params), (parts, params)):
            state = transform.init(tree)
            for _ in range(2):
                grads = jax.tree.map(jnp.cos, tree)
                # All of them are given the same loss, that of the part.
                result, state = transform.update(
                    grads, state, tree, value=loss_of(alone), **extra_inputs(name, loss_of)
                )
            results.append(result)
        return results

    expected, of_masked, of_parts = updates()
    for key, value in chosen.items():
        if value:
            assert_close(of_masked[key], expected[key], atol=1e-9)
            assert_close(of_parts[key], expected[key], atol=1e-9)
        else:
            np.testing.assert_array_equal(of_masked[key], jnp.cos(params[key]))
            np.testing.assert_array_equal(of_parts[key], 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    """Updates are of the parameters' dtype and the state keeps its own; it trains in a scan."""
    optimizer = build(name)
    params = params_for(dtype=jnp.bfloat16)
    state = optimizer.init(params)
    grads = jax.tree.map(jnp.cos, params)
    updates, after = jax.eval_shape(
        lambda grads, state, params: update_with(name, optimizer, grads, state, params),
        grads,
        state,
        params,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    before = jax.eval_shape(lambda state: state, state)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.leaves(after) == jax.tree.leaves(before)
    assert all_finite(jax.jit(lambda params: train(name, optimizer, params))(params))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_zero_and_huge_ones(name):
    """All zero from the first update on; and one entry of 1e30, where Adam stays finite."""
    optimizer = build(name)
    params = params_for()
    zeros = jax.tree.map(jnp.zeros_like, params)
    huge = params | {"kernel": params["kernel"].at[0, 0].set(1e30)}

    @jax.jit
    def run(traces):
        results = []
        for trace in traces:
            state, walked = optimizer.init(params), params
            for grads in trace:
                updates, state = update_with(name, optimizer, grads, state, walked)
                walked = optax.apply_updates(walked, updates)
            results.append(walked)
        return results

    of_zeros, of_huge = run([[zeros, zeros], [params, huge, params]])
    assert all_finite(of_zeros)
    # Nothing to go by: no optimizer may run away. Only weight decay may move them.
    assert_close(of_zeros, params, rtol=0.1, atol=0.02)
    assert all_finite(of_huge) or name in OVERFLOWS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tree", [{}, (), {"a": {}}, {"a": None}], ids=str)
def test_empty_trees(name, tree):
    optimizer = build(name)
    updates, _ = update_with(name, optimizer, tree, optimizer.init(tree), tree)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_once_with_donated_buffers_and_the_same_each_time(name):
    """And with a scalar leaf, and an extra argument that nobody knows."""
    optimizer = build(name)

    def step(params, state):
        grads = jax.grad(loss_of)(params)
        updates, state = update_with(name, optimizer, grads, state, params, unexpected=1)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    runs = []
    for _ in range(2):
        params = params_for()
        state = optimizer.init(params)
        for _ in range(3):
            params, state = step(params, state)
        runs.append(params)
    assert step._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, *runs)
    assert runs[0]["scale"].shape == ()


@pytest.mark.parametrize("name", NAMES)
def test_details_are_complete(name):
    details = optim.details(name)
    assert details.summary == optim.describe(name)
    for text in (details.paper, details.inputs, details.state, details.cost):
        assert text
        assert not text.endswith(".")
    assert "arXiv" in details.paper


def test_exceptions_are_of_known_names():
    assert set(OVERFLOWS) <= set(NAMES)
    assert optim.details("adam") is None
