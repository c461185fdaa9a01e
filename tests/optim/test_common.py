"""What every optimizer must bear, over one list of them: `suite.CASES`."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import suite
import trees
from flax import nnx
from flax.core import FrozenDict
from quick import quick_jit

import optim

# Their derivative is lost in float32, and why.
CANCELS = {
    "trac_settling_exact": "it divides parameters minus reference by a scale that begins at 0"
}

every = pytest.mark.parametrize("name", suite.parameters())


def build(name, **overrides):
    """With a learning rate at which one step neither vanishes nor leaves the neighbourhood."""
    return suite.CASES[name].build(**{"learning_rate": 0.01} | overrides)


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


def update(optimizer, grads, state, params, loss=loss_of, **others):
    """One update with all that a learner passes."""
    return optimizer.update(
        grads,
        state,
        params,
        value=loss(params),
        grad=grads,
        value_fn=loss,
        obj_fn=loss,
        training_progress=jnp.float32(0.5),
        batch_progress=jnp.float32(0.5),
        reset=jnp.zeros((), bool),
        **others,
    )


def step(optimizer, params, state, **others):
    grads = jax.grad(loss_of)(params)
    updates, state = update(optimizer, grads, state, params, **others)
    return optax.apply_updates(params, updates), state


def types_of(tree):
    return jax.tree.structure(tree), [jax.typeof(leaf) for leaf in jax.tree.leaves(tree)]


def all_finite(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return all(np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in leaves)


def assert_close(actual, expected, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected
    )


@every
def test_vmap_over_seeds_is_each_seed_alone(name):
    optimizer = build(name)
    seeds = [params_for(i) for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)

    def train(params):
        body = lambda carry, _: (step(optimizer, *carry), None)  # noqa: E731
        return jax.lax.scan(body, (params, optimizer.init(params)), length=3)[0][0]

    together, second = quick_jit(lambda: (jax.vmap(train)(stacked), train(seeds[1])))()
    assert_close(jax.tree.map(lambda leaf: leaf[1], together), second)
    moved = jax.tree.map(lambda a, b: np.any(a != b), second, seeds[1])
    assert all(jax.tree.leaves(moved))


@every
def test_gradient_through_update_is_finite(name):
    """As meta-learning needs it; also where gradients, parameters or both vanish."""
    further = suite.CASES[name].differentiable
    optimizer = build(name, **(further or {}))

    @quick_jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slope(factor, params):
        state = optimizer.init(params)
        for _ in range(2):
            grads = jax.tree.map(lambda leaf: factor * jnp.cos(leaf), params)
            updates, state = update(optimizer, grads, state, params)
            params = optax.apply_updates(params, updates)
        return loss_of(params)

    for factor in (1.0,) if further is None else (1.0, 0.0):
        for size in (0.0, 1.0):
            params = jax.tree.map(lambda leaf, size=size: size * leaf, params_for())
            slopes = slope(jnp.float32(factor), params)
            assert all_finite(slopes), (factor, size)
            is_felt = all(np.any(leaf != 0) for leaf in jax.tree.leaves(slopes[1]))
            assert is_felt or name in CANCELS, (factor, size)


@every
def test_masked_and_partitioned(name):
    """What is chosen is updated as if it were alone."""
    optimizer = build(name)
    params = params_for()
    chosen = {"kernel": True, "bias": False, "scale": True}
    labels = {key: "ours" if value else "frozen" for key, value in chosen.items()}
    alone = {key: params[key] for key, value in chosen.items() if value}
    masked = optax.masked(optimizer, chosen)
    parts = optax.partition({"ours": optimizer, "frozen": optax.set_to_zero()}, labels)

    @quick_jit
    def updates():
        results = []
        for transform, tree in ((optimizer, alone), (masked, params), (parts, params)):
            state = transform.init(tree)
            for _ in range(2):
                grads = jax.tree.map(jnp.cos, tree)
                # All of them are given the same loss, that of the part.
                result, state = transform.update(
                    grads, state, tree, value=loss_of(alone), obj_fn=loss_of
                )
            results.append(result)
        return results

    expected, of_masked, of_parts = updates()
    for key, value in chosen.items():
        if value:
            assert_close(of_masked[key], expected[key], atol=1e-9)
            assert_close(of_parts[key], expected[key], atol=1e-9)
        else:
            np.testing.assert_allclose(of_masked[key], jnp.cos(params[key]), rtol=1e-6)
            np.testing.assert_array_equal(of_parts[key], 0.0)


@every
def test_half_precision(name):
    """Updates have the parameters' dtype, the state keeps its own, and steps are float32's."""
    optimizer = build(name)
    dtypes = (jnp.float32, jnp.bfloat16, jnp.float16)

    @quick_jit
    def second_updates(params, grads):
        results = []
        for dtype in dtypes:
            cast = functools.partial(jax.tree.map, lambda leaf, dtype=dtype: leaf.astype(dtype))
            state = optimizer.init(cast(params))
            for tree in grads:
                updates, after = update(optimizer, cast(tree), state, cast(params))
                assert types_of(updates) == types_of(cast(params))
                assert types_of(after) == types_of(state)
                state = after
            results.append(updates)
        return results

    # Numbers that all three dtypes have, and gradients that do not cancel.
    params, *grads = (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params_for(i, jnp.bfloat16))
        for i in range(3)
    )
    grads = [jax.tree.map(jnp.abs, tree) for tree in grads]
    expected, *halves = second_updates(params, grads)
    for updates in halves:
        for key, leaf in expected.items():
            error = np.linalg.norm(np.ravel(np.float64(updates[key]) - np.float64(leaf)))
            assert error <= 0.03 * np.linalg.norm(np.ravel(leaf)), key


@every
def test_mixed_dtypes_are_kept(name):
    with jax.enable_x64(True):
        params = {"narrow": jnp.ones((2, 2), jnp.float32), "wide": jnp.ones((2, 2), jnp.float64)}
        optimizer = build(name)

        def two(params):
            state = optimizer.init(params)
            for _ in range(2):
                updates, after = update(optimizer, params, state, params)
                assert types_of(updates) == types_of(params)
                assert types_of(after) == types_of(state)
                state = after
            return updates

        jax.eval_shape(two, params)


@every
def test_gradients_of_zero_and_huge_ones(name):
    """All zero, on a flat loss, from the first update on; and one entry of 1e30."""
    optimizer = build(name)
    params = params_for()
    zeros = jax.tree.map(jnp.zeros_like, params)
    huge = params | {"kernel": params["kernel"].at[0, 0].set(1e30)}

    def walk(trace, loss):
        def body(carry, grads):
            params, state = carry
            updates, state = update(optimizer, grads, state, params, loss)
            return (optax.apply_updates(params, updates), state), None

        trace = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trace)
        return jax.lax.scan(body, (params, optimizer.init(params)), trace)[0][0]

    flat = lambda params: jnp.float32(1)  # noqa: E731
    of_zeros, of_huge = quick_jit(
        lambda: (walk([zeros, zeros, zeros], flat), walk([params, huge, params], loss_of))
    )()
    # Nothing to go by: only weight decay may move them.
    assert_close(of_zeros, params, rtol=0.01, atol=0)
    assert all_finite(of_huge)


@every
def test_trees_with_nothing_in_them(name):
    """Empty, with None, masked out, and with a leaf of no entries beside a scalar."""
    optimizer = build(name)
    nothing = {"a": jnp.ones((3, 0)), "b": jnp.ones(0), "c": jnp.ones(())}
    run = lambda tree: update(optimizer, tree, optimizer.init(tree), tree)[0]  # noqa: E731
    for tree in ({}, (), [], {"a": {}}, {"a": None}, {"a": optax.MaskedNode()}, nothing):
        updates = jax.eval_shape(run, tree)
        assert jax.tree.structure(updates) == jax.tree.structure(tree)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, tree)
    assert np.isfinite(quick_jit(run)(nothing)["c"])


@every
def test_compiled_once_with_donated_buffers_and_the_same_each_time(name):
    """And with an extra argument that nobody knows."""
    optimizer = build(name)
    run = quick_jit(
        lambda params, state: step(optimizer, params, state, unexpected=1), donate_argnums=(0, 1)
    )
    results = []
    for _ in range(2):
        params = params_for()
        state = optimizer.init(params)
        for _ in range(3):
            params, state = run(params, state)
        results.append(params)
    assert run._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, *results)


@every
def test_missing_parameters(name):
    optimizer, params = build(name), params_for()

    def run(params):
        extra = {"value": jnp.float32(1), "obj_fn": loss_of}
        return optimizer.update(params, optimizer.init(params), **extra)[0]

    if suite.CASES[name].needs_params:
        with pytest.raises(ValueError, match="params"):
            jax.eval_shape(run, params)
    else:
        assert types_of(jax.eval_shape(run, params)) == types_of(params)


@every
def test_complex_parameters(name):
    """They are refused with advice, but where Adam alone computes with them."""
    optimizer = build(name)
    params = {"kernel": jnp.ones((2, 2), jnp.complex64)}

    def run(params):
        return optimizer.update(params, optimizer.init(params), params, value=1.0, obj_fn=loss_of)[
            0
        ]

    if suite.CASES[name].takes_complex:
        assert types_of(jax.eval_shape(run, params)) == types_of(params)
    else:
        with pytest.raises(ValueError, match="split_real_and_imaginary"):
            jax.eval_shape(run, params)


MODULE = trees.Module(jnp.ones((4, 3)), jnp.zeros(3), jax.nn.relu, jnp.int32(7))
ARRAYS = dataclasses.replace(MODULE, activation=None)
TRAINED = dataclasses.replace(ARRAYS, calls=None)
GRADIENTS = dataclasses.replace(TRAINED, kernel=jnp.full((4, 3), 0.5), bias=jnp.ones(3))
WITH_ZEROS = dataclasses.replace(GRADIENTS, calls=jnp.int32(0))
# Given to init, as gradients and as parameters: None is what equinox.filter_grad gives, integers
# are what a learner has in their place that wants gradients everywhere.
UNTRAINED = {
    "filtered": (TRAINED, GRADIENTS, TRAINED),
    "whole_in_update": (TRAINED, GRADIENTS, MODULE),
    "arrays_in_update": (TRAINED, GRADIENTS, ARRAYS),
    "arrays": (ARRAYS, GRADIENTS, ARRAYS),
    "arrays_in_init": (ARRAYS, GRADIENTS, MODULE),
    "zeros": (ARRAYS, WITH_ZEROS, ARRAYS),
    "zeros_and_whole_in_update": (ARRAYS, WITH_ZEROS, MODULE),
}


# The state of each leaf is that of optax's momentum, which does without where a gradient is None.
TAKES_LESS = {"cautious_sgd", "parseval", "spectral_regularization", "tvlars"}


def loss_of_module(module):
    """Of all that it was given, also where it is differentiated."""
    activation = module.activation or jax.nn.relu
    return jnp.sum(activation(module.kernel + 1) ** 2) + jnp.sum((module.bias - 1) ** 2)


def two_updates(optimizer, initial, grads, params):
    """Of gradients that stay the same; the state keeps its types."""

    def loss(module):
        assert module.activation is params.activation
        assert module.calls is params.calls
        return loss_of_module(module)

    state = optimizer.init(initial)
    for _ in range(2):
        updates, after = update(optimizer, grads, state, params, loss)
        assert types_of(after) == types_of(state)
        state = after
    assert updates.activation is None
    if grads.calls is None:
        assert updates.calls is None
    else:
        assert jax.typeof(updates.calls) == jax.typeof(grads.calls)
    return updates


@every
def test_leaves_without_gradients(name):
    """Functions, integers and None, as in a module of equinox, are left alone, as by Adam."""
    optimizer = build(name)
    for trees_given in UNTRAINED.values():
        jax.eval_shape(lambda given=trees_given: two_updates(optimizer, *given))
    filtered, whole = quick_jit(
        lambda: [
            two_updates(optimizer, *UNTRAINED[key])
            for key in ("filtered", "zeros_and_whole_in_update")
        ]
    )()
    assert_close(dataclasses.replace(whole, calls=None), filtered, rtol=1e-5)
    np.testing.assert_array_equal(whole.calls, 0)
    assert np.any(filtered.kernel != 0)


@every
def test_leaves_that_no_optimizer_takes(name):
    """One sentence says what is wrong and where."""
    optimizer = build(name)

    def run(initial, grads=GRADIENTS):
        return update(optimizer, grads, optimizer.init(initial), ARRAYS, loss_of_module)

    with pytest.raises(ValueError, match=r"^params must hold arrays .* a \w+ at 'activation'; "):
        jax.eval_shape(lambda: run(MODULE))
    float0 = dataclasses.replace(GRADIENTS, calls=np.zeros((), jax.dtypes.float0))
    with pytest.raises(ValueError, match=r"^updates must hold arrays .* float0 at 'calls'; "):
        jax.eval_shape(lambda: run(ARRAYS, float0))
    frozen = dataclasses.replace(GRADIENTS, bias=None)
    if name in TAKES_LESS:
        return
    with pytest.raises(ValueError, match=r"^updates must have a gradient for each leaf that init "):
        jax.eval_shape(lambda: run(TRAINED, frozen))


def test_extra_arguments_like_the_parameters():
    """They may hold what the gradients hold."""
    product = dataclasses.replace(GRADIENTS, calls=jnp.int32(0))
    for optimizer, extra in (
        (optim.adahessian(0.1), "hvp"),
        (optim.mars(0.1, exact=True), "previous_gradient"),
    ):
        expected, _ = optimizer.update(
            GRADIENTS, optimizer.init(TRAINED), TRAINED, **{extra: GRADIENTS}
        )
        updates, _ = optimizer.update(
            WITH_ZEROS, optimizer.init(ARRAYS), MODULE, **{extra: product}
        )
        assert_close(dataclasses.replace(updates, calls=None), expected)


def test_numbers_of_python_and_parameters_of_another_kind():
    """Whatever optax's Adam takes: it asks nothing of parameters that it has no use for."""
    optimizer = optim.adabound(0.1)
    params = {"scale": 1.0, "bias": jnp.ones(2)}
    grads = {"scale": jnp.float32(2.0), "bias": jnp.ones(2)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    direction = optim.scale_by_adabound()
    mixed = grads | {"calls": jnp.int32(0)}
    updates, _ = direction.update(mixed, direction.init(mixed), [params])
    assert types_of(updates) == types_of(mixed)


OURS = [name for name in optim.optimizer_names() if optim.details(name)]
WRAPPERS = [name for name in OURS if optim.details(name).wraps]


@pytest.mark.parametrize("name", OURS)
def test_details_are_complete(name):
    details = optim.details(name)
    assert details.summary == optim.describe(name)
    for text in (details.paper, details.inputs, details.state, details.cost):
        assert text
        assert not text.endswith(".")
    assert "arXiv" in details.paper


@pytest.mark.parametrize("name", OURS)
def test_learning_rates_out_of_range(name):
    factory, missing = suite.CASES[name].factory, [None]
    if name in WRAPPERS:  # what they wrap has the learning rate
        factory, missing = functools.partial(optim.make, name), []
    for rate in (0.0, -1.0, float("nan"), float("inf"), "0.1", True, *missing):
        with pytest.raises(ValueError, match=r"^learning_rate must be in \(0, inf\), got "):
            factory(learning_rate=rate)


def test_the_list_is_complete():
    assert set(OURS) <= set(suite.CASES)
    assert set(suite.QUICK) | set(CANCELS) | TAKES_LESS <= set(suite.CASES)
    assert optim.details("adam") is None
    for name in OURS:
        if name not in ("kron", *WRAPPERS):
            assert suite.CASES[name].factory is optim.details(name).factory


def arguments(name):
    return inspect.signature(optim.details(name).factory).parameters


MASKS = [
    (name, argument)
    for name in OURS
    for argument in ("mask", "weight_decay_mask", "matrix_mask", "ensemble_axes")
    if argument in arguments(name)
]


@pytest.mark.parametrize(("name", "argument"), MASKS)
def test_masks_are_matched_by_names(name, argument):
    """A dict stands for any node with entries of the same names, and the other way round."""
    factory = optim.details(name).factory
    if name in WRAPPERS:
        factory = functools.partial(factory, optax.sgd(0.1))
    options = {"kappa": 1.0, "tau": 0.9, "delta": 10.0, "trust_coefficient": 1.0}
    options |= {"learning_rate": 0.1, "weight_decay": 0.5}
    options |= {"strength": 1.0, "shrink": 0.5, "perturb": 0.5}
    options = {key: value for key, value in options.items() if key in arguments(name)}
    first, second = (0, 1) if argument == "ensemble_axes" else (False, True)
    kernel = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = {network: {"kernel": kernel} for network in ("actor", "critic")}
    nodes = (dict, FrozenDict, nnx.State, lambda tree: trees.Networks(**tree))

    def updates(node, given):
        optimizer = factory(**options, **{argument: given})
        tree = node(params)
        grads = jax.tree.map(lambda leaf: 2 * leaf + 1, tree)
        extra = {"obj_fn": loss_of, "value": 1.0, "reset": True}
        # The second one: SOAP's first is zero.
        start = optimizer.init(jax.tree.map(lambda leaf: leaf / 2, tree))
        _, state = optimizer.update(grads, start, tree, **extra)
        return jax.tree.leaves(optimizer.update(grads, state, tree, **extra)[0])

    given = {"actor": first, "critic": {"kernel": second}}
    (of_actor, of_critic), *others = quick_jit(
        lambda: [
            *(updates(node, {"actor": first, "critic": second}) for node in nodes),
            *(updates(dict, node(given)) for node in nodes),
        ]
    )()
    assert np.any(np.abs(of_actor - of_critic) > 1e-3)
    for other in others:
        assert_close(other, [of_actor, of_critic], rtol=1e-4)
    with pytest.raises(ValueError, match=f"^{argument} must mirror .* nothing for actor/kernel"):
        jax.eval_shape(lambda: updates(nnx.State, {"critic": second}))


def keys_in(state):
    """Of either kind."""
    is_key = lambda t: t == jnp.uint32 or jnp.issubdtype(t, jax.dtypes.prng_key)  # noqa: E731
    return [leaf for leaf in jax.tree.leaves(state) if is_key(leaf.dtype)]


# Named optimizers that draw numbers, and options with which what they draw can be seen.
DRAWING = {
    "ada_upgd": "",
    "adahessian": "",
    "kron": "",
    "noisy_sgd": "",
    "shrink_perturb": ":noise=gaussian",
    "sophia": "",
    "subspace_momentum": ":projection=uniform,rank=1",
    "upgd": "",
}
# These draw for the hidden units of networks; see test_units.
DRAWING_UNITS = {"cbp", "redo", "regrama"}


def test_the_list_of_those_that_draw_is_complete():
    names = set(optim.optimizer_names())
    found = {
        name
        for name in names
        if keys_in(jax.eval_shape(optim.make(name + DRAWING.get(name, ""), 0.1).init, params_for()))
    }
    assert found == (set(DRAWING) | DRAWING_UNITS) & names


@pytest.mark.parametrize("name", DRAWING)
def test_seeds_draw_numbers_of_their_own(name):
    """Those that start from different parameters, though the key is the same for all."""
    optimizer = optim.make(name + DRAWING[name], 0.1)
    draw = lambda seed: jax.random.normal(jax.random.key(seed), (9, 7))  # noqa: E731
    starts = jnp.stack([draw(0), draw(1), draw(0)])
    # All else is the same for all seeds: only draws can make a difference.
    params, grads = draw(2), draw(3)

    @quick_jit
    @jax.vmap
    def run(start):
        state = optimizer.init(start)
        for _ in range(2):
            obj_fn = lambda params: jnp.sum(params) ** 2  # noqa: E731
            updates, state = optimizer.update(grads, state, params, obj_fn=obj_fn)
        return updates, [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 2], keys_in(state)

    updates, matrices, (keys,) = run(starts)
    run(jnp.cos(starts))
    assert run._cache_size() == 1
    for one, two in ((0, 1), (0, 2)):
        is_same = [np.array_equal(leaf[one], leaf[two]) for leaf in (updates, *matrices)]
        assert all(is_same) == (two == 2)
        assert np.all(keys[one] == keys[two]) == (two == 2)


ROUNDED = [
    name
    for name in OURS
    if any(parameter.default == 0.999 for parameter in arguments(name).values())
]


@pytest.mark.parametrize("name", ROUNDED)
def test_injected_decay_rates_with_bfloat16_parameters(name):
    """In half precision 0.999 is 1; the note says what keeps it."""
    factory, options = suite.CASES[name].factory, suite.CASES[name].options
    note = "With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1"
    assert note in " ".join(optim.details(name).factory.__doc__.split())
    assert "`hyperparam_dtype=jnp.float32`" in optim.details(name).factory.__doc__
    static = {key for key, one in arguments(name).items() if not isinstance(one.default, float)}
    inject = functools.partial(
        optax.inject_hyperparams, factory, static_args=tuple(static - {"learning_rate"})
    )
    params = params_for(dtype=jnp.bfloat16)

    @quick_jit
    def run():
        results = []
        for optimizer in (factory(**options), inject(hyperparam_dtype=jnp.float32)(**options)):
            after, state = params, optimizer.init(params)
            for _ in range(3):
                after, state = step(optimizer, after, state)
            results.append(after)
        return results

    with jax.numpy_dtype_promotion("standard"):
        plain, injected = run()
    assert all_finite(plain)
    assert_close(*(jax.tree.map(jnp.float32, tree) for tree in (injected, plain)), rtol=0.02)
