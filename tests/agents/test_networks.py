import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import equations

from agents.distributions import Categorical, DiagonalGaussian
from agents.environment import Box, Discrete
from agents.networks import NONLINEARITIES, Actor, Critic

IN_NUMPY = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh}


def by_hand(params, observation, nonlinearity):
    """Output and mean absolute activation per unit of a multilayer perceptron, in NumPy."""
    x = np.asarray(observation, np.float64)
    layers = sorted(name for name in params if name.startswith("Dense"))
    activity = {}
    for name in layers:
        x = x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"])
        if name != layers[-1]:
            x = IN_NUMPY[nonlinearity](x)
        activity[name] = np.abs(x).reshape(-1, x.shape[-1]).mean(axis=0)
    return x, activity


def perturbed(params, seed=0):
    """Parameters without the zeros and symmetries of initialisation."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), dict(params)
    )


def example(space, nonlinearity, lead, observation_shape):
    observation = jax.random.normal(jax.random.key(0), lead + observation_shape)
    settings = {
        "observation_ndim": len(observation_shape),
        "widths": (5, 3),
        "nonlinearity": nonlinearity,
    }
    network = Critic(**settings) if space is None else Actor(space, **settings)
    params = perturbed(network.init(jax.random.key(1), observation)["params"])
    return network, params, observation


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("space", [None, Discrete(4), Box(2, -1.0, 1.0)], ids=str)
@pytest.mark.parametrize(
    ("lead", "observation_shape"), [((), (4,)), ((6,), (4,)), ((3, 2), (2, 2, 3))]
)
def test_outputs_and_activations(space, nonlinearity, lead, observation_shape):
    network, params, observation = example(space, nonlinearity, lead, observation_shape)
    output, activations = network.apply({"params": params}, observation)
    flat = np.asarray(observation).reshape((*lead, -1))
    expected, activity = by_hand(params, flat, nonlinearity)

    if space is None:
        np.testing.assert_allclose(output, expected[..., 0], rtol=1e-4, atol=1e-5)
    elif isinstance(space, Discrete):
        assert isinstance(output, Categorical)
        np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-5)
    else:
        assert isinstance(output, DiagonalGaussian)
        np.testing.assert_allclose(output.mean, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(
            output.log_std, np.broadcast_to(params["log_std"], expected.shape)
        )
        std = np.exp(params["log_std"]).mean(keepdims=True)
        np.testing.assert_allclose(activations["log_std"], std, rtol=1e-6)

    assert jax.tree.structure(activations) == jax.tree.structure(params)
    for name, units in activity.items():
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(activations[name][leaf], units, rtol=1e-4, atol=1e-5)
            assert activations[name][leaf].shape == params[name]["bias"].shape


def test_first_policy_is_nearly_uniform_and_unit_scale():
    observation = jax.random.normal(jax.random.key(0), (50, 4))
    logits = Actor(Discrete(4)).init_with_output(jax.random.key(1), observation)[0][0].logits
    assert jnp.abs(logits).max() < 0.1
    gaussian = Actor(Box(2, -1.0, 1.0)).init_with_output(jax.random.key(1), observation)[0][0]
    assert jnp.abs(gaussian.mean).max() < 0.1
    np.testing.assert_array_equal(gaussian.log_std, 0.0)


def test_integer_and_boolean_observations():
    for dtype in (jnp.int32, bool):
        observation = jnp.ones((3, 4), dtype)
        value, _ = Critic(widths=(5,)).init_with_output(jax.random.key(0), observation)[0]
        assert value.shape == (3,)
        assert value.dtype == jnp.float32


@pytest.mark.parametrize("widths", [(64, 64), (16,)])
def test_initial_weights_are_orthogonal(widths):
    actor = Actor(Discrete(6), widths=widths)
    params = actor.init(jax.random.key(3), jnp.zeros((20,)))["params"]
    scales = {f"Dense_{i}": 2.0 for i in range(len(widths))} | {f"Dense_{len(widths)}": 1e-4}
    assert set(params) == set(scales)
    for name, squared_scale in scales.items():
        kernel = np.asarray(params[name]["kernel"], np.float64)
        if kernel.shape[0] < kernel.shape[1]:
            kernel = kernel.T
        gram = kernel.T @ kernel / squared_scale
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
        np.testing.assert_array_equal(params[name]["bias"], 0.0)
    critic = Critic(widths=widths).init(jax.random.key(3), jnp.zeros((20,)))["params"]
    last = critic[f"Dense_{len(widths)}"]["kernel"]
    np.testing.assert_allclose(jnp.sum(jnp.square(last)), 1.0, rtol=1e-5)


def decompositions(function, *arguments):
    """Shapes of the matrices whose QR decomposition a function computes."""
    names = ("qr", "geqrf")
    return [
        equation.invars[0].aval.shape
        for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if equation.primitive.name in names
    ]


def test_initialisation_batches_no_decomposition():
    """Two batched decompositions at once can deadlock XLA on a CPU."""
    actor, critic = Actor(Discrete(3), widths=(8,)), Critic(widths=(8,))
    observation = jnp.zeros((4,))

    def init(key):
        return actor.init(key, observation), critic.init(key, observation)

    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    single = decompositions(init, keys[0, 0])
    batched = decompositions(jax.vmap(jax.vmap(init)), keys)
    assert len(single) == 4
    assert sorted(batched) == sorted(single)

    plain = jax.vmap(functools.partial(jax.nn.initializers.orthogonal(), shape=(8, 8)))
    assert decompositions(plain, keys[0]) == [(3, 8, 8)]  # what it would look like


def test_initialisation_under_vmap_is_that_of_each_seed():
    actor = Actor(Box(2, -1.0, 1.0), widths=(8, 8))
    keys = jax.random.split(jax.random.key(0), 4)
    init = functools.partial(actor.init, observation=jnp.zeros((4,)))
    together = jax.jit(jax.vmap(init))(keys)
    for i, key in enumerate(keys):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6),
            together,
            init(key),
        )
