"""The learned correction: at first its base, then what a transcription in NumPy says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixed_meta_params import drawn, zeros
from numpy_correction import NumpyCorrection
from quick import quick_jit

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo
from optim._promotion import with_standard_promotion
from optim.learned import _correction
from optim.learned._correction import FEATURES
from optim.learned.open import draw_noise

SHAPES = {
    "actor/Dense_0/kernel": (4, 3),
    "actor/Dense_0/bias": (3,),
    "actor/Dense_1/kernel": (3, 2),
    "critic/Dense_0/kernel": (4, 3),
    "critic/Dense_0/bias": (3,),
    "other/Dense_0/kernel": (2, 2),
}
START = optim.LearnedCorrection().init(jax.random.key(0))


def nest(flat):
    tree = {}
    for name, leaf in flat.items():
        network, layer, kind = name.split("/")
        tree.setdefault(network, {}).setdefault(layer, {})[kind] = jnp.asarray(leaf)
    return tree


def flatten(tree):
    return {
        "/".join(entry.key for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def numbers(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {n: np.float32(scale * rng.normal(size=shape)) for n, shape in SHAPES.items()}


def activities(seed):
    """Of which some are dormant."""
    rng = np.random.default_rng(seed)
    return {n: np.float32(rng.choice([0.0, 1.0, 2.0], shape[-1:])) for n, shape in SHAPES.items()}


def walk(optimizer, params, grads, steps=4, **extra):
    """The parameters after each of some updates, as compiled to be run."""
    optimizer = with_standard_promotion(optimizer)  # which optax's Adam needs

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state, trace = optimizer.init(params), []
    for i in range(steps):
        params, state = step(params, state, grads(i))
        trace.append(params)
    return trace


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- the base -----------------------------------------------------------------------------------

SCHEDULE = optax.linear_schedule(1e-2, 1e-3, 3)
BASES = {
    "adam": ({"learning_rate": 1e-2}, optax.adam(1e-2)),
    "other betas": (
        {"learning_rate": 3e-4, "b1": 0.5, "b2": 0.99, "eps": 1e-5},
        optax.adam(3e-4, b1=0.5, b2=0.99, eps=1e-5),
    ),
    "no momentum": ({"learning_rate": 0.1, "b1": 0.0}, optax.adam(0.1, b1=0.0)),
    "schedule": ({"learning_rate": SCHEDULE}, optax.adam(SCHEDULE)),
    "adamo": (
        {"base": "adamo", "learning_rate": 1e-3, "kappa": 1.0},
        optim.adamo(1e-3, kappa=1.0),
    ),
    "muon": ({"base": "muon", "learning_rate": 1e-3}, optim.make("muon", 1e-3)),
    "transformation": ({"base": optax.lion(1.0), "learning_rate": 1e-3}, optax.lion(1e-3)),
}


@pytest.mark.parametrize("case", BASES)
def test_it_starts_as_its_base_bit_for_bit(case):
    """As programs are compiled to be run, in which products and sums are contracted."""
    options, base = BASES[case]
    shapes = {"actor": {"Dense_0": {"kernel": (40, 16), "bias": (16,)}}, "critic": {"k": (16, 3)}}

    def draw(seed):
        leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
        rng = np.random.default_rng(seed)
        return treedef.unflatten([jnp.float32(rng.normal(size=shape)) for shape in leaves])

    expected = walk(base, draw(0), lambda i: draw(1 + i))
    ours = walk(
        optim.learned_correction(START, **options),
        draw(0),
        lambda i: draw(1 + i),
        training_progress=jnp.float32(0.4),
        batch_progress=jnp.float32(0.5),
    )
    assert_same(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["adam", "schedule", "adamo", "muon"])
def test_agents_live_as_under_its_base(case):
    options, base = BASES[case]
    config = PPOConfig(
        iterations=3, num_envs=4, num_steps=32, minibatches=2, epochs=2, widths=(16, 16)
    )

    def life(optimizer):
        chain = optax.chain(optim.clip_by_network_norm(0.5), optimizer)
        learner = ppo(environments.make("CartPole-v1"), config, chain)
        step = lambda state, _: (learner.iterate(state)[0], None)  # noqa: E731
        run = lambda key: jax.lax.scan(step, learner.init(key), length=3)[0].params  # noqa: E731
        return jax.jit(run)(jax.random.key(3))

    assert_same(
        life(optim.learned_correction(START, **options)), life(with_standard_promotion(base))
    )


def test_gradients_of_zero_leave_all_where_it_is():
    """And the derivative by the meta-parameters is finite."""
    params = nest(numbers(0))

    @quick_jit
    @jax.value_and_grad
    def moved(meta):
        optimizer = optim.learned_correction(meta, noise=True)
        state, now = optimizer.init(params), params
        for _ in range(2):
            updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, now)
            now = optax.apply_updates(now, updates)
        return sum(
            jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (now, params)), strict=True)
        )

    distance, slope = moved(drawn("learned_correction"))
    assert distance == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_all_meta_parameters_but_those_of_the_hidden_layer_are_felt_at_the_start():
    """A search by derivatives can begin where it is the base."""
    params, grads = nest(numbers(0)), [nest(numbers(i)) for i in (1, 2)]

    @quick_jit
    @jax.grad
    def slope(meta):
        optimizer = optim.learned_correction(meta, noise=True)
        state, now = optimizer.init(params), params
        for tree in grads:
            updates, state = optimizer.update(tree, state, now, training_progress=0.3)
            now = optax.apply_updates(now, updates)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(now))

    found = slope(START)
    last = found["mlp"].pop("layers_2")
    for leaf in jax.tree.leaves((found["plain"], last)):
        assert np.all(leaf != 0)
        assert np.isfinite(leaf).all()


# --- the transcription --------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["adam", "sgd", "two layers", "no progress"])
def test_it_is_its_transcription(case):
    """Updates of a walk, with noise."""
    sizes = {"mlp_widths": (4, 3)} if case == "two layers" else {}
    meta = drawn("learned_correction", 1, **sizes)
    extra = [
        {}
        if case == "no progress"
        else {"activations": activities(i), "training": 0.2 * i, "batch": 0.25 * (i % 4)}
        for i in range(5)
    ]
    sgd = {"base": lambda g: g} if case == "sgd" else {}
    theirs = NumpyCorrection(meta, numbers(0), rate=0.03, **sgd)
    name = "sgd" if case == "sgd" else "adam"
    optimizer = optim.learned_correction(meta, name, 0.03, noise=True, key=3)
    params = numbers(0)
    state = optimizer.init(nest(params))
    update = quick_jit(optimizer.update)
    for i, given in enumerate(extra):
        names, leaves = flatten(nest(params)), jax.tree.leaves(nest(params))
        factors = [jnp.ones([]) if n.startswith("actor") else None for n in names]
        draws = dict(zip(names, draw_noise(leaves, factors, state.key, i), strict=True))
        grads = numbers(10 + i, scale=10.0 ** (i - 2))
        passed = {}
        if given:
            passed = {
                "activations": nest(given["activations"]),
                "training_progress": jnp.float32(given["training"]),
                "batch_progress": jnp.float32(given["batch"]),
            }
        updates, state = update(nest(grads), state, nest(params), **passed)
        expected = theirs.step(params, grads, draws=draws, **given)
        for leaf, ours in flatten(updates).items():
            np.testing.assert_allclose(ours, expected[leaf], rtol=2e-4, atol=1e-7, err_msg=leaf)
            params[leaf] = params[leaf] + ours


def test_features_are_free_of_scale():
    """Of the gradients' and of the parameters', from 1e-6 to 1e3 times."""
    rng = np.random.default_rng(0)
    g, m, p, s, x = (np.float32(rng.normal(size=(6, 5))) for _ in range(5))
    v = m**2 + np.float32(rng.uniform(size=(6, 5)))

    @quick_jit
    def features(of_gradients, of_parameters):
        c, d = of_gradients, of_parameters
        sums = _correction.means(c * g, c * m, c * c * v, d * p, d * s, x)
        biases = jnp.float32(0.5), jnp.float32(0.1)
        return _correction.leaf_features(sums, biases)

    expected = features(jnp.float32(1), jnp.float32(1))
    assert all(0 < abs(value) < 1 for value in expected.values())
    for scales in ((1e-6, 1), (1e3, 1), (1, 1e-6), (1, 1e3)):
        for name, value in features(*map(jnp.float32, scales)).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


def test_means_of_large_leaves_are_over_rows_of_all_kinds():
    """Of 400 inputs, 4 planes of 10 by 10, of each plane and of each line as many."""
    rows = np.arange(400)
    chosen = np.asarray(_correction.sample(jnp.broadcast_to(rows[:, None], (400, 64)))[:, 0])
    assert 4096 <= chosen.size * 64 < 8192
    for number, kinds in ((chosen % 4, 4), (chosen // 40, 10)):
        assert set(np.bincount(number, minlength=kinds)) == {chosen.size // kinds}
    rng = np.random.default_rng(0)
    arrays = [np.float32(rng.normal(size=(400, 64))) for _ in range(6)]
    arrays[2] = arrays[2] ** 2
    g, m, v, p, s, x = (np.float64(array[chosen]) for array in arrays)
    found = _correction.means(*(jnp.asarray(array) for array in arrays))
    away = p - s
    products = [g * g, m * m, v, p * p, s * s, away**2, x * x, g * m, g * p, g * away]
    np.testing.assert_allclose(found, [y.mean() for y in products], rtol=1e-4, atol=1e-6)


def test_sums_have_the_derivatives_of_sums():
    vectors = tuple(jnp.arange(4.0) + i for i in range(3))
    value = lambda sums: sums[0] * sums[1] ** 2 + sums[2]  # noqa: E731
    ours = jax.grad(lambda x: value(_correction.totals(x)))(vectors)
    expected = jax.grad(lambda x: value([jnp.sum(y) for y in x]))(vectors)
    assert_close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
    jax.tree.map(assert_close, ours, expected)


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_matters_and_can_be_left_out(name):
    """With a network that sees one feature alone."""
    meta = zeros("learned_correction")
    meta["mlp"]["layers_0"]["kernel"][FEATURES.index(name), 0] = 1.0
    meta["mlp"]["layers_2"]["kernel"][0, 0] = 1.0
    grads = numbers(1), numbers(2)
    passed = {
        "activations": nest(activities(0)),
        "training_progress": 0.4,
        "batch_progress": 0.5,
    }

    def second(meta, **options):
        @quick_jit
        def run():
            optimizer = optim.learned_correction(meta, **options)
            params = nest(numbers(0))
            state = optimizer.init(params)
            for tree in grads:
                updates, state = optimizer.update(nest(tree), state, params, **passed)
                params = optax.apply_updates(params, updates)
            return updates

        return run()

    base = second(zeros("learned_correction"))
    with_feature = second(meta)
    pairs = zip(*map(jax.tree.leaves, (base, with_feature)), strict=True)
    assert any(np.any(a != b) for a, b in pairs)
    assert_same(second(meta, **{name: False}), base)


# --- plain numbers ------------------------------------------------------------------------------


def test_plain_numbers_change_actor_and_critic_in_time():
    meta = zeros("learned_correction")
    meta["plain"]["step"][:] = [[0.5, -0.5], [1.0, 0.0]]
    params, grads = nest(numbers(0)), nest(numbers(1))
    optimizer, base = optim.learned_correction(meta), optax.adam(1e-3)
    base = with_standard_promotion(base)
    expected, _ = base.update(grads, base.init(params))
    for progress, actor, critic in ((0.0, 0.5, 1.0), (0.5, 0.0, 0.5), (1.0, -0.5, 0.0)):
        updates, _ = optimizer.update(
            grads, optimizer.init(params), params, training_progress=progress
        )
        for network, log in (("actor", actor), ("critic", critic), ("other", (actor + critic) / 2)):
            ours, theirs = updates[network]["Dense_0"], expected[network]["Dense_0"]
            np.testing.assert_allclose(ours["kernel"], np.exp(log) * theirs["kernel"], rtol=1e-5)


def test_decay_rates_move_in_their_logarithms():
    meta = zeros("learned_correction")
    meta["plain"]["betas"][:] = np.log([2.0, 10.0])
    params = nest(numbers(0))
    ours = walk(optim.learned_correction(meta), params, lambda i: nest(numbers(1 + i)))
    theirs = walk(optax.adam(1e-3, b1=0.8, b2=0.99), params, lambda i: nest(numbers(1 + i)))
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    meta["plain"]["betas"][:] = [50.0, -50.0]
    for tree in walk(optim.learned_correction(meta), params, lambda i: nest(numbers(1 + i))):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_decay_is_a_share_of_the_step():
    """Of either sign; whatever the size of the gradients and of the parameters."""
    for sign in (1.0, -1.0):
        meta = zeros("learned_correction")
        meta["plain"]["decay"][:] = sign
        for scale in (1e-3, 1.0, 1e3):
            params, grads = nest(numbers(0, scale)), nest(numbers(1))
            optimizer = optim.learned_correction(meta, "sgd", 1.0)
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            for p, g, u in zip(*map(jax.tree.leaves, (params, grads, updates)), strict=True):
                size = lambda x: np.sqrt(np.mean(np.square(x)))  # noqa: E731
                added = np.asarray(u + g)
                np.testing.assert_allclose(size(added), 0.2 * size(g), rtol=1e-3)
                np.testing.assert_allclose(added, -sign * 0.2 * size(g) * p / size(p), rtol=1e-2)


# --- what it takes ------------------------------------------------------------------------------


def test_sizes():
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert count(START) == 125
    assert {leaf.dtype for leaf in jax.tree.leaves(START)} == {jnp.dtype("float32")}
    assert count(START["plain"]) == 12
    for widths in ((), (8, 8)):
        meta = optim.LearnedCorrection(widths).init(jax.random.key(0))
        optim.learned_correction(meta)
        assert not np.any(meta["mlp"][f"layers_{2 * len(widths)}"]["kernel"])
    with pytest.raises(ValueError, match=r"^mlp_widths must be a whole number"):
        optim.LearnedCorrection((0,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be in"),
        ({"b1": 1.0}, "b1 must be in"),
        ({"kappa": 1.0}, "'adam' has no option 'kappa'"),
        ({"base": "nothing"}, "unknown optimizer 'nothing'"),
        ({"base": "open"}, "base must be the name of an optimizer that is not learned"),
        ({"base": "redo"}, "base must be the name of an optimizer that is not learned"),
        ({"base": "trac"}, "base must be another optimizer"),
        ({"base": optax.sgd(0.1), "b1": 0.5}, "options must be given to the base itself"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optim.learned_correction(START, **options)


def test_it_is_named_like_all_learned_ones(tmp_path):
    path = tmp_path / "weights.safetensors"
    metadata = {
        "architecture": optim.LearnedCorrection(),
        "training_tasks": "none",
        "options": {"learning_rate": 1e-2, "base": "lion", "b1": 0.8},
    }
    optim.save_meta_params(path, START, metadata)
    params, grads = nest(numbers(0)), nest(numbers(1))

    def first(optimizer):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    expected = first(optax.lion(1e-2, b1=0.8))
    assert_same(first(optim.load(f"learned_correction@{path}")), expected)
    assert_same(first(optim.make(f"learned_correction@{path}:dormancy=false")), expected)
    spec = f"learned_correction@{path}:base=lion,b1=0.8,learning_rate=1e-3"
    assert_same(first(optim.make(spec)), first(optax.lion(1e-3, b1=0.8)))
    assert "kappa" in optim.option_names(f"learned_correction@{path}:base=adamo")
    with pytest.raises(ValueError, match="'learned_correction' has no option 'kappa'"):
        optim.make(f"learned_correction@{path}:kappa=1")
    with pytest.raises(ValueError, match="dormancy must be true or false"):
        optim.make(f"learned_correction@{path}:dormancy=3")
