"""What every learned optimizer must bear, whatever its architecture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees
from fixed_meta_params import ARCHITECTURES, FACTORIES, converging, drawn
from quick import quick_jit
from ranges import check_ranges

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo

NAMES = list(FACTORIES)
# For what takes long to compile: the first at once, the others with --slow.
FIRST_AND_SLOW = [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
SMALL = {name: {"hidden_size": 3, "mlp_widths": (2,)} for name in NAMES} | {
    "star": {"mlp_widths": (3,)}
}
# Scalars, by the authors' count, with the sizes that they use.
SCALARS = {"optim4rl": 514, "linear_optim": 275, "l2lgd2": 281, "star": 207}


def small_meta_params(name, seed=0):
    return drawn(name, seed, **SMALL[name])


def params_for(seed=0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "kernel": jax.random.normal(keys[0], (4, 3), dtype),
        "bias": jax.random.normal(keys[1], (3,), dtype),
        "scale": jax.random.normal(keys[2], (), dtype),
    }


def gradients_of(params):
    return jax.tree.map(lambda leaf: leaf - 3, params)


def train(optimizer, params, steps=3):
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(
            gradients_of(params),
            state,
            params,
            value=jnp.ones(()),
            activations=None,
            training_progress=jnp.float32(0.5),
            batch_progress=jnp.float32(0.5),
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


def assert_close(actual, expected, rtol=1e-5, atol=1e-7):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected
    )


# --- meta-parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_initial_meta_params(name):
    """Plain dicts of float32 arrays; another key, others; the sizes of the authors."""
    architecture = ARCHITECTURES[name]()
    meta, other = (architecture.init(jax.random.key(seed)) for seed in (0, 1))
    leaves = jax.tree.leaves_with_path(meta)
    assert all(isinstance(entry, jax.tree_util.DictKey) for path, _ in leaves for entry in path)
    assert {leaf.dtype for _, leaf in leaves} == {jnp.dtype("float32")}
    assert sum(leaf.size for _, leaf in leaves) == SCALARS[name]
    for (path, leaf), theirs in zip(leaves, jax.tree.leaves(other), strict=True):
        kernel = path[-1].key == "kernel"
        assert bool(jnp.any(leaf != 0)) == kernel
        assert not kernel or bool(jnp.any(leaf != theirs))
        if kernel and path[-2].key in ("hr", "hz", "hn"):
            np.testing.assert_allclose(leaf @ leaf.T, np.eye(8), atol=1e-5)
        elif kernel and name == "star":
            assert np.abs(leaf).max() <= 2 / np.sqrt(leaf.shape[0])


@pytest.mark.parametrize(("name", "variance"), [("l2lgd2", 1 / 2), ("star", 0.7737 / 39)])
def test_initial_kernels_have_their_spread(name, variance):
    """LeCun's rule; a normal distribution cut off at two standard deviations keeps 0.77 of it."""
    architecture = ARCHITECTURES[name]()

    def kernel(key):
        meta = architecture.init(key)
        layer = meta["mlp"]["layers_0"] if name == "star" else meta["rnn"]["in"]
        return layer["kernel"]

    draws = quick_jit(jax.vmap(kernel))(jax.random.split(jax.random.key(0), 500))
    # Four standard deviations of the estimate for normal draws; truncated ones vary less.
    assert abs(float(jnp.var(draws)) - variance) < 4 * variance * np.sqrt(2 / draws.size)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_read_from_shapes(name):
    meta = small_meta_params(name)
    params = params_for()
    by_function = FACTORIES[name](meta, 0.1)
    by_class = ARCHITECTURES[name](**SMALL[name]).transform(meta, learning_rate=0.1)
    shapes = [
        jax.eval_shape(lambda opt=opt: opt.update(params, opt.init(params), params))
        for opt in (by_function, by_class)
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])
    if name != "star":
        assert jax.tree.leaves(shapes[0][1])[0].shape[0] == 3


@pytest.mark.parametrize("name", NAMES)
def test_wrong_meta_params_are_named(name):
    meta = small_meta_params(name)
    mlp = "mlp1" if name == "optim4rl" else "mlp"
    class_name = ARCHITECTURES[name].__name__
    lacking = meta | {mlp: {"layers_0": meta[mlp]["layers_0"]}}
    for wrong in (lacking, meta | {"more": np.ones(1)}, {}, np.ones(3), None):
        with pytest.raises(ValueError, match=f"^meta_params of {class_name} must hold "):
            FACTORIES[name](wrong)
    other = FACTORIES["l2lgd2" if name == "linear_optim" else "linear_optim"]
    with pytest.raises(ValueError, match=r"^meta_params of .* must hold .* of shape .* got "):
        other(meta)
    with pytest.raises(ValueError, match="of shape"):
        ARCHITECTURES[name]().transform(meta)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_out_of_range(name):
    factory = functools.partial(FACTORIES[name], converging(name))
    given = {"grad_clip": "(0, inf)", "learning_rate": "(0, inf)"}
    check_ranges(lambda _, **other: factory(**other), **given)
    sizes = {"mlp_widths": [(0,), (True,), (2.0,)]}
    if name != "star":
        sizes["hidden_size"] = [0, 8.0, True]
    for argument, values in sizes.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{argument} must be a whole number of at least"):
                ARCHITECTURES[name](**{argument: value})


def test_nominal_steps_out_of_range():
    factory = functools.partial(optim.star, converging("star"))
    check_ranges(lambda _, **other: factory(**other), nominal_step="[0, inf)")
    factory(nominal_step=0.0)


# --- transformations of programs ----------------------------------------------------------------


@pytest.mark.parametrize("name", FIRST_AND_SLOW)
def test_vmap_over_meta_params_and_seeds_is_each_alone(name):
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    one = lambda meta, params: train(FACTORIES[name](meta, 0.1), params)  # noqa: E731

    @quick_jit
    def run(metas, seeds):
        together = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(stack(*metas), stack(*seeds))
        return together, one(metas[1], seeds[0])

    metas = [small_meta_params(name, seed) for seed in (0, 1)]
    together, alone = run(metas, [params_for(0), params_for(1)])
    assert_close(jax.tree.map(lambda leaf: leaf[1, 0], together), alone)
    assert bool(jnp.any(together["kernel"][0] != together["kernel"][1]))


@pytest.mark.slow
def test_meta_params_are_drawn_under_vmap():
    architecture = optim.LinearOptim()
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(architecture.init)(keys)
    assert_close(jax.tree.map(lambda leaf: leaf[1], together), architecture.init(keys[1]))


@pytest.mark.parametrize("name", FIRST_AND_SLOW)
def test_masked_partitioned_and_chained(name):
    """What is chosen is updated as if it were alone; before and after it anything may come."""
    optimizer = FACTORIES[name](small_meta_params(name), 0.1)
    chosen = {"kernel": True, "bias": False, "scale": True}
    labels = {key: "ours" if value else "frozen" for key, value in chosen.items()}
    transforms = {
        "masked": optax.masked(optimizer, chosen),
        "partition": optax.partition({"ours": optimizer, "frozen": optax.set_to_zero()}, labels),
        "chain": optax.chain(
            optax.clip_by_global_norm(1e3), optimizer, optax.add_decayed_weights(-0.01)
        ),
        "l2": optax.chain(optax.add_decayed_weights(0.01), optimizer),
    }

    @quick_jit
    def updates():
        params = params_for()
        alone = {key: params[key] for key, value in chosen.items() if value}
        grads = gradients_of(params)
        decayed = jax.tree.map(lambda g, p: g + 0.01 * p, grads, params)

        def twice(transform, grads, tree):
            step = lambda state, _: transform.update(grads, state, tree, value=1.0)[::-1]  # noqa: E731
            updates = jax.lax.scan(step, transform.init(tree), length=2)[1]
            return jax.tree.map(lambda leaf: leaf[-1], updates)

        results = {key: twice(each, grads, params) for key, each in transforms.items()}
        expected = twice(optimizer, grads, params)
        return (
            results,
            expected,
            twice(optimizer, decayed, params),
            twice(optimizer, gradients_of(alone), alone),
        )

    results, expected, of_decayed, of_alone = updates()
    for key in of_alone:
        assert_close(results["masked"][key], of_alone[key])
        assert_close(results["partition"][key], of_alone[key])
    assert_close(results["masked"]["bias"], gradients_of(params_for())["bias"])
    np.testing.assert_array_equal(results["partition"]["bias"], 0.0)
    decay = jax.tree.map(lambda u, p: u - 0.01 * p, expected, params_for())
    assert_close(results["chain"], decay)
    assert_close(results["l2"], of_decayed)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_once_with_donated_buffers_and_the_same_each_time(name):
    """Also in bfloat16, where the state is float32 all the same."""
    optimizer = FACTORIES[name](small_meta_params(name), 0.1)

    def step(params, state):
        updates, state = optimizer.update(gradients_of(params), state, params, unexpected=1)
        return optax.apply_updates(params, updates), state

    step = quick_jit(step, donate_argnums=(0, 1))
    runs = []
    for _ in range(2):
        params = params_for()
        state = optimizer.init(params)
        for _ in range(3):
            params, state = step(params, state)
        runs.append(params)
    assert step._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, *runs)
    half = params_for(dtype=jnp.bfloat16)
    state = optimizer.init(half)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {"float32", "int32"}
    updates, after = jax.eval_shape(optimizer.update, half, state, half)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"bfloat16"}
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize("name", FIRST_AND_SLOW)
def test_zero_and_huge_gradients_and_empty_leaves(name):
    """All zero from the first update on; 1e30 with no limit; and derivatives of all that."""
    factory = functools.partial(FACTORIES[name], learning_rate=0.1, grad_clip=None)
    params = {"kernel": jnp.zeros((2, 3)), "none": jnp.ones((3, 0))}

    @quick_jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(meta, size):
        optimizer = factory(meta)
        grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, size), params)

        def step(carry, _):
            walked, state = carry
            updates, state = optimizer.update(grads, state, walked)
            return (optax.apply_updates(walked, updates), state), None

        (walked, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2)
        return sum(jnp.sum((leaf - 1) ** 2) for leaf in walked.values()), walked

    for size in (0.0, 1e30):
        (_, walked), slope = run(small_meta_params(name), size)
        for leaf in jax.tree.leaves((walked, slope)):
            assert np.isfinite(leaf).all()
        if size == 0 and name in ("optim4rl", "l2lgd2"):  # the others have an offset
            assert_close(walked, params)


@pytest.mark.parametrize("name", NAMES)
def test_schedule_of_the_learning_rate(name):
    meta = small_meta_params(name)
    schedule = lambda count: jnp.where(count < 1, 0.1, 0.0)  # noqa: E731
    options = {"nominal_step": schedule} if name == "star" else {}
    optimizer = FACTORIES[name](meta, schedule, **options)
    params = params_for()

    @quick_jit
    def updates():
        first, state = optimizer.update(params, optimizer.init(params), params)
        return first, optimizer.update(params, state, params)[0]

    first, second = updates()
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(first))
    for leaf in jax.tree.leaves(second):
        np.testing.assert_array_equal(leaf, 0.0)


# --- leaves without gradients -------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_leaves_without_gradients(name):
    """Of the architectures' own method; the rest is among the tests of all optimizers."""
    optimizer = ARCHITECTURES[name]().transform(drawn(name))
    module = trees.Module(jnp.ones((3, 2)), jnp.ones(2), jax.nn.relu, jnp.int32(7))
    arrays = dataclasses.replace(module, activation=None)
    grads = dataclasses.replace(arrays, calls=jnp.int32(0))

    def run(initial, grads):
        state = optimizer.init(initial)
        updates, after = optimizer.update(grads, state, module, value=1.0, num_updates=9)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        return updates

    updates = jax.eval_shape(run, arrays, grads)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, grads)
    assert updates.calls.dtype == jnp.int32
    with pytest.raises(ValueError, match=r"^params must hold arrays .* at 'activation'; "):
        run(module, grads)
    with pytest.raises(ValueError, match=r"^updates must hold arrays .* float0 at 'calls'; "):
        run(arrays, dataclasses.replace(grads, calls=np.zeros((), jax.dtypes.float0)))


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_ppo(name):
    """On Catch, where an untrained policy catches about one ball in five."""
    rate = {"optim4rl": 0.5, "linear_optim": 0.5, "l2lgd2": 0.5, "star": 0.003}[name]
    optimizer = FACTORIES[name](converging(name), rate)
    config = PPOConfig(
        iterations=60, num_envs=16, num_steps=32, minibatches=2, widths=(32,), discount=0.95
    )
    learner = ppo(environments.make("Catch-bsuite"), config, optimizer)

    def lifetime(key):
        step = lambda state, _: learner.iterate(state)  # noqa: E731
        metrics = jax.lax.scan(step, learner.init(key), length=config.iterations)[1]
        return metrics["episode_return_sum"], metrics["episodes"]

    total, episodes = jax.jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(0), 2))
    mean = lambda part: float(total[part].sum()) / float(episodes[part].sum())  # noqa: E731
    assert mean(jnp.s_[:, -5:]) > mean(jnp.s_[:, :1]) + 0.6
