"""In blocks and agent by agent the learned optimizers compute what they compute all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixed_meta_params import FACTORIES, drawn
from learned import relative_error
from quick import quick_jit

from optim.learned import _blocks

NAMES = list(FACTORIES)
RECURRENT = [name for name in NAMES if name != "star"]
# For what takes long to compile: the smallest at once, the others with --slow.
FIRST_AND_SLOW = [
    name if name == "linear_optim" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES
]
# A leaf that blocks divide, one that they do not, a small one, one without entries.
SHAPES = {"divided": (192, 100), "rest": (16387,), "small": (5,), "none": (3, 0)}


def numbers(*lead, shapes=SHAPES, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=(*lead, *s)), dtype) for k, s in shapes.items()}


def small_meta_params(name, seed=0):
    sizes = {"mlp_widths": (3,)} if name == "star" else {"hidden_size": 3, "mlp_widths": (2,)}
    return drawn(name, seed, **sizes)


def lifetime(name, meta, params, grads, steps=2):
    """Last parameters and state of a short life."""
    optimizer = FACTORIES[name](meta, 0.1)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0]


def loss(name, meta, params, grads):
    params, _ = lifetime(name, meta, params, grads)
    leaves = jax.tree.leaves(params)
    return sum((jnp.sum(leaf**2) for leaf in leaves[1:]), start=jnp.sum(leaves[0] ** 2))


def assert_alike(actual, expected, rtol=1e-5):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) < rtol


def test_leaves_are_cut():
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    assert [_blocks.block_width(n, _blocks.LARGE_BLOCK) for n in sizes] == [9600, 16384, 0, 0]


def everything(name):
    """Of one agent and of agents of populations: lives and meta-gradients."""
    meta, other = (small_meta_params(name, seed) for seed in (0, 1))
    metas = jax.tree.map(lambda *x: jnp.stack(x), meta, other)
    params, grads = numbers(2), numbers(2, seed=1)
    one = jax.tree.map(lambda leaf: leaf[1], (params, grads))

    def run(meta, params, grads):
        return lifetime(name, meta, params, grads), jax.grad(functools.partial(loss, name))(
            meta, params, grads
        )

    seeds = jax.vmap(run, (None, 0, 0))
    return quick_jit(
        lambda: (run(other, *one), jax.vmap(seeds, (0, None, None))(metas, params, grads))
    )()


@pytest.mark.parametrize("name", FIRST_AND_SLOW)
def test_blocks_and_turns_are_all_at_once(name, monkeypatch):
    in_blocks = everything(name)
    monkeypatch.setattr(_blocks, "block_by_block", _blocks.leaf_by_leaf)
    monkeypatch.setattr(_blocks, "IN_TURN", 10**9)
    at_once = everything(name)
    assert_alike(in_blocks, at_once, 1e-4)
    alone, members = in_blocks
    assert_alike(jax.tree.map(lambda leaf: leaf[1, 1], members), alone, 1e-4)


@pytest.mark.parametrize("name", FIRST_AND_SLOW)
def test_derivatives_in_both_modes_and_of_higher_order(name):
    """Against differences, of a loss along a line of meta-parameters, by blocks and rests."""
    with jax.enable_x64(True):
        # No hidden layers: among so many parameters some are always near a kink of relu.
        sizes = {"mlp_widths": ()} if name == "star" else {"hidden_size": 3}
        meta = jax.tree.map(lambda x: np.asarray(x, np.float64), drawn(name, 0, **sizes))
        towards = jax.tree.map(np.cos, meta)
        shapes = {"rest": (16387,), "small": (5,)}
        params, grads = (numbers(shapes=shapes, seed=s, dtype="float64") for s in (0, 1))

        def along(size):
            moved = jax.tree.map(lambda x, y: x + size * y, meta, towards)
            return loss(name, moved, params, grads) / 1000

        @quick_jit
        def slopes(step):
            ends = jax.lax.map(along, jnp.stack([step, -step, 0.0 * step]))
            forward = lambda x: jax.jvp(along, (x,), (jnp.ones_like(x),))[1]  # noqa: E731
            at = 0.0 * step
            return {
                "first": (forward(at), jax.grad(along)(at), (ends[0] - ends[1]) / (2 * step)),
                "second": (
                    forward_of(forward)(at),
                    forward_of(jax.grad(along))(at),
                    jax.grad(forward)(at),
                    (ends[0] + ends[1] - 2 * ends[2]) / step**2,
                ),
            }

        forward_of = lambda f: lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]  # noqa: E731
        found = slopes(jnp.asarray(1e-4))
    for order, tolerance in (("first", 1e-6), ("second", 1e-4)):
        *ours, expected = map(float, found[order])
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(ours, expected, rtol=tolerance)
        np.testing.assert_allclose(ours, ours[0], rtol=1e-9)


def test_leaves_of_several_dtypes():
    """Each is computed in its own, and keeps it."""
    with jax.enable_x64(True):
        meta = small_meta_params("l2lgd2")
        dtypes = {"single": "float32", "double": "float64", "half": "bfloat16"}
        params = {name: jnp.linspace(-1, 1, 7, dtype=dtype) for name, dtype in dtypes.items()}
        together = lifetime("l2lgd2", meta, params, params)
        for name in dtypes:
            alone = lifetime("l2lgd2", meta, params[name], params[name])
            hidden = together[1][0].hidden[name]
            rtol = 1e-12 if name == "double" else 1e-5
            assert_alike((together[0][name], hidden), (alone[0], alone[1][0].hidden), rtol)
            assert together[0][name].dtype == params[name].dtype
            assert hidden.dtype == ("float64" if name == "double" else "float32")


@pytest.mark.parametrize("few", [1, 100])
def test_small_agents_in_turn_and_side_by_side(few, monkeypatch):
    """Each is alone what it is among others, under common or own meta-parameters."""
    monkeypatch.setattr(_blocks, "FEW", few)
    agents = 3
    shapes = {"kernel": (2, 3), "bias": (3,)}
    metas = [small_meta_params("linear_optim", seed) for seed in range(agents)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *metas)
    params, grads = (numbers(agents, shapes=shapes, seed=seed) for seed in (0, 1))
    last = jax.tree.map(lambda leaf: leaf[-1], (params, grads))
    slope = jax.grad(functools.partial(loss, "linear_optim"))

    @quick_jit
    def run():
        together = [
            jax.vmap(slope, (axis, 0, 0))(meta, params, grads)
            for axis, meta in ((None, metas[0]), (0, stacked))
        ]
        return together, [slope(metas[0], *last), slope(metas[-1], *last)]

    together, alone = run()
    assert_alike(jax.tree.map(lambda leaf: leaf[-1], together), alone)


def temporaries(function, *arguments):
    analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("name", NAMES)
def test_agents_share_the_memory_for_temporaries(name):
    """All at once they need several times that of all states."""
    agents = 8
    meta = drawn(name)
    params = {"kernel": jnp.ones((agents, 128, 128))}
    init = FACTORIES[name](meta).init
    states = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vmap(init)(params)))
    run = jax.vmap(functools.partial(lifetime, name, meta))
    assert temporaries(run, params, params) < 3 * states


@pytest.mark.parametrize("name", RECURRENT)
def test_a_meta_gradient_keeps_hidden_states_and_no_gates(name):
    meta, params, steps = drawn(name), {"kernel": jnp.ones((256, 256))}, 8
    state = FACTORIES[name](meta).init(params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    def moved(meta, params, grads):
        return jnp.sum(lifetime(name, meta, params, grads, steps)[0]["kernel"])

    assert temporaries(jax.grad(moved), meta, params, params) < 2 * steps * size
