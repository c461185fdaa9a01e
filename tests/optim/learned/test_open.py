"""OPEN against the authors' traces and a transcription, what it takes from trees, its noise."""

import functools
import os
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_open
import optax
import pytest
import scipy.stats
from fixed_meta_params import drawn
from flax.training.train_state import TrainState
from learned import relative_error
from numpy_open import nest, part
from quick import quick_jit

import optim
from optim._paths import layer_positions, leaf_paths
from optim.learned import _blocks, _open_update, open

TRACES = [
    f"{weights}_{noise}"
    for weights in ("breakout_disc", "asterix_disc", "multi_disc", "ant_cont")
    for noise in ("noise", "nonoise")
]


def reference(*parts):
    if "RL_OPTIM_REFERENCE" in os.environ:
        return pathlib.Path(os.environ["RL_OPTIM_REFERENCE"], *parts)
    for parent in pathlib.Path(__file__).parents:
        if (parent / "shared" / "reference").is_dir():
            return parent.joinpath("shared", "reference", *parts)
    return None


def small_open(seed=0, **sizes):
    sizes = {"hidden_size": 4, "gru_features": 3} | sizes
    meta = drawn("open", seed, **sizes)
    for norm in ("layers_1", "layers_4"):
        meta["params"][norm]["scale"] += 1
    return meta


def make_params(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {
        "actor": {
            "Dense_0": {"bias": draw(3), "kernel": draw(4, 3)},
            "Dense_1": {"bias": draw(2), "kernel": draw(3, 2)},
        },
        "critic": {"Dense_0": {"bias": draw(1), "kernel": draw(4, 1)}},
    }


def last_update(optimizer, params, grads=None, steps=1, **extra):
    """Updates of the last of some steps on the same gradients; to be called in a program."""
    grads = jax.tree.map(jnp.cos, params) if grads is None else grads

    def step(state, _):
        return optimizer.update(grads, state, params, **extra)[::-1]

    updates = jax.lax.scan(step, optimizer.init(params), length=steps)[1]
    return jax.tree.map(lambda leaf: leaf[-1], updates)


def assert_close(actual, expected, rtol=1e-5, atol=1e-8):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected
    )


def differ(a, b):
    return any(bool(np.any(x != y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


# Traces.


@functools.cache
def replay(noise, subtract_mean=True):
    """A trace in one program: parameters of all steps, and of each what the networks see and say.

    Without noise there are no draws; else they are the given ones. The middle of `update` is put
    together anew, because its features are folded into weights.
    """

    def run(meta, init, inputs):
        gru, hidden = meta["params"]["layers_0"]["kernel"].shape
        optimizer = optim.OPEN(hidden, gru).transform(meta)
        paths = leaf_paths(init)

        def step(carry, now):
            params, state = carry
            treedef = jax.tree.structure(params)
            momenta, old = map(treedef.flatten_up_to, (state.momenta, state.carry))
            given = open.Inputs(
                params=jax.tree.leaves(params),
                grads=treedef.flatten_up_to(now["grad"]),
                momenta=momenta,
                carry=old,
                dormancies=open._dormancies(now["activation"], paths, jax.tree.leaves(params)),
                positions=open._positions(None, paths),
                noise_factors=open._noise_factors(None if noise else False, paths),
                progress=jnp.clip(now["progress"], 0, 1),
            )
            draws = [
                None if factor is None else draw
                for factor, draw in zip(
                    given.noise_factors, treedef.flatten_up_to(now["draw"]), strict=True
                )
            ]
            features, outputs = see(meta, given)
            results = open.compute_updates(meta, given, draws, subtract_mean)
            updates, momenta, new = map(treedef.unflatten, results)
            params = optax.apply_updates(params, updates)
            last = lambda tree: jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), tree)  # noqa: E731
            logged = {
                "params": params,
                "features": treedef.unflatten(features),
                "outputs": treedef.unflatten(outputs),
                "carry": last(new),
                "momenta": last(momenta),
            }
            return (params, state._replace(momenta=momenta, carry=new)), logged

        return jax.lax.scan(step, (init, optimizer.init(init)), inputs)[1]

    return quick_jit(run)


def see(meta, given):
    """Features, in the authors' order, and outputs of the perceptron for each leaf."""
    weights = _open_update.fold(meta, given.params[0].dtype)
    rows, carry = [], []
    for leaf in zip(*given[:6], strict=True):
        leaf = _open_update.Leaf(*leaf, None)
        columns, scale = _open_update.leaf_columns(leaf)
        rows.append(_open_update.all_features(columns, scale, leaf.position, given.progress))
        carry.append(columns.carry)
    joint = jnp.concatenate([weights.inputs, weights.input_bias[:, None]], axis=1)
    rows, carry = (jnp.concatenate(parts, axis=1) for parts in (rows, carry))
    outputs, _ = _open_update.network(weights, joint, rows, carry)
    ends = np.cumsum([leaf.size for leaf in given.params])[:-1].tolist()
    return [
        [
            part.T.reshape(*leaf.shape, -1)
            for part, leaf in zip(jnp.split(values, ends, axis=1), given.params, strict=True)
        ]
        for values in (rows[np.argsort(_open_update.ORDER)], outputs)
    ]


def check_trace(ours, expected, step, params, others):
    """Compares one step of what `replay` gives with flat arrays, by kind."""
    for kind, values in expected.items():
        atol, flat = params if kind == "params" else others, dict(values)
        for path, leaf in jax.tree.leaves_with_path(ours[kind]):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            value, now = flat.pop(name), leaf[step]
            assert now.shape == value.shape
            np.testing.assert_allclose(now, value, rtol=0, atol=atol, err_msg=f"{kind} {name}")
        assert not flat


def golden(name):
    folder = reference("golden", "open")
    if folder is None:
        pytest.skip("no reference traces: set RL_OPTIM_REFERENCE to their folder")
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def golden_replay(data, noise):
    vector = data["meta_params_flat"]
    architecture = optim.OPEN() if vector.size == 1211 else optim.OPEN(32, 16)
    steps = [f"step{t:02d}" for t in range(12)]
    inputs = {
        ours: jax.tree.map(
            lambda *x: np.stack(x), *(nest(part(data, f"{s}/{theirs}")) for s in steps)
        )
        for ours, theirs in (("grad", "grad"), ("activation", "activation"), ("draw", "noise"))
    }
    progress = [[data[f"{s}/training_prop"], data[f"{s}/batch_prop"]] for s in steps]
    inputs["progress"] = np.array(progress, np.float32)
    init = nest(part(data, "init/params"))
    return jax.device_get(replay(noise)(architecture.from_vector(vector), init, inputs))


@pytest.mark.parametrize("name", TRACES)
def test_golden_trace(name):
    """Twelve steps in a row, from the gradients and draws of the authors' code."""
    data = golden(name)
    ours = golden_replay(data, noise=name.endswith("_noise"))
    for t in range(12):
        expected = {
            ours: part(data, f"step{t:02d}/{theirs}")
            for ours, theirs in (
                ("params", "params"),
                ("features", "features"),
                ("outputs", "mlp_out"),
                ("carry", "carry"),
                ("momenta", "momentum"),
            )
        }
        check_trace(ours, expected, t, params=1e-6, others=2e-4)
    init = nest(part(data, "init/params"))
    paths = leaf_paths(init)
    positions = {"/".join(path): x for path, x in zip(paths, layer_positions(paths), strict=True)}
    given = {path: float(x) for path, x in part(data, "layer_prop").items()}
    assert positions == pytest.approx(given)
    if name.endswith("_noise"):
        factors = [float(x is not None) for x in open._noise_factors(None, paths)]
        masks = {"/".join(path): x for path, x in zip(paths, factors, strict=True)}
        assert masks == part(data, "mask")


@pytest.mark.parametrize("weights", ["breakout", "asterix", "multi", "ant"])
def test_authors_weights(weights):
    data = golden(next(name for name in TRACES if name.startswith(weights)))
    meta = optim.load_open_npy(reference("open_weights", f"{weights}_OPEN.npy"))
    flat, _ = jax.flatten_util.ravel_pytree(meta)
    np.testing.assert_array_equal(flat, data["meta_params_flat"])
    optim.open_optimizer(meta)  # sizes are read from the shapes


def numpy_replay(data, dtype):
    cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, dtype), tree)  # noqa: E731
    kinds = ("grad", "activation", "draw")
    inputs = {kind: nest(part(data, kind)) for kind in kinds}
    inputs["progress"] = np.array(numpy_open.PROGRESS)
    trees = nest(part(data, "meta")), nest(part(data, "init")), inputs
    return jax.device_get(replay(True)(*map(cast, trees)))


def check_numpy_trace(ours, data, params, others):
    steps = len(numpy_open.PROGRESS)
    for t in range(steps):
        check_trace(ours, {"params": part(data, f"params/{t}")}, t, params, others)
    kinds = ("features", "outputs", "carry", "momenta")
    check_trace(ours, {kind: part(data, kind) for kind in kinds}, steps - 1, params, others)


@pytest.fixture(scope="module")
def traced():
    return numpy_replay(numpy_open.load(), np.float32)


def test_numpy_trace(traced):
    """With convolutions, a scalar, a step without gradients, dead units."""
    check_numpy_trace(traced, numpy_open.load(), params=1e-6, others=2e-4)


def test_numpy_trace_in_float64():
    with jax.enable_x64(True):
        ours = numpy_replay(numpy_open.load(), np.float64)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(ours)} == {"float64"}
        check_numpy_trace(ours, numpy_open.load(), params=1e-11, others=1e-9)


def test_committed_data_is_what_the_transcription_gives():
    committed, made = numpy_open.load(), numpy_open.make_data()
    assert committed.keys() == made.keys()
    for key, value in made.items():
        np.testing.assert_allclose(committed[key], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mistake", numpy_open.MISTAKES)
def test_a_mistake_would_be_noticed(mistake, traced):
    """By the parameters alone."""
    data = numpy_open.load()
    masks = {path: float(path.startswith("actor")) for path in numpy_open.SHAPES}
    data |= numpy_open.run(data, masks, mistake)
    with pytest.raises(AssertionError, match="params"):
        check_numpy_trace(traced, data, params=1e-6, others=2e-4)


@pytest.mark.parametrize("mistake", ["mean", "layer and batch", "dormancy", "decay"])
def test_a_mistake_in_the_code_would_be_noticed(mistake, monkeypatch):
    if mistake == "mean":  # each network its own
        update = _open_update.update

        def apart(weights, progress, leaves, *, center):
            return [
                result
                for part in (leaves[:5], leaves[5:])
                for result in update(weights, progress, part, center=center)
            ]

        monkeypatch.setattr(_open_update, "update", apart)
    elif mistake == "layer and batch":
        order = list(_open_update.ORDER)
        order[16], order[17] = order[17], order[16]
        monkeypatch.setattr(_open_update, "ORDER", tuple(order))
    elif mistake == "dormancy":
        monkeypatch.setattr(
            open, "_dormancies", lambda *args: [jnp.ones((1,) * leaf.ndim) for leaf in args[2]]
        )
    else:
        monkeypatch.setattr(_open_update, "DECAYS", (0.1, 0.5, 0.9, 0.99, 0.999, 0.999))
    replay.cache_clear()
    ours = numpy_replay(numpy_open.load(), np.float32)
    replay.cache_clear()
    with pytest.raises(AssertionError, match="params"):
        check_numpy_trace(ours, numpy_open.load(), params=1e-6, others=2e-4)


# What it takes from trees and from the caller.


@functools.cache
def program(with_params_level=False):
    """Updates of the third step, of what a caller may pass and of what is given for leaves."""

    def run(options, extra):
        params = make_params()
        if with_params_level:
            params = {name: {"params": network} for name, network in params.items()}
        optimizer = optim.open_optimizer(small_open(), **options)
        return last_update(optimizer, params, steps=3, **extra)

    return quick_jit(run)


QUIET = {"actor": 0.0, "critic": 0.0}


def run_with(*, noise_mask=QUIET, with_params_level=False, **given):
    """The same without noise; Python's numbers become data, so that all share a program."""
    options, extra = {"noise_mask": noise_mask}, {}
    for name, value in given.items():
        (options if name in ("layer_proportion", "subtract_mean") else extra)[name] = value
    return jax.device_get(program(with_params_level)(options, extra))


@pytest.fixture(scope="module")
def neutral():
    """Without any argument that may be left out."""
    return run_with()


def activations(value):
    return jax.tree.map(lambda leaf: value(float(leaf.shape[-1])), make_params())


def passed(training=0.0, batch=0.0, active=lambda units: jnp.full(int(units), 0.3)):
    """What a learner knows."""
    return {
        "training_progress": training,
        "batch_progress": batch,
        "activations": activations(active),
    }


def test_neutral_inputs(neutral):
    """What a caller does not know changes nothing."""
    assert_close(run_with(**passed()), neutral, atol=1e-7)
    nothing = {"training_progress": None, "batch_progress": None, "activations": None}
    assert_close(run_with(**nothing, value=3.0), neutral)


def test_progress_and_activations_matter(neutral):
    half = run_with(**passed(training=0.5))
    assert differ(half, neutral)
    assert differ(run_with(**passed(batch=0.5)), half)
    active = run_with(**passed(active=jnp.arange))
    assert differ(active, neutral)
    # Only how active units are relative to each other counts.
    assert_close(run_with(**passed(active=lambda n: 7 * jnp.arange(n))), active, atol=1e-7)


def test_progress_is_clipped():
    ends = run_with(**passed(training=1.0))
    assert_close(run_with(**passed(training=1.7, batch=-3.0)), ends)


def test_level_params_counts_for_nothing(neutral):
    updates = run_with(with_params_level=True)
    assert_close({name: network["params"] for name, network in updates.items()}, neutral)


def test_explicit_trees_come_before_names(neutral):
    """A tree of scalars, or a prefix of one."""
    as_named = {
        "actor": {"Dense_0": 0.0, "Dense_1": {"bias": 1.0, "kernel": 1.0}},
        "critic": 0.0,
    }
    assert_close(run_with(layer_proportion=as_named), neutral)
    assert differ(run_with(layer_proportion=as_named | {"critic": 1.0}), neutral)


def test_one_value_for_all_leaves():
    params = make_params()
    meta = small_open()

    @quick_jit
    def run():
        options = (
            {"layer_proportion": 0.5, "noise_mask": True},
            {
                "layer_proportion": {"actor": 0.5, "critic": 0.5},
                "noise_mask": {"actor": 1, "critic": 1},
            },
        )
        return [last_update(optim.open_optimizer(meta, **given), params) for given in options]

    assert_close(*run())


def test_optax_chain_and_flax_train_state():
    """Neither passes anything but gradients and parameters, and a single network gets no noise."""
    network = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(1)])
    x = jnp.ones((2, 4))
    meta = small_open()
    optimizer = optax.chain(optim.clip_by_network_norm(0.5), optim.open_optimizer(meta))

    @quick_jit
    def run():
        params = network.init(jax.random.key(0), x)
        state = TrainState.create(apply_fn=network.apply, params=params, tx=optimizer)
        loss = lambda p: jnp.mean(network.apply(p, x) ** 2)  # noqa: E731
        grads = jax.grad(loss)(params)
        quiet = optax.chain(
            optim.clip_by_network_norm(0.5), optim.open_optimizer(meta, noise_mask=False)
        )
        updates = last_update(quiet, params, grads)
        return state.apply_gradients(grads=grads).params, optax.apply_updates(params, updates)

    ours, expected = run()
    assert_close(ours, expected)


def test_the_sum_of_all_parameters_stays():
    updates = jax.tree.leaves(run_with(noise_mask={"actor": 1.0, "critic": 1.0}))
    total = sum(float(leaf.sum()) for leaf in updates)
    assert abs(total) < 1e-7 < max(float(np.abs(leaf).max()) for leaf in updates)


def test_any_shape_and_nothing_at_all():
    """A network of one layer, a scalar, leaves without numbers, trees without leaves."""
    optimizer = optim.open_optimizer(small_open())
    trees = {
        "single": {"actor": {"Dense_0": {"kernel": jnp.ones((2, 3))}}},
        "scalar": jnp.ones(()),
        "hollow": {"w": jnp.ones((3, 0)), "b": jnp.array([1.0, -2.0])},
        "all hollow": {"w": jnp.ones((0,))},
        "empty": {},
        "none": {"a": None, "b": ()},
    }
    updates = quick_jit(lambda: {name: last_update(optimizer, x) for name, x in trees.items()})()
    assert jax.tree.structure(updates) == jax.tree.structure(trees)
    for leaf, given in zip(*map(jax.tree.leaves, (updates, trees)), strict=True):
        assert leaf.shape == given.shape
        assert np.isfinite(leaf).all()
    assert np.all(updates["hollow"]["b"] != 0)
    assert float(updates["scalar"]) == 0.0  # its own mean is subtracted


# Noise.


@pytest.fixture(scope="module")
def noise():
    """Of three steps of two agents and of one of them alone: with noise minus without."""
    meta = small_open()
    meta["params"]["layers_6"]["bias"][2] = 5.0
    params = {
        "actor": {"a": jnp.ones((40, 25)), "b": jnp.zeros((40, 25)), "log_std": jnp.zeros(3)},
        "critic": {"a": jnp.ones((4, 5))},
    }
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)

    def run(params, **options):
        optimizer = optim.open_optimizer(meta, subtract_mean=False, **options)

        def step(state, _):
            updates, state = optimizer.update(params, state, params)
            return state, updates

        return jax.lax.scan(step, optimizer.init(params), length=3)[1]

    @quick_jit
    def all_of_them():
        quiet = jax.vmap(functools.partial(run, noise_mask=False))(pair)
        minus = lambda a, b: jax.tree.map(jnp.subtract, a, b)  # noqa: E731
        first = jax.tree.map(lambda leaf: leaf[0], quiet)
        alone = minus(run(params), first)
        seeded = minus(run(params, key=7), first)
        return minus(jax.vmap(run)(pair), quiet), alone, seeded

    return jax.device_get(all_of_them())


def test_only_the_actor_gets_noise(noise):
    together, _, _ = noise
    np.testing.assert_allclose(together["critic"]["a"], 0.0, atol=1e-9)  # rounding
    assert np.abs(together["actor"]["log_std"]).min() > 1e-6


@pytest.mark.parametrize("kind", ["open", "learned_correction"])
def test_a_policy_is_an_actor_and_a_value_a_critic(kind):
    """As Brax calls them, in nodes of its own."""
    meta, options = small_open(), {}
    if kind == "learned_correction":
        meta, options = drawn("learned_correction", 0), {"noise": True}
    optimizer = getattr(optim, {"open": "open_optimizer"}.get(kind, kind))(meta, **options)
    params = make_params()

    @quick_jit
    def both():
        renamed = Named(policy=params["actor"], value=params["critic"])
        return last_update(optimizer, params), last_update(optimizer, renamed)

    expected, renamed = both()
    assert_close({"actor": renamed.policy, "critic": renamed.value}, expected)


class Named(NamedTuple):
    policy: Any
    value: Any


def test_noise_is_independent(noise):
    """Between leaves, steps, agents and seeds; and is normal, of the size the network says."""
    together, _, seeded = noise
    agents = [
        leaf[agent, step].ravel()
        for leaf in (together["actor"]["a"], together["actor"]["b"])
        for agent in range(2)
        for step in range(3)
    ]
    agents += [seeded["actor"]["a"][step].ravel() for step in range(3)]
    correlations = np.corrcoef(np.stack(agents).astype(np.float64)) - np.eye(15)
    assert np.abs(correlations).max() < 5 / np.sqrt(1000)
    # Every number of a leaf was seen alike, so that its noise is one multiple of normal numbers.
    for sample in agents:
        assert scipy.stats.kstest(sample / sample.std(), "norm").pvalue > 1e-4
        assert 1e-4 < sample.std() < 1e-1


def test_an_agent_is_the_same_alone_and_in_company(noise):
    together, alone, _ = noise
    assert_close(jax.tree.map(lambda leaf: leaf[0], together), alone, atol=1e-8)


# Computation.


def test_blocks_are_all_at_once(monkeypatch):
    """A leaf that blocks divide, one that they do not, a small one; alone and batched."""
    meta = small_open()
    rng = np.random.default_rng(0)
    shapes = {"divided": (96, 64), "rest": (4099,), "small": (5,)}
    draw = lambda *lead: {  # noqa: E731
        "actor": {
            k: jnp.asarray(rng.normal(size=(*lead, *s)), "float32") for k, s in shapes.items()
        }
    }
    params, grads = draw(2), draw(2)
    optimizer = optim.open_optimizer(meta)
    widths = [_blocks.block_width(int(np.prod(shape))) for shape in shapes.values()]
    assert widths == [2048, 2048, 0]

    def run():
        def lifetime(params, grads):
            def step(state, _):
                return optimizer.update(grads, state, params, training_progress=0.5)[::-1]

            return jax.lax.scan(step, optimizer.init(params), length=2)

        def both(params, grads):
            one = jax.tree.map(lambda leaf: leaf[1], (params, grads))
            return jax.vmap(lifetime)(params, grads), lifetime(*one)

        return jax.device_get(quick_jit(both)(params, grads))

    with monkeypatch.context() as patch:
        patch.setattr(_open_update, "block_width", lambda size: 0)
        patch.setattr(_blocks, "IN_TURN", 10**9)
        at_once = run()
    in_blocks = run()
    size = lambda tree: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(at_once[1][0]) > 1e-4
    assert_close(in_blocks, at_once, rtol=1e-5, atol=1e-6)
    second = jax.tree.map(lambda leaf: leaf[1], in_blocks[0])
    assert_close(second, in_blocks[1], rtol=1e-5, atol=1e-6)


def loss_after(meta, dtype):
    """After two steps down a bowl."""
    optimizer = optim.open_optimizer(meta)
    params = {"actor": {"w": jnp.linspace(0.5, 2.0, 6, dtype=dtype).reshape(3, 2)}}

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda leaf: 1000 * leaf, params)
        updates, state = optimizer.update(grads, state, params, training_progress=0.25)
        return (jax.tree.map(lambda p, u: p + 300 * u, params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2)
    return jnp.sum(params["actor"]["w"] ** 2)


def test_derivatives_are_right():
    """In forward and reverse mode, through two steps, against differences."""
    with jax.enable_x64(True):
        meta = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), small_open())

        def loss(factors):
            gru, output = factors
            layers = meta["params"] | {
                "layers_6": jax.tree.map(lambda x: output * x, meta["params"]["layers_6"])
            }
            cell = jax.tree.map(lambda x: gru * x, meta["gru_params"])
            return loss_after({"gru_params": cell, "params": layers}, np.float64)

        @quick_jit
        def slopes(at, step):
            units = np.eye(2)
            forward = jax.vmap(lambda unit: jax.jvp(loss, (at,), (unit,))[1])(units)
            ends = jax.lax.map(
                loss, jnp.concatenate([at[None] + step * units, at[None] - step * units])
            )
            return forward, jax.grad(loss)(at), (ends[:2] - ends[2:]) / (2 * step)

        forward, reverse, differences = slopes(np.array([1.1, 0.5]), 1e-5)
    assert np.abs(differences).min() > 1e-2
    np.testing.assert_allclose(forward, differences, rtol=1e-6)
    np.testing.assert_allclose(reverse, differences, rtol=1e-6)


@pytest.mark.slow
def test_derivatives_in_batches_and_large_leaves():
    """The ways that are quick on a CPU have none of their own; they give way."""
    meta = small_open()
    params = {"actor": {"w": jnp.linspace(-1.0, 1.0, 2 * 4200).reshape(2, 60, 70)}}

    def loss(meta, params):
        updates = last_update(optim.open_optimizer(meta), params, steps=2)
        return 1e6 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(updates))

    def one(i):
        return jax.tree.map(lambda leaf: leaf[i], params)

    slope = jax.grad(loss)
    together, alone = quick_jit(
        lambda: (jax.vmap(slope, (None, 0))(meta, params), slope(meta, one(1)))
    )()
    second = jax.tree.map(lambda leaf: leaf[1], together)
    errors = jax.tree.map(relative_error, second, alone)
    assert max(jax.tree.leaves(errors)) < 1e-3, errors
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(alone))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(alone))


def test_meta_params_and_seeds_are_batched():
    metas = [small_open(seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *metas)
    params = make_params()
    one = lambda meta, key: last_update(optim.open_optimizer(meta, key=key), params)  # noqa: E731
    together, alone = quick_jit(
        lambda: (
            jax.vmap(jax.vmap(one, (None, 0)), (0, None))(stacked, jnp.arange(2)),
            one(metas[1], 0),
        )
    )()
    assert_close(jax.tree.map(lambda leaf: leaf[1, 0], together), alone, atol=1e-7)
    assert differ(*(jax.tree.map(lambda leaf, i=i: leaf[0, i], together) for i in (0, 1)))


def test_compiled_once():
    """Progress, activations and noise are data."""
    optimizer = optim.open_optimizer(small_open())
    params = make_params()
    update = quick_jit(
        lambda state, progress, activity: optimizer.update(
            params, state, params, activations=activity, training_progress=progress
        )
    )
    state = optimizer.init(params)
    activity = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[-1]), params)
    seen = []
    for i in range(3):
        updates, state = update(state, jnp.float32(i / 2), activity)
        seen.append(updates)
    assert update._cache_size() == 1
    assert differ(seen[1], seen[2])
    assert int(state.count) == 3


# Bad input.


def test_errors_of_update():
    params = make_params()
    optimizer = optim.open_optimizer(small_open())
    state = jax.eval_shape(optimizer.init, params)

    def fails(match, params=params, grads=params, optimizer=optimizer, **extra):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(lambda s: optimizer.update(grads, s, params, **extra), state)

    fails("params must be the current parameters in OPEN's update", params=None)
    fails("OPEN must be given real grad", grads=jax.tree.map(lambda x: x.astype(complex), params))
    activity = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[-1]), params)
    wrong = activity | {"critic": {"Dense_0": {"bias": jnp.ones(1), "kernel": jnp.ones(4)}}}
    fails(
        r"activations must have shape \(1,\) or \(1,\) for critic/Dense_0/kernel of shape "
        r"\(4, 1\), got \(4,\)",
        activations=wrong,
    )
    fails(
        "activations must mirror the parameters: it has actor/Dense_0/bias, .* but nothing for "
        "critic/Dense_0/bias",
        activations={"actor": activity["actor"]},
    )
    fails(r"activations must have shape \(3,\) or \(1,\) .*, got \(\)", activations=jnp.ones(()))
    for name in ("layer_proportion", "noise_mask"):
        bad = optim.open_optimizer(small_open(), **{name: {"actor": jnp.ones(2), "critic": 1.0}})
        fails(rf"{name} must hold scalars, got shape \(2,\) for actor/Dense_0/bias", optimizer=bad)
        bad = optim.open_optimizer(small_open(), **{name: {"actor": 1.0}})
        fails(f"{name} must mirror .* it has actor, but nothing for critic/", optimizer=bad)
