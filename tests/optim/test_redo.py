"""ReDo against a NumPy transcription and its base, and what it does to units and to moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unit_networks
from flax import nnx
from numpy_redo import NumpyRedo
from quick import quick_jit
from replay import TOLERANCE

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo
from optim._promotion import with_standard_promotion
from optim._renewal import draw_kernel

LAYERS = ("Dense_0", "Dense_1", "Dense_2")


def same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    """The kernels that are drawn are taken from the optimizer's own key."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), unit_networks.dense())
        optimizer = optim.redo(optim.adam_gnt(0.01), period=3, tau=0.2)
        state, update = optimizer.init(params), quick_jit(optimizer.update)
        reference = NumpyRedo([(x["kernel"], x["bias"]) for x in params.values()], 0.01, 3, 0.2)
        for i in range(12):
            grads = unit_networks.gradients(params, i)
            active = [np.float32(rng.exponential(size=n) * (rng.random(n) > 0.4)) for n in (5, 4)]
            activations = {name: jnp.asarray(a) for name, a in zip(LAYERS[:2], active, strict=True)}
            updates, state = update(grads, state, params, activations=activations)
            params = optax.apply_updates(params, updates)
            key = jax.random.fold_in(state.key, i + 1)
            fresh = [
                draw_kernel(jax.random.fold_in(key, j), shape, dtype, "xavier_uniform")
                for j, shape in enumerate([(3, 5), (5, 4)])
            ]
            reference.step(
                [(np.asarray(x["kernel"]), np.asarray(x["bias"])) for x in grads.values()],
                [np.float64(a) for a in active],
                [np.float64(x) for x in fresh],
            )
            for layer, (kernel, bias) in zip(params.values(), reference.layers, strict=True):
                tolerance = {"rtol": 100 * TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
                np.testing.assert_allclose(layer["kernel"], kernel, **tolerance)
                np.testing.assert_allclose(layer["bias"], bias, **tolerance)
    assert reference.renewed >= 4


BASES = {
    "adam": lambda: optax.adam(0.01),
    "adam_gnt": lambda: optim.adam_gnt(0.01),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.trace(0.9), {"actor": True, "critic": False}),
        optax.adamw(0.01),
    ),
    "partition": lambda: optax.partition(
        {"a": optax.adam(0.01), "c": optax.rmsprop(0.01, momentum=0.5)},
        {"actor": "a", "critic": "c"},
    ),
    "adam_cm": lambda: optim.adam_cm(0.01),
    "lion": lambda: optax.lion(0.01),
}


def walk(optimizer, params, steps, activations=None):
    """Parameters and state after some updates."""
    optimizer = with_standard_promotion(optimizer)

    @quick_jit
    def step(grads, state, params, activations):
        updates, state = optimizer.update(grads, state, params, activations=activations)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(steps):
        params, state = step(unit_networks.gradients(params, i), state, params, activations)
    return params, state


@pytest.mark.parametrize("options", [{"period": None}, {"period": 4}, {"period": 1, "tau": -1.0}])
def test_without_renewals_it_is_the_base(options):
    params = unit_networks.networks()
    activations = unit_networks.activity(params, [("actor/Dense_0", 1)])
    expected = walk(BASES["adam"](), params, 3)
    actual = walk(optim.redo(BASES["adam"](), **options), params, 3, activations)
    same(actual[0], expected[0])
    same(actual[1].inner_state, expected[1])


def touched(params):
    """Where unit 2 of the first layer and unit 0 of the second one are, in the actor."""
    masks = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), params)
    actor = masks["actor"]
    actor["Dense_0"]["kernel"][:, 2] = actor["Dense_1"]["kernel"][2] = True
    actor["Dense_1"]["kernel"][:, 0] = actor["Dense_2"]["kernel"][0] = True
    return masks


@pytest.mark.parametrize("base", BASES)
def test_what_is_renewed_and_what_is_not(base):
    """Everything else is the base's, bit for bit: parameters, moments and counts."""
    params = unit_networks.networks()
    activations = unit_networks.activity(params, [("actor/Dense_0", 2), ("actor/Dense_1", 0)])
    optimizer = optim.redo(BASES[base](), period=3)
    # In the same program, so that it is rounded alike.
    plain, plain_state = walk(optimizer, params, 3, unit_networks.activity(params))
    renewed, state = walk(optimizer, params, 3, activations)
    masks = touched(params)
    actor = renewed["actor"]
    assert np.all(actor["Dense_1"]["kernel"][2] == 0)  # also into the other renewed unit
    assert np.all(actor["Dense_2"]["kernel"][0] == 0)
    assert actor["Dense_0"]["bias"][2] == actor["Dense_1"]["bias"][0] == 0
    drawn = actor["Dense_0"]["kernel"][:, 2]
    assert np.all(drawn != plain["actor"]["Dense_0"]["kernel"][:, 2])
    assert np.all(np.abs(drawn) < np.sqrt(6 / 8))
    masks_of_params = jax.tree.map(np.copy, masks)
    masks_of_params["actor"]["Dense_0"]["bias"][2] = True
    masks_of_params["actor"]["Dense_1"]["bias"][0] = True
    others = functools.partial(
        jax.tree.map, lambda mask, a, b: np.testing.assert_array_equal(a[~mask], b[~mask])
    )
    others(masks_of_params, renewed, plain)

    seen = 0
    leaves = jax.tree.leaves_with_path(state.inner_state)
    for (path, new), old in zip(leaves, jax.tree.leaves(plain_state.inner_state), strict=True):
        names = jax.tree_util.keystr(path)
        mirrors = [
            mask
            for end, mask in jax.tree.leaves_with_path(masks)
            if names.endswith(jax.tree_util.keystr(end))
        ]
        if mirrors and mirrors[0].any() and new.ndim >= mirrors[0].ndim:
            seen += 1
            mask = mirrors[0]
            if "share" in names:  # AdamGnT's, of whole rows and whole columns
                assert new.size == mask.shape[-1] or new.size == mask.shape[-2]
                axes = [i for i, size in enumerate(new.shape) if size != mask.shape[i]]
                mask = mask.all(axis=tuple(axes), keepdims=True)
            mask = np.broadcast_to(mask, new.shape)
            if not mask.any():
                np.testing.assert_array_equal(new, old)
                continue
            assert np.any(np.asarray(old)[mask] != 0)
            np.testing.assert_array_equal(np.asarray(new)[mask], 0)
            np.testing.assert_array_equal(np.asarray(new)[~mask], np.asarray(old)[~mask])
        else:
            np.testing.assert_array_equal(new, old)
    assert seen >= 3


def test_state_that_does_not_begin_with_zeros():
    """It is put to what `init` gives for the new parameters."""
    params = unit_networks.networks()
    activations = unit_networks.activity(params, [("critic/Dense_0", 3)])
    inner = optax.adagrad(0.1, initial_accumulator_value=0.25)
    _, state = walk(optim.redo(inner, period=2), params, 2, activations)
    sums = state.inner_state[0].sum_of_squares["critic"]
    np.testing.assert_array_equal(sums["Dense_0"]["kernel"][:, 3], 0.25)
    assert np.all(sums["Dense_0"]["kernel"][:, :3] > 0.25)
    inner = optax.contrib.schedule_free_sgd(0.1)
    after, state = walk(optim.redo(inner, period=2), params, 2, activations)
    for name, part in (("Dense_0", jnp.s_[:, 3]), ("Dense_1", jnp.s_[3])):
        z = state.inner_state.z["critic"][name]["kernel"]
        np.testing.assert_allclose(z[part], after["critic"][name]["kernel"][part], rtol=1e-6)


def test_the_function_of_dead_units_stays():
    """ReLU networks, with a convolution whose output is flattened, not square."""
    keys = jax.random.split(jax.random.key(0), 4)
    height, width, channels = 3, 5, 6
    draw = jax.random.normal
    params = {
        "Conv_0": {"kernel": draw(keys[0], (3, 3, 2, channels)), "bias": jnp.zeros(channels)},
        "Dense_0": {"kernel": draw(keys[1], (height * width * channels, 8)), "bias": jnp.zeros(8)},
        "Dense_1": {"kernel": draw(keys[2], (8, 2)), "bias": jnp.ones(2)},
    }
    params["Conv_0"]["bias"] = params["Conv_0"]["bias"].at[jnp.array([1, 4])].set(-1e3)
    params["Dense_0"]["bias"] = params["Dense_0"]["bias"].at[0].set(-1e3)
    images = draw(keys[3], (9, height, width, 2))

    def forward(params):
        layout = ("NHWC", "HWIO", "NHWC")
        conv = jax.lax.conv_general_dilated(
            images, params["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=layout
        )
        x = jax.nn.relu(conv + params["Conv_0"]["bias"].reshape(1, 1, 1, -1))
        active = {"Conv_0": jnp.mean(jnp.abs(x), (0, 1, 2))}
        x = x.reshape(9, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"].reshape(
            1, -1
        )
        x = jax.nn.relu(x)
        active["Dense_0"] = jnp.mean(jnp.abs(x), 0)
        return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"].reshape(1, -1), active

    optimizer = optim.redo(optax.sgd(1.0), period=1, tau=0.0)

    @quick_jit
    def renew(params):
        before, active = forward(params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params, activations=active)
        renewed = optax.apply_updates(params, updates)
        return before, renewed, forward(renewed)[0]

    before, renewed, after = renew(params)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    rows = np.asarray(renewed["Dense_0"]["kernel"]).reshape(height, width, channels, 8)
    assert np.all(rows[:, :, [1, 4]] == 0)
    assert np.all(rows[:, :, [0, 2, 3, 5], 1:] != 0)
    fan = 9 * 2 + 9 * channels
    new = renewed["Conv_0"]["kernel"][..., jnp.array([1, 4])]
    assert 0.8 * np.sqrt(6 / fan) < np.max(np.abs(new)) < np.sqrt(6 / fan)
    assert np.all(renewed["Conv_0"]["bias"] == 0)


def test_a_dead_layer_and_heads():
    """All units of a layer that is all 0, and the rows of both heads."""
    params = {
        "trunk": {"kernel": jnp.ones((3, 4))},
        "policy": {"kernel": jnp.ones((4, 2))},
        "value": {"kernel": jnp.ones((4, 1))},
    }
    optimizer = optim.redo(optax.sgd(1.0), period=1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(
        zeros, optimizer.init(params), params, activations={"trunk": jnp.zeros(4)}
    )
    after = optax.apply_updates(params, updates)
    assert np.all(after["policy"]["kernel"] == 0)
    assert np.all(after["value"]["kernel"] == 0)
    assert len(np.unique(after["trunk"]["kernel"])) == 12


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), unit_networks.networks())
    activations = unit_networks.activity(params, [("actor/Dense_0", 2)])
    optimizer = optim.redo(optim.adam_gnt(0.01), period=1)
    grads = unit_networks.gradients(params)
    updates, state = quick_jit(optimizer.update)(
        grads, optimizer.init(params), params, activations=activations
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    after = optax.apply_updates(params, updates)
    assert np.all(after["actor"]["Dense_1"]["kernel"][2] == 0)
    assert after["actor"]["Dense_0"]["bias"][2] == 0
    moments = state.inner_state[0]
    assert moments.mu["actor"]["Dense_0"]["kernel"].dtype == jnp.float32
    assert np.all(moments.mu["actor"]["Dense_1"]["kernel"][2] == 0)


def test_seeds_draw_their_own_and_nothing_recompiles():
    """Under vmap each seed is what it is alone, with donated buffers, and one program does."""
    optimizer = optim.redo(optim.adam_gnt(0.01), period=2, tau=0.1)
    seeds = [unit_networks.networks(0), unit_networks.networks(5), unit_networks.networks(0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    some = unit_networks.activity(seeds[0], [("actor/Dense_0", 2), ("critic/Dense_0", 0)])
    none = unit_networks.activity(seeds[0])
    grads = unit_networks.gradients(seeds[0])

    def step(params, state, activations):
        updates, state = optimizer.update(grads, state, params, activations=activations)
        return optax.apply_updates(params, updates), state

    # The third seed has no dormant unit in the second update.
    together = quick_jit(jax.vmap(step), donate_argnums=(0, 1))
    alone = quick_jit(step)
    active = jax.tree.map(lambda a, b: jnp.stack([a, a, b]), some, none)
    params, state = jax.tree.map(jnp.copy, stacked), jax.vmap(optimizer.init)(stacked)
    singles = [(seed, optimizer.init(seed)) for seed in seeds]
    for _ in range(3):
        params, state = together(params, state, active)
        singles = [
            alone(*one, given) for one, given in zip(singles, (some, some, none), strict=True)
        ]
    assert together._cache_size() == alone._cache_size() == 1
    for i, (single, _) in enumerate(singles):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            params,
            single,
        )
    start = stacked["actor"]["Dense_0"]["kernel"]
    new = params["actor"]["Dense_0"]["kernel"][:, :, 2]
    assert np.all(np.abs(new[0] - new[1]) > 1e-3)
    np.testing.assert_allclose(new[2], start[2, :, 2], atol=0.04)


def test_period_threshold_and_key_can_be_traced():
    params = unit_networks.networks()
    activations = unit_networks.activity(params, [("actor/Dense_0", 2)])
    zeros = jax.tree.map(jnp.zeros_like, params)

    def run(period, tau, key):
        optimizer = optim.redo(optax.sgd(1.0), period, tau, key=key)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(zeros, state, params, activations=activations)
        return updates["actor"]["Dense_0"]["kernel"][:, 2]

    moved = quick_jit(jax.vmap(run))(
        jnp.array([2, 3, 1, 2]), jnp.array([0.0, 0, -1, 0]), jnp.arange(4)
    )
    np.testing.assert_array_equal(np.any(moved != 0, axis=1), [True, False, False, True])
    assert np.all(moved[0] != moved[3])


def test_it_is_differentiable():
    """As meta-learning around it needs it; also where units are renewed."""
    params = unit_networks.networks()
    activations = unit_networks.activity(params, [("actor/Dense_0", 2)])

    def loss(factor):
        optimizer, moved = optim.redo(optim.adam_gnt(0.01), period=1), params
        state = optimizer.init(moved)
        for i in range(2):
            grads = jax.tree.map(lambda g: factor * g, unit_networks.gradients(params, i))
            updates, state = optimizer.update(grads, state, moved, activations=activations)
            moved = optax.apply_updates(moved, updates)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(moved))

    slope = quick_jit(jax.grad(loss))(jnp.float32(1))
    assert np.isfinite(slope)
    assert slope != 0


def test_by_name():
    """Options that are not its own are its base's, decay too, which comes before renewals."""
    params = unit_networks.networks()
    activations = unit_networks.activity(params, [("actor/Dense_0", 2)])
    made = optim.make(
        "redo:base=adam,b1=0.5,period=2,tau=0.1,initializer=he_uniform,decoupled_decay=0.1,l2=1e-3",
        0.01,
    )
    inner = optim.make("adam:b1=0.5,decoupled_decay=0.1,l2=1e-3", 0.01)
    direct = optim.redo(inner, 2, 0.1, "he_uniform")
    actual, expected = (walk(x, params, 2, activations)[0] for x in (made, direct))
    same(actual, expected)
    assert np.all(actual["actor"]["Dense_1"]["kernel"][2] == 0)
    default = walk(optim.make("redo:learning_rate=0.01", 1.0), params, 2, activations)
    same(default[0], walk(optim.redo(optim.adam_gnt(0.01)), params, 2, activations)[0])
    schedule = optax.linear_schedule(0.01, 0.0, 5)
    optim.make("redo:base=rmsprop", schedule).init(params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("redo:base=adm", "unknown optimizer 'adm'; the nearest is 'adam'"),
        ("redo:base=trac", "base must be another optimizer for 'redo' than 'trac', which works "),
        ("redo:base=open", "that is not learned and wraps no other for 'redo', got 'open'"),
        ("redo:perod=3", "'redo' has no option 'perod'; the nearest is 'period'"),
        ("redo:base=sgd,b1=0.9", "'redo' has no option 'b1'"),
        ("redo:initializer=normal", "initializer must be one of xavier_uniform, .* got normal"),
        ("redo:links=3", "links must be set in Python"),
        ("redo:base=adam,b1=1", r"b1 must be in \[0, 1\), got 1"),
        ("redo:period=0", "period must be a whole number of at least 1, or None, got 0"),
        ("redo@x", "'redo' has no learned weights"),
    ],
)
def test_errors_by_name(text, message):
    params = unit_networks.networks()
    with pytest.raises(ValueError, match=message):
        optim.make(text, 0.01).init(params)


def test_errors():
    params = unit_networks.networks()
    optimizer = optim.redo(optax.sgd(0.1))
    state = optimizer.init(params)
    with pytest.raises(
        ValueError, match=r"^activations must be the mean absolute activation of each"
    ):
        optimizer.update(params, state, params)
    active = unit_networks.activity(params)
    wrong = jax.tree.map(lambda x: x[:1], active)
    with pytest.raises(ValueError, match=r"^activations must have shape \(5,\) for actor/Dense_0"):
        optimizer.update(params, state, params, activations=wrong)
    with pytest.raises(
        ValueError, match=r"^activations must mirror the parameters: it has .*critic"
    ):
        optimizer.update(params, state, params, activations={"actor": active["actor"]})
    with pytest.raises(
        ValueError, match=r"^params must be the current parameters in ReDo's update"
    ):
        optimizer.update(params, state, activations=active)
    with pytest.raises(
        ValueError, match=r"^initializer must be one of xavier_uniform, .* got 'normal'"
    ):
        optim.redo(optax.sgd(0.1), initializer="normal")
    with pytest.raises(ValueError, match=r"^tau must be in .* got nan"):
        optim.redo(optax.sgd(0.1), tau=float("nan"))
    with pytest.raises(ValueError, match=r"^learning_rate must be given"):
        optim.make("redo")


def test_under_flax_nnx():
    """Whose optimizer keeps the state in variables; layers are in a list."""

    class Network(nnx.Module):
        def __init__(self, rngs):
            sizes = ((3, 5), (5, 2))
            self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optim.redo(optim.adam_gnt(0.01), period=2), wrt=nnx.Param)
    active = {"layers": {"0": jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])}}
    for i in range(2):
        grads = unit_networks.gradients(nnx.state(model, nnx.Param), i)
        optimizer.update(model, grads, activations=active)
    assert np.all(model.layers[1].kernel[2] == 0)
    states = jax.tree.leaves_with_path(nnx.state(optimizer, nnx.optimizer.OptState))
    mu = {jax.tree_util.keystr(path): leaf for path, leaf in states if "mu'" in str(path)}
    of_last = [leaf for path, leaf in mu.items() if "1" in path and leaf.shape == (5, 2)]
    assert len(of_last) == 1
    np.testing.assert_array_equal(np.all(of_last[0] == 0, axis=1), [0, 0, 1, 0, 0])


def test_ppo_passes_activations():
    """Through a chain, under vmap over seeds; units that are dead are renewed in both networks."""
    config = PPOConfig(
        iterations=2, num_envs=2, num_steps=4, epochs=1, minibatches=2, widths=(6, 5)
    )
    inner = optim.make("redo:period=2,tau=0", 1e-3)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), inner)
    learner = ppo(environments.make("CartPole-v1"), config, optimizer)

    def run(key):
        state = learner.init(key)
        for network in state.params.values():
            network["Dense_0"]["bias"] = network["Dense_0"]["bias"].at[3].set(-1e3)
        return learner.iterate(state)[0].params

    params = quick_jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
    for network in params.values():
        np.testing.assert_array_equal(network["Dense_0"]["bias"][:, 3], 0)
        np.testing.assert_array_equal(network["Dense_1"]["kernel"][:, 3], 0)
        first, second = network["Dense_0"]["kernel"][:, :, 3]
        assert np.all(first != second)
