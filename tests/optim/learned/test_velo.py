"""VeLO against its authors' traces and a transcription, and what it asks of its caller."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixed_meta_params import drawn
from learned import golden_folder
from numpy_learned import nest, part
from numpy_velo import GROUPS, MISTAKES, NumpyVeLO
from quick import quick_jit

import optim
from optim.learned import velo as module

# Relative to the largest entry of an array in the trace; the features of the loss amplify rounding.
# Where they cannot, the bound is tight.
TRACES = {
    "default": 2e-5,
    "small_mlp": 5e-4,
    "small_shapes": 5e-4,
    "ckpt512_slim": 5e-4,
}
FIELDS = {
    "momentum": "m",
    "square": "rms",
    "rows": "v_row",
    "columns": "v_col",
    "diagonal": "v_diag",
}


def golden(name):
    folder = golden_folder("velo")
    if folder is None:
        pytest.skip("no reference traces: set RL_OPTIM_REFERENCE to their folder")
    with np.load(folder / f"velo_{name}.npz", allow_pickle=False) as file:
        return dict(file)


def meta_params_of(data):
    """Those of a trace; where it has none, as its authors drew them."""
    if given := part(data, "meta"):
        return nest({path.replace("~/", ""): value for path, value in given.items()})
    return drawn_as_theirs(
        int(data["cfg/lstm_hidden_size"]),
        int(data["cfg/param_inits"]),
        int(data["cfg/recipe_seed"]),
        float(data["cfg/recipe_step_scale"]),
    )


def drawn_as_theirs(h, n, seed, step_scale):
    """Weights in an order that is not that of their names, rounded to bfloat16."""
    rng = np.random.RandomState(seed)
    shapes = {f"ff_mod_stack/w0__{i}": (n, size, 4) for i, size in enumerate(GROUPS)}
    sizes = {"w1": (4, 4), "w2": (4, 3), "b0": (4,), "b1": (4,), "b2": (3,)}
    shapes |= {f"ff_mod_stack/{name}": (n, *size) for name, size in sizes.items()}
    shapes |= {f"lstm_init_state/{name}": (1, h) for name in ("hidden", "cell")}
    for name, rows, columns in (
        *((f"rnn_params/linear{suffix}", 30, h) for suffix in ("", "_1", "_2")),
        ("rnn_params/rnn/linear", 2 * h, 4 * h),
        ("rnn_params/rnn_to_controls", h, n),
        ("rnn_params/step_size", h, 1),
    ):
        shapes |= {f"{name}/w": (rows, columns), f"{name}/b": (columns,)}

    def draw(path, shape):
        scale = 0.1
        if path.startswith("ff_mod_stack/w"):
            scale = np.sqrt(3 / (30 if "w0" in path else 4))
        elif path.endswith("/w"):
            scale = np.sqrt(3 / shape[0])
        if path == "rnn_params/step_size/w":
            scale = scale * step_scale
        return np.float32(rng.uniform(-1, 1, shape) * scale).astype(jnp.bfloat16)

    return nest({path: np.float32(draw(path, shape)) for path, shape in shapes.items()})


def test_weights_are_drawn_as_theirs():
    data = golden("small_mlp")
    expected, actual = flat(meta_params_of(data)), flat(drawn_as_theirs(16, 8, 11, 2.0))
    assert actual.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(actual[path], values)


@functools.cache
def replay(updates, dtype="float32", **options):
    """Parameters and state after each update, compiled once."""

    def run(meta, params, grads, values):
        optimizer = optim.velo(meta, updates, **options)

        def step(carry, now):
            params, state = carry
            steps, state = optimizer.update(now[0], state, params, value=now[1])
            params = optax.apply_updates(params, steps)
            return (params, state), (steps, params, state)

        return jax.lax.scan(step, (params, optimizer.init(params)), (grads, values))[1]

    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    compiled = quick_jit(run)
    return lambda *trees: jax.device_get(compiled(*map(cast, trees)))


def flat(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def assert_near(actual, expected, tolerance, what):
    assert actual.shape == expected.shape, what
    error = np.max(np.abs(actual - expected), initial=0)
    assert error <= tolerance * np.max(np.abs(expected), initial=0), (what, error)


@pytest.mark.parametrize("name", TRACES)
def test_golden_trace(name):
    """Twelve updates in a row: parameters, averages, memory and what is kept of the loss."""
    data = golden(name)
    start = nest({path: value[0] for path, value in part(data, "params").items()})
    assert not data["cfg/use_bugged_next_lstm_state"]
    run = replay(
        int(data["input/num_steps"]),
        use_bugged_loss_features=bool(data["cfg/use_bugged_loss_features"]),
    )
    grads = nest(part(data, "input/grads"))
    _, params, state = run(meta_params_of(data), start, grads, data["input/loss"])
    near = functools.partial(assert_near, tolerance=TRACES[name])
    ours = flat(params)
    assert list(ours) == list(data["leaf_order"])
    for path, values in ours.items():
        near(values, data[f"params/{path}"][1:], what=path)
    for field, theirs in FIELDS.items():
        for path, values in flat(getattr(state, field)).items():
            expected = data[f"state/{theirs}/{path}"][1:]
            if expected.size == 0:
                assert values.size == 0
                continue
            values = values[..., None] if field == "square" else np.moveaxis(values, 1, -1)
            near(values, expected, what=(field, path))
    near(state.memory.hidden, data["state/lstm_hidden"][1:], what="hidden")
    near(state.memory.cell, data["state/lstm_cell"][1:], what="cell")
    near(state.losses.means, data["state/loss_means"][1:], what="means")
    near(state.losses.smallest, data["state/loss_running_min"][1:], what="smallest")
    np.testing.assert_array_equal(state.count, data["state/iteration"][1:])


# --- against the transcription --------------------------------------------------------------------

SHAPES = {"bias": (5,), "cube": (2, 5, 3), "kernel": (4, 5), "scale": (), "tall": (6, 2)}
LOSSES = np.array([1.0, 0.7, 0.8, -0.2, 0.1, 40.0, 0.3, -0.5])
SIZES = {"hidden_size": 5, "bank_size": 3}


def small_meta_params(seed=0):
    """Of a size at which a few steps change the parameters."""
    meta = drawn("velo", seed, **SIZES)
    meta["rnn_params"]["step_size"]["w"] *= 20
    for value in meta["ff_mod_stack"].values():
        value *= 0.05
    return meta


def make_trace(seed=1):
    """Parameters, one bias of which is zero, and gradients of all sizes, some of them zero."""
    rng = np.random.default_rng(seed)
    params = {k: np.float32(rng.normal(size=shape)) for k, shape in SHAPES.items()}
    params["bias"] = np.zeros(5, np.float32)
    sizes = [1, 1e-2, 1e-5, 0, 3e3, 1, 0.1, 1]
    grads = {
        k: np.stack([np.float32(rng.normal(size=shape) * size) for size in sizes])
        for k, shape in SHAPES.items()
    }
    grads["kernel"][6] = 0
    return params, grads


VARIANTS = {
    "released": (60, {}),
    "same_horizons": (60, {"use_bugged_loss_features": True}),
    "forgets": (60, {"use_bugged_next_lstm_state": True}),
    "long": (400_001, {}),
    "decay": (60, {"weight_decay": 0.1}),
    "long_decay": (300_000, {"weight_decay": 0.1, "use_bugged_loss_features": True}),
}


def numpy_replay(variant, mistake=None):
    updates, options = VARIANTS[variant]
    params, grads = make_trace()
    params = {k: np.float64(p) for k, p in params.items()}
    meta = jax.tree.map(np.float64, small_meta_params())
    ours = {
        "decay": options.get("weight_decay", 0.0),
        "same_horizons": options.get("use_bugged_loss_features", False),
        "forgets": options.get("use_bugged_next_lstm_state", False),
    }
    reference = NumpyVeLO(meta, params, updates, **ours, mistake=mistake)
    steps, after = [], []
    for i, value in enumerate(LOSSES):
        steps.append(reference.step(params, {k: g[i] for k, g in grads.items()}, value))
        params = {k: params[k] + steps[-1][k] for k in params}
        after.append(params)
    stack = lambda rows: {k: np.stack([row[k] for row in rows]) for k in params}  # noqa: E731
    return stack(steps), stack(after), reference


def ours_replay(variant, dtype):
    updates, options = VARIANTS[variant]
    params, grads = make_trace()
    return replay(updates, dtype, **options)(small_meta_params(), params, grads, LOSSES)


def check_steps(ours, expected, tolerance):
    for k, steps in expected.items():
        assert_near(ours[k], steps, tolerance, k)


@pytest.mark.parametrize("variant", VARIANTS)
def test_numpy_trace_in_float64(variant):
    expected, after, reference = numpy_replay(variant)
    with jax.enable_x64(True):
        steps, params, state = ours_replay(variant, "float64")
    check_steps(steps, expected, 1e-7)
    check_steps(params, after, 1e-9)
    for k, averages in reference.averages.items():
        assert_near(np.moveaxis(state.momentum[k][-1], 0, -1), averages["m"], 1e-9, k)
        assert_near(state.square[k][-1], averages["v"], 1e-9, k)
    assert_near(state.memory.hidden[-1], reference.hidden, 1e-7, "hidden")
    # A tensor of zeros begins with steps of 1e-7.
    assert all(np.abs(leaf).max() > 1e-5 for leaf in expected.values())
    is_long = VARIANTS[variant][0] > 150_000
    assert (state.pending is not None) == is_long
    if is_long:
        waits = np.all([np.all(x == 0, axis=tuple(range(1, x.ndim))) for x in steps.values()], 0)
        every = reference.every
        np.testing.assert_array_equal(waits, np.arange(1, 9) % every != 0)


def test_numpy_trace():
    expected, _, _ = numpy_replay("released")
    steps, params, _ = ours_replay("released", "float32")
    check_steps(steps, expected, 1e-3)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((steps, params))} == {"float32"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_noticed(mistake):
    """The transcription with it gives other steps than without, by far more than rounding."""
    variant = "decay" if mistake == "half a penalty" else "released"
    right, wrong = (numpy_replay(variant, m)[0] for m in (None, mistake))
    with pytest.raises(AssertionError):
        check_steps(wrong, right, 1e-3)


# --- what it asks of its caller -------------------------------------------------------------------

PARAMS = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}


def one_update(optimizer, **extra):
    return optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, **extra)


def test_what_is_missing_is_named():
    meta = drawn("velo", **SIZES)
    with pytest.raises(ValueError, match=r"^value must be the loss in VeLO's update, got None: "):
        one_update(optim.velo(meta, 10))
    with pytest.raises(ValueError, match=r"^num_updates must be the number of updates in .* VeLO"):
        one_update(optim.velo(meta), value=1.0)
    optimizer = optim.velo(meta, 10)
    with pytest.raises(ValueError, match=r"^params must be .* VeLO's update, got None; .*keep_"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), value=1.0)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "10"])
def test_numbers_of_updates_out_of_range(wrong):
    meta = drawn("velo", **SIZES)
    with pytest.raises(ValueError, match=r"^num_updates must be an integer of at least 1, got"):
        optim.velo(meta, wrong)
    with pytest.raises(ValueError, match=r"^num_updates must be an integer of at least 1, got"):
        one_update(optim.velo(meta), value=1.0, num_updates=wrong)


def test_strength_of_the_decay_out_of_range():
    meta = drawn("velo", **SIZES)
    with pytest.raises(ValueError, match=r"^weight_decay must be in \[0, inf\), got "):
        optim.velo(meta, 10, weight_decay=-1.0)


def test_wrong_meta_params_are_named():
    meta = drawn("velo", **SIZES)
    lacking = {name: meta[name] for name in ("rnn_params", "lstm_init_state")}
    for wrong in (lacking, meta | {"more": np.ones(1)}, {}, np.ones(3), None):
        with pytest.raises(ValueError, match=r"^meta_params of VeLO\(.*\) must hold "):
            optim.velo(wrong)
    with pytest.raises(ValueError, match=r"^hidden_size must be a whole number of at least 1"):
        optim.VeLO(hidden_size=0)


@quick_jit
def from_learner(meta, calls):
    """The number of updates as an option, a static number, or one that is traced."""
    given = {"value": jnp.float32(2)}
    as_option = one_update(optim.velo(meta, 160_000), **given)
    as_number = one_update(optim.velo(meta), **given, num_updates=160_000)
    traced = one_update(optim.velo(meta), **given, num_updates=calls)
    return as_option, as_number, traced


def test_the_number_of_updates_comes_from_the_learner():
    """And what is an option comes first."""
    meta = drawn("velo", **SIZES)
    results = from_learner(meta, jnp.int32(160_000))
    for other in results[1:]:
        assert jax.tree.structure(other) == jax.tree.structure(results[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), other, results[0])
    updates, state = results[0]
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))  # one of two gradients
    np.testing.assert_array_equal(state.pending.gradients["kernel"], PARAMS["kernel"])
    assert float(state.pending.value) == 2.0


def test_short_lifetimes_of_a_traced_number_step_at_once():
    meta = drawn("velo", **SIZES)
    given = {"value": jnp.float32(2)}

    @quick_jit
    def both(calls):
        first, _ = one_update(optim.velo(meta), **given, num_updates=calls)
        return first, one_update(optim.velo(meta, 100), **given, num_updates=7)[0]

    first, second = both(jnp.int32(100))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, second)
    assert np.abs(first["kernel"]).max() > 0


@quick_jit
def lives(metas, params):
    """Two steps for two meta-parameters and two seeds, with the slope by the meta-parameters."""

    def life(meta, params):
        optimizer = optim.velo(meta, 100)

        def step(carry, value):
            params, state = carry
            grads = jax.tree.map(lambda x: x - 3, params)
            updates, state = optimizer.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        values = jnp.array([1.0, 0.5, 0.7, 0.6])
        return jax.lax.scan(step, (params, optimizer.init(params)), values)[0][0]

    def loss(meta, params):
        return sum(jnp.sum((leaf - 3) ** 2) for leaf in jax.tree.leaves(life(meta, params)))

    of = lambda tree, i: jax.tree.map(lambda x: x[i], tree)  # noqa: E731
    together = jax.vmap(jax.vmap(life, (None, 0)), (0, None))(metas, params)
    slopes = jax.vmap(jax.grad(loss), (0, None))(metas, of(params, 0))
    alone = life(of(metas, 1), of(params, 0))
    return together, alone, slopes, jax.grad(loss)(of(metas, 1), of(params, 0))


def test_vmap_and_slopes():
    """Over seeds and meta-parameters each is as alone, and all weights but two have a slope."""
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    metas = stack(*(small_meta_params(seed) for seed in (0, 1)))
    params = stack(*(make_trace(seed)[0] for seed in (0, 1)))
    together, alone, slopes, slope = lives(metas, params)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(lambda a, b: near(a[1, 0], b), together, alone)
    assert not np.array_equal(together["kernel"][0], together["kernel"][1])
    for path, leaf in flat(slope).items():
        assert np.isfinite(leaf).all(), path
        scale = np.abs(leaf).max()
        near(flat(slopes)[path][1] / max(scale, 1e-30), leaf / max(scale, 1e-30))
        assert (scale > 0) == (not path.startswith("rnn_params/linear/")), path
    third = flat(slope)["ff_mod_stack/w2"][..., 2]
    np.testing.assert_array_equal(third, 0)


def test_the_slope_is_that_of_differences():
    with jax.enable_x64(True):
        meta = jax.tree.map(lambda x: jnp.asarray(x, float), small_meta_params())
        rng = np.random.default_rng(3)
        towards = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), meta)
        params, grads = make_trace()
        params = jax.tree.map(lambda x: jnp.asarray(x, float), params)

        @quick_jit
        def slopes():
            def loss(size):
                moved = jax.tree.map(lambda a, b: a + size * b, meta, towards)
                optimizer = optim.velo(moved, 60)

                def step(carry, now):
                    params, state = carry
                    own = jax.tree.map(lambda g, p: g + p, now[0], params)
                    updates, state = optimizer.update(own, state, params, value=now[1])
                    return (optax.apply_updates(params, updates), state), None

                trace = jax.tree.map(lambda x: jnp.asarray(x[:5], float), (grads, LOSSES))
                after, _ = jax.lax.scan(step, (params, optimizer.init(params)), trace)
                return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after[0]))

            h = 1e-6
            return jax.grad(loss)(0.0), (loss(h) - loss(-h)) / (2 * h)

        slope, expected = slopes()
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    assert abs(expected) > 1e-3


def test_leaves_without_entries_change_nothing():
    meta = small_meta_params()
    params, _ = make_trace()
    more = params | {"nothing": np.ones((3, 0), np.float32)}
    results = []
    for tree in (params, more):
        tree = jax.tree.map(jnp.asarray, tree)
        optimizer = optim.velo(meta, 100)
        run = quick_jit(lambda p, tx=optimizer: tx.update(p, tx.init(p), p, value=1.0))
        updates, state = run(tree)
        assert state.memory.hidden.shape == (len(params), 5)
        results.append(updates)
    for name in params:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-5)
    assert results[1]["nothing"].shape == (3, 0)


def test_state_of_half_precision():
    optimizer = module.VeLO(**SIZES).transform(small_meta_params(), 100)
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16), "scale": jnp.ones((), jnp.bfloat16)}
    state = optimizer.init(params)
    updates, after = jax.eval_shape(lambda: optimizer.update(params, state, params, value=1.0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after)} == {"float32", "int32"}
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_initial_meta_params():
    """Plain dicts of float32 arrays; matrices vary by their inputs, all else is zero."""
    meta, other = (optim.VeLO(64, 16).init(jax.random.key(seed)) for seed in (0, 1))
    for path, leaf in flat(meta).items():
        assert leaf.dtype == jnp.float32
        name = path.rsplit("/", 1)[1]
        if not name.startswith("w"):
            assert not leaf.any()
            continue
        inputs = 30 if name.startswith("w0") else leaf.shape[-2]
        assert np.abs(leaf).max() <= 2 / np.sqrt(inputs)
        if leaf.size > 1000:
            np.testing.assert_allclose(np.std(leaf), 0.88 / np.sqrt(inputs), rtol=0.1)
        assert bool(jnp.any(leaf != flat(other)[path]))
    sizes = [sum(x.size for x in jax.tree.leaves(jax.eval_shape(optim.VeLO(512, 256).init, key)))
             for key in (jax.random.key(0),)]  # fmt: skip
    assert sizes == [2_320_385]
