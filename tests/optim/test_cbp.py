"""Continual backpropagation against a NumPy transcription and its base, and whom it renews."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unit_networks
from numpy_cbp import NumpyCBP
from quick import quick_jit
from replay import TOLERANCE

import optim
from optim._promotion import with_standard_promotion
from optim._renewal import draw_kernel

LAYERS = ("Dense_0", "Dense_1", "Dense_2")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    """The kernels that are drawn are taken from the optimizer's own key."""
    rng = np.random.default_rng(3)
    numbers = {"replacement_rate": 0.11, "maturity": 2, "decay": 0.8}
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), unit_networks.dense())
        optimizer = optim.cbp(optim.adam_gnt(0.01), **numbers)
        state, update = optimizer.init(params), quick_jit(optimizer.update)
        reference = NumpyCBP([(x["kernel"], x["bias"]) for x in params.values()], 0.01, **numbers)
        for i in range(14):
            grads = unit_networks.gradients(params, i)
            active = [np.float32(rng.exponential(size=n)) for n in (5, 4)]
            activations = {name: jnp.asarray(a) for name, a in zip(LAYERS[:2], active, strict=True)}
            updates, state = update(grads, state, params, activations=activations)
            params = optax.apply_updates(params, updates)
            key = jax.random.fold_in(state.key, i + 1)
            fresh = [
                np.float64(draw_kernel(jax.random.fold_in(key, j), shape, dtype, "lecun_uniform"))
                for j, shape in enumerate([(3, 5), (5, 4)])
            ]
            reference.step(
                [(np.asarray(x["kernel"]), np.asarray(x["bias"])) for x in grads.values()],
                [np.float64(a) for a in active],
                fresh,
            )
            tolerance = {"rtol": 100 * TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
            for layer, (kernel, bias) in zip(params.values(), reference.layers, strict=True):
                np.testing.assert_allclose(layer["kernel"], kernel, **tolerance)
                np.testing.assert_allclose(layer["bias"], bias, **tolerance)
            for j, name in enumerate(LAYERS[:2]):
                utility = state.utility[name]["kernel"]
                np.testing.assert_allclose(utility, reference.u[j], **tolerance)
                np.testing.assert_array_equal(state.age[name]["kernel"], reference.a[j])
                np.testing.assert_allclose(state.quota[name]["kernel"], reference.c[j], atol=1e-5)
    assert sum(len(units) for step in reference.replaced for units in step) >= 8
    # Units of both layers in one update, joined by a weight that is drawn.
    assert any(all(step) for step in reference.replaced)


def run(optimizer, params, steps, activations):
    """What is renewed, by outgoing weights of 0, in each update with gradients of zero."""
    optimizer = with_standard_promotion(optimizer)
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(zeros, state, params, activations=activations)
        return (optax.apply_updates(params, updates), state), state.age["Dense_0"]["kernel"] == 0

    carry = (params, optimizer.init(params))
    return quick_jit(lambda carry: jax.lax.scan(step, carry, length=steps))(carry)


def test_one_unit_in_so_many_updates_and_never_an_immature_one():
    params = {
        "Dense_0": {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(8)},
        "Dense_1": {"kernel": jnp.ones((8, 2))},
    }
    active = {"Dense_0": jnp.arange(8.0)[::-1]}
    optimizer = optim.cbp(optax.sgd(1.0), 1 / 32, maturity=10)
    (_, state), renewed = run(optimizer, params, 60, active)
    at = np.flatnonzero(np.any(renewed, axis=1))
    # Of eight mature units a quarter falls due with each update, of fewer a little less.
    assert at[0] == 10 + 3
    assert at[1] == 10 + 8
    assert np.all(np.sum(renewed, axis=1) <= 1)
    assert np.argmax(renewed[at[0]]) == 7  # the least active
    for unit in range(8):
        assert np.all(np.diff(np.flatnonzero(renewed[:, unit])) > 10)
    assert int(state.count) == 60


def test_average_of_utility():
    """2, 2, ... is 2 from the start once it is corrected."""
    params = {"Dense_0": {"kernel": jnp.ones((3, 2))}, "Dense_1": {"kernel": jnp.ones((2, 2))}}
    optimizer = optim.cbp(optax.sgd(1.0))
    state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for expected in (0.02, 0.0398, 0.059402):
        active = {"Dense_0": jnp.full(2, 2.0)}
        _, state = optimizer.update(zeros, state, params, activations=active)
        np.testing.assert_allclose(state.utility["Dense_0"]["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{"replacement_rate": 0.0, "maturity": 0}, {"maturity": 100}])
def test_without_renewals_it_is_the_base(options):
    params = unit_networks.networks()
    active = unit_networks.activity(params)
    optimizer = optim.cbp(optax.adam(0.01), **options)
    inner = with_standard_promotion(optax.adam(0.01))
    state, inner_state, expected = optimizer.init(params), inner.init(params), params
    update, inner_update = quick_jit(optimizer.update), quick_jit(inner.update)
    for i in range(3):
        grads = unit_networks.gradients(params, i)
        updates, state = update(grads, state, params, activations=active)
        inner_updates, inner_state = inner_update(grads, inner_state, expected)
        jax.tree.map(np.testing.assert_array_equal, updates, inner_updates)
        params = optax.apply_updates(params, updates)
        expected = optax.apply_updates(expected, inner_updates)
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, inner_state)


def test_moments_of_weights_and_biases():
    """Those of the unit are put back, its bias's too; all others and the count stay."""
    params = unit_networks.networks()
    active = unit_networks.activity(params, [("critic/Dense_0", 1)])
    optimizer = optim.cbp(optax.adam(0.01), replacement_rate=0.2, maturity=1)
    state, update = optimizer.init(params), quick_jit(optimizer.update)
    states = []
    for rate in range(2):
        grads = unit_networks.gradients(params, rate)
        updates, state = update(grads, state, params, activations=active)
        params = optax.apply_updates(params, updates)
        states.append(state)
    critic = jax.tree.map(np.asarray, state.inner_state[0].mu["critic"])
    others = np.array([True, False, True, True, True])
    assert np.all(params["critic"]["Dense_1"]["kernel"][1] == 0)
    for values in (
        critic["Dense_0"]["kernel"].T,
        critic["Dense_0"]["bias"],
        critic["Dense_1"]["kernel"],
    ):
        np.testing.assert_array_equal(values[1], 0)
        assert np.all(values[others] != 0)
    assert np.all(critic["Dense_1"]["bias"] != 0)
    assert int(state.inner_state[0].count) == 2


def test_several_heads_and_a_convolution():
    """Utility is of all outgoing weights, at all positions."""
    params = {
        "Conv_0": {"kernel": jnp.ones((2, 2, 1, 2))},
        "policy": {"kernel": jnp.array([[1.0, 3], [2, 2], [3, 5], [0, 2], [0, 0], [0, 2]])},
        "value": {"kernel": jnp.array([[4.0], [1], [1], [1], [1], [1]])},
    }
    optimizer = optim.cbp(optax.sgd(1.0), decay=0.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    active = {"Conv_0": jnp.array([1.0, 10.0])}
    _, state = optimizer.update(zeros, optimizer.init(params), params, activations=active)
    expected = [(1 + 3 + 3 + 5 + 0 + 0 + 4 + 1 + 1) / 9, 10 * (2 + 2 + 0 + 2 + 0 + 2 + 3) / 9]
    np.testing.assert_allclose(state.utility["Conv_0"]["kernel"], expected, rtol=1e-6)


def test_seeds_draw_their_own_and_nothing_recompiles():
    """Under vmap each seed is what it is alone, with donated buffers, and one program does."""
    optimizer = optim.cbp(optim.adam_gnt(0.01), replacement_rate=0.1, maturity=1)
    seeds = [unit_networks.networks(0), unit_networks.networks(5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    active = unit_networks.activity(seeds[0], [("actor/Dense_0", 2), ("critic/Dense_0", 0)])
    grads = unit_networks.gradients(seeds[0])

    def step(params, state):
        updates, state = optimizer.update(grads, state, params, activations=active)
        return optax.apply_updates(params, updates), state

    together, alone = quick_jit(jax.vmap(step), donate_argnums=(0, 1)), quick_jit(step)
    params, state = jax.tree.map(jnp.copy, stacked), jax.vmap(optimizer.init)(stacked)
    single = (seeds[1], optimizer.init(seeds[1]))
    for _ in range(4):
        params, state = together(params, state)
        single = alone(*single)
    assert together._cache_size() == alone._cache_size() == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6),
        (params, state.utility, state.age),
        (single[0], single[1].utility, single[1].age),
    )
    new = params["actor"]["Dense_0"]["kernel"][:, :, 2]
    assert np.all(state.age["actor"]["Dense_0"]["kernel"][:, 2] < 4)
    assert np.all(np.abs(new[0] - new[1]) > 1e-3)


def test_half_precision_keeps_its_state():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), unit_networks.networks())
    active = unit_networks.activity(params)
    optimizer = optim.cbp(optim.adam_gnt(0.01), replacement_rate=0.5, maturity=0)
    state = optimizer.init(params)
    updates, after = quick_jit(optimizer.update)(params, state, params, activations=active)
    same = lambda a, b: a.dtype == b.dtype and a.shape == b.shape  # noqa: E731
    assert all(jax.tree.leaves(jax.tree.map(same, state, after)))
    assert all(jax.tree.leaves(jax.tree.map(same, params, updates)))
    assert after.utility["actor"]["Dense_0"]["kernel"].dtype == jnp.float32


def test_by_name():
    params = unit_networks.networks()
    active = unit_networks.activity(params)
    made = optim.make("cbp:replacement_rate=0.3,maturity=0,decay=0.5,b1=0.8,l2=1e-3", 0.01)
    direct = optim.cbp(optim.make("adam_gnt:b1=0.8,l2=1e-3", 0.01), 0.3, 0, 0.5)
    results = []
    for optimizer in (made, direct):
        update = quick_jit(optimizer.update)
        results.append(update(params, optimizer.init(params), params, activations=active)[0])
    jax.tree.map(np.testing.assert_array_equal, *results)
    state = jax.eval_shape(made.init, params)
    assert len(jax.tree.leaves(optax.tree.map_params(made, lambda x: x, state))) > 0


@pytest.mark.parametrize(
    ("name", "value"), [("replacement_rate", 1.0), ("maturity", -1), ("decay", 1.0)]
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.cbp(optax.sgd(0.1), **{name: value})


def test_errors():
    params = unit_networks.networks()
    optimizer = optim.cbp(optax.sgd(0.1))
    state = optimizer.init(params)
    message = r"^activations must be the mean absolute activation of each unit in CBP's update"
    with pytest.raises(ValueError, match=message):
        optimizer.update(params, state, params)
    with pytest.raises(ValueError, match=r"^params must be the current parameters in CBP's"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"^initializer must be one of .* got 'normal'"):
        optim.cbp(optax.sgd(0.1), initializer="normal")
