"""ReGraMa against a NumPy transcription and its base, and the score by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unit_networks
from numpy_regrama import NumpyRegrama
from quick import quick_jit
from replay import TOLERANCE

import optim
from optim._promotion import with_standard_promotion
from optim._renewal import draw_kernel


def sparse_gradients(params, seed):
    """Some columns of hidden kernels are zero."""
    rng = np.random.default_rng(seed)
    grads = unit_networks.gradients(params, seed)
    for name in ("Dense_0", "Dense_1"):
        kernel = np.array(grads[name]["kernel"])
        kernel[:, rng.random(kernel.shape[1]) > 0.7] = 0
        grads[name]["kernel"] = jnp.asarray(kernel)
    return grads


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    """The kernels that are drawn are taken from the optimizer's own key."""
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), unit_networks.dense())
        optimizer = optim.regrama(optim.adam_gnt(0.01), period=2, tau=0.5)
        state, update = optimizer.init(params), quick_jit(optimizer.update)
        reference = NumpyRegrama([(x["kernel"], x["bias"]) for x in params.values()], 0.01, 2, 0.5)
        for i in range(8):
            grads = sparse_gradients(params, i)
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            key = jax.random.fold_in(state.key, i + 1)
            fresh = [
                np.float64(draw_kernel(jax.random.fold_in(key, j), shape, dtype, "he_uniform"))
                for j, shape in enumerate([(3, 5), (5, 4)])
            ]
            of_numpy = [(np.asarray(x["kernel"]), np.asarray(x["bias"])) for x in grads.values()]
            reference.step(of_numpy, fresh)
            tolerance = {"rtol": 100 * TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
            for layer, (kernel, bias) in zip(params.values(), reference.layers, strict=True):
                np.testing.assert_allclose(layer["kernel"], kernel, **tolerance)
                np.testing.assert_allclose(layer["bias"], bias, **tolerance)
    assert reference.renewed >= 4


@pytest.mark.parametrize("options", [{"period": None}, {"period": 9}, {"period": 1, "tau": -1.0}])
def test_without_renewals_it_is_the_base(options):
    params = unit_networks.networks()
    optimizer = optim.regrama(optax.adam(0.01), **options)
    inner = with_standard_promotion(optax.adam(0.01))
    state, inner_state = optimizer.init(params), inner.init(params)
    update, inner_update = quick_jit(optimizer.update), quick_jit(inner.update)
    for i in range(3):
        grads = unit_networks.gradients(params, i)
        updates, state = update(grads, state, params)
        inner_updates, inner_state = inner_update(grads, inner_state, params)
        jax.tree.map(np.testing.assert_array_equal, updates, inner_updates)
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, inner_state)


def test_gradients_that_cancel():
    """Of two examples, +1 and -1: what the mean over them leaves is nothing."""
    x = jnp.ones((2, 1))
    signs = jnp.array([[1.0, 1.0], [-1.0, 1.0]])
    params = {
        "Dense_0": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
        "Dense_1": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)},
    }

    def loss(params):
        hidden = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"].reshape(1, -1)
        return jnp.mean((hidden * signs) @ params["Dense_1"]["kernel"])

    optimizer = optim.regrama(optax.sgd(0.1), period=1)
    updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["Dense_0"]["bias"] == 0, [True, False])
    np.testing.assert_array_equal(after["Dense_1"]["kernel"][:, 0] == 0, [True, False])


def test_the_size_of_gradients_makes_no_difference():
    """So clipping before it does not matter; a bias's gradient does not count."""
    params = unit_networks.networks()
    grads = unit_networks.gradients(params)
    kernel = grads["actor"]["Dense_1"]["kernel"].at[:, 1].multiply(1e-3)
    grads["actor"]["Dense_1"]["kernel"] = kernel
    optimizer = optim.regrama(optax.sgd(0.0), period=1)
    update = quick_jit(optimizer.update)
    for factor in (1e-3, 1.0, 1e6):
        scaled = jax.tree.map(lambda g, factor=factor: factor * g, grads)
        updates, _ = update(scaled, optimizer.init(params), params)
        after = optax.apply_updates(params, updates)["actor"]
        np.testing.assert_array_equal(after["Dense_1"]["bias"] == 0, [False, True, False, False])
        rows = np.all(after["Dense_2"]["kernel"] == 0, axis=1)
        np.testing.assert_array_equal(rows, [False, True, False, False])
        assert np.all(after["Dense_0"]["bias"] != 0)


def test_moments_of_weights_and_biases():
    """Those of the unit are put back, its bias's too; all others and the count stay."""
    params = unit_networks.networks()
    grads = unit_networks.gradients(params)
    grads["critic"]["Dense_0"]["kernel"] = grads["critic"]["Dense_0"]["kernel"].at[:, 1].set(0)
    optimizer = optim.regrama(optax.adam(0.01), period=1)
    _, state = quick_jit(optimizer.update)(grads, optimizer.init(params), params)
    critic = jax.tree.map(np.asarray, state.inner_state[0].mu["critic"])
    others = np.array([True, False, True, True, True])
    for values in (critic["Dense_0"]["bias"], critic["Dense_1"]["kernel"]):
        np.testing.assert_array_equal(values[1], 0)
        assert np.all(values[others] != 0)
    assert np.all(critic["Dense_1"]["bias"] != 0)
    assert int(state.inner_state[0].count) == 1


def test_seeds_draw_their_own_and_nothing_recompiles():
    """Under vmap each seed is what it is alone, with donated buffers, and one program does."""
    optimizer = optim.regrama(optim.adam_gnt(0.01), period=2, tau=0.3)
    seeds = [unit_networks.networks(0), unit_networks.networks(5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    grads = unit_networks.gradients(seeds[0])
    grads["actor"]["Dense_0"]["kernel"] = grads["actor"]["Dense_0"]["kernel"].at[:, 2].set(0)

    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    together, alone = quick_jit(jax.vmap(step), donate_argnums=(0, 1)), quick_jit(step)
    params, state = jax.tree.map(jnp.copy, stacked), jax.vmap(optimizer.init)(stacked)
    single = (seeds[1], optimizer.init(seeds[1]))
    for _ in range(3):
        params, state = together(params, state)
        single = alone(*single)
    assert together._cache_size() == alone._cache_size() == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6), params, single[0]
    )
    new = params["actor"]["Dense_0"]["kernel"][:, :, 2]
    assert np.all(np.abs(new[0] - new[1]) > 1e-3)


def test_by_name():
    params = unit_networks.networks()
    made = optim.make("regrama:base=adam,b1=0.8,period=1,tau=0.5", 0.01)
    direct = optim.regrama(optim.make("adam:b1=0.8", 0.01), 1, 0.5)
    grads = unit_networks.gradients(params)
    results = [
        quick_jit(optimizer.update)(grads, optimizer.init(params), params)[0]
        for optimizer in (made, direct)
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_errors():
    with pytest.raises(
        ValueError, match=r"^score must be one of kernel_grad, got 'activation_grad'"
    ):
        optim.regrama(optax.sgd(0.1), score="activation_grad")
    with pytest.raises(ValueError, match=r"^initializer must be one of .* got 'normal'"):
        optim.regrama(optax.sgd(0.1), initializer="normal")
    with pytest.raises(ValueError, match=r"^period must be a whole number"):
        optim.regrama(optax.sgd(0.1), period=0)
    with pytest.raises(ValueError, match=r"^tau must be in"):
        optim.regrama(optax.sgd(0.1), tau=float("nan"))
    optimizer, params = optim.regrama(optax.sgd(0.1)), unit_networks.networks()
    with pytest.raises(ValueError, match=r"^params must be the current parameters in ReGraMa's"):
        optimizer.update(params, optimizer.init(params))
