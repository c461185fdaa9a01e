"""UPGD and AdaUPGD against a NumPy transcription, Adam, descent and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_upgd import NumpyUPGD
from quick import quick_jit
from ranges import check_ranges
from replay import compare, first_update
from trees import close

import optim
from optim._noise import noise_key, normals
from optim._promotion import with_standard_promotion

# How each name of the transcription's kinds of utility is asked for.
KINDS = {"global": {}, "code": {"debias_max": False}, "local": {"utility": "local"}}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_trace(kind, dtype):
    compare(
        optim.upgd(0.01, beta_utility=0.9, weight_decay=0.1, sigma=0.0, **KINDS[kind]),
        NumpyUPGD(0.01, beta=0.9, weight_decay=0.1, utility=kind),
        awkward_gradients(),
        initial_params(),
        dtype,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_trace_of_ada_upgd(kind, dtype):
    compare(
        optim.ada_upgd(0.01, sigma=0.0, **KINDS[kind]),
        NumpyUPGD(0.01, utility=kind, adam=(0.9, 0.999, 1e-5)),
        awkward_gradients(),
        initial_params(),
        dtype,
    )


def test_numpy_trace_of_convolutions():
    """A unit of a convolution has the weights of all places and inputs."""
    rng = np.random.default_rng(0)
    trace = [{"conv": rng.normal(size=(2, 3, 2, 4))} for _ in range(6)]
    start = {"conv": rng.normal(size=(2, 3, 2, 4)).astype(np.float32)}
    local = NumpyUPGD(0.1, utility="local", adam=(0.9, 0.999, 1e-5))
    compare(optim.ada_upgd(0.1, sigma=0.0, utility="local"), local, trace, start, "float32")


PARAMS = jnp.array([1.0, -1.0, 0.5])


@pytest.mark.parametrize(
    ("grads", "options", "expected"),
    [
        # Utilities -0.2, 0.1 and 0.2; the code's ratios are 1000 times the paper's at first.
        ([0.2, 0.1, -0.4], {}, [0.731, 0.378, 0.269]),
        ([0.2, 0.1, -0.4], {"debias_max": False}, [1.0, 0.0, 0.0]),
        # Over their norm 0.3.
        ([0.2, 0.1, -0.4], {"utility": "local"}, [0.661, 0.417, 0.339]),
        # None is useful: -0.1, -0.2 and -0.4; and none at all.
        ([0.1, -0.2, 0.8], {}, [1.0, 1.0, 1.0]),
        ([0.1, -0.2, 0.8], {"debias_max": False}, [1.0, 1.0, 1.0]),
        ([0.0, 0.0, 0.0], {}, [0.5, 0.5, 0.5]),
        ([0.0, -0.2, 0.0], {}, [0.5, 1.0, 0.5]),
        ([0.0, 0.0, 0.0], {"utility": "local"}, [0.5, 0.5, 0.5]),
    ],
)
def test_shares_by_hand(grads, options, expected):
    """Seen in the noise, which has a share of the same size as the gradient."""
    grads = jnp.array(grads)
    plain, noisy = (
        first_update(optim.scale_by_upgd(sigma=sigma, **options), grads, PARAMS)[0]
        for sigma in (0.0, 1.0)
    )
    noise = normals(noise_key(0, PARAMS), 0, 3)
    np.testing.assert_allclose((noisy - plain) / noise / 2, expected, atol=1e-3)
    np.testing.assert_allclose(plain, 2 * jnp.array(expected) * grads, atol=1e-3)


def test_without_utility_it_is_the_base_bit_for_bit():
    """One outlier has all the utility there is; all other weights take plain steps."""
    outlier = {"outlier": jnp.array([1e15, 1.0])}
    params = jax.tree.map(jnp.asarray, initial_params()) | outlier
    options = {"sigma": 0.0, "weight_decay": 0.0}
    pairs = (
        (optim.upgd(0.01, **options), optax.sgd(0.01)),
        (optim.ada_upgd(0.01, **options), with_standard_promotion(optax.adam(0.01, eps=1e-5))),
    )

    def walk(optimizer):
        # Not compiled as a whole: that may round what it fuses otherwise.
        after, state = params, optimizer.init(params)
        for grads in trace:
            updates, state = optimizer.update(grads, state, after)
            after = optax.apply_updates(after, updates)
        return {name: after[name] for name in initial_params()}

    rng = np.random.default_rng(0)
    normal = lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32)  # noqa: E731
    trace = [jax.tree.map(normal, params) | {"outlier": jnp.array([-1e15, 0.0])} for _ in range(4)]
    for ours, base in pairs:
        jax.tree.map(np.testing.assert_array_equal, walk(ours), walk(base))


def test_noise():
    """Normal, of the given size, other in each leaf, step and key; Adam does not see it."""
    params = {"a": jnp.zeros((40, 50)), "b": jnp.zeros((40, 50))}

    def two(key):
        optimizer = optim.scale_by_ada_upgd(sigma=0.1, key=key)
        first, state = optimizer.update(params, optimizer.init(params), params)
        second, state = optimizer.update(params, state, params)
        return first, second, state

    (first, second, state), (other, *_) = quick_jit(lambda: (two(0), two(1)))()
    draws = [first["a"], first["b"], second["a"], second["b"], other["a"], other["b"]]
    correlations = np.corrcoef([np.ravel(draw) for draw in draws])
    assert np.max(np.abs(correlations - np.eye(6))) < 0.1
    for draw in draws:
        assert abs(np.mean(draw)) < 0.01
        np.testing.assert_allclose(np.std(draw), 0.1, rtol=0.05)
    close(state.inner_state.nu, params)


def test_members_of_a_vmap_have_a_largest_utility_each():
    params = jnp.stack([PARAMS, 100 * PARAMS])
    grads = jnp.tile(jnp.array([0.2, 0.1, -0.4]), (2, 1))
    optimizer = optim.scale_by_upgd(sigma=0.0)
    update = lambda g, p: optimizer.update(g, optimizer.init(p), p)[0]  # noqa: E731
    together = quick_jit(jax.vmap(update))(grads, params)
    np.testing.assert_allclose(together[0], together[1], rtol=1e-5)
    # As one leaf they share it.
    shared = quick_jit(update)(grads, params)
    np.testing.assert_allclose(shared[0], grads[0], rtol=0.02)


def test_weight_decay():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(jnp.zeros_like, params)
    for factory in (optim.upgd, optim.ada_upgd):
        decaying = factory(0.1, sigma=0.0, weight_decay=0.5, mask={"kernel": True, "bias": False})
        updates, _ = first_update(decaying, grads, params)
        close(updates, {"kernel": np.full((2, 2), -0.05), "bias": np.zeros(2)})
        default, _ = first_update(factory(0.1, sigma=0.0), grads, params)
        close(default, {"kernel": np.full((2, 2), -1e-4), "bias": np.full(2, -1e-4)}, atol=1e-9)


def test_a_spec_sets_all_of_it():
    spec = "ada_upgd:learning_rate=3e-4,sigma=0,weight_decay=0,utility=local,debias_max=false,key=3"
    made, grads = optim.make(spec), jnp.array([0.2, 0.1, -0.4])
    local = optim.ada_upgd(3e-4, sigma=0.0, weight_decay=0.0, utility="local")
    close(first_update(made, grads, PARAMS)[0], first_update(local, grads, PARAMS)[0])


def test_errors():
    ranges = {"beta_utility": "[0, 1)", "sigma": "[0, inf)", "weight_decay": "[0, inf)"}
    check_ranges(optim.upgd, **ranges)
    ranges |= {"b1": "[0, 1)", "b2": "[0, 1)", "eps": "[0, inf)", "eps_root": "[0, inf)"}
    check_ranges(optim.ada_upgd, **ranges)
    for factory in (optim.upgd, optim.ada_upgd):
        with pytest.raises(ValueError, match=r"^utility must be one of global, local, got 'max'\."):
            factory(0.1, utility="max")
