"""Activities against those that a module's parts give by hand; progress against loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from quick import quick_jit

import optim

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (7, 4))


def mean(x, units=None):
    return np.mean(np.abs(np.asarray(x)).reshape(-1, units or x.shape[-1]), axis=0)


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def both(vector, *names):
    return dict.fromkeys(names or ("bias", "kernel"), vector)


class Heads(nn.Module):
    """A torso and two heads, of which the first has as many units as the torso and the inputs."""

    @nn.compact
    def __call__(self, x):
        hidden = [x := nn.tanh(nn.Dense(4, name="first")(x))]
        dense = nn.Dense(4, name="normed")(x)
        hidden.append(x := x + nn.relu(nn.LayerNorm(name="norm")(dense)))
        scale = self.param("log_std", nn.initializers.zeros, (4,))
        outputs = [nn.Dense(4, name="policy")(x), nn.Dense(1, name="value")(x)]
        return *outputs, scale, hidden


class Image(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (2, 2), name="conv")(x))
        hidden = [x, x := nn.relu(nn.LayerNorm(name="norm")(x))]
        return nn.Dense(2, name="out")(x.reshape(x.shape[0], -1)), hidden


def found_in(network, inputs):
    variables = network.init(KEY, inputs)
    find = lambda variables, x: optim.extras.activations(network, x, params=variables)  # noqa: E731
    found, outputs = quick_jit(
        lambda variables, x: (find(variables, x), network.apply(variables, x))
    )(variables, inputs)
    alone = jax.eval_shape(lambda x: find(variables["params"], x), inputs)
    assert jax.tree.structure(alone) == jax.tree.structure(found)
    return variables["params"], found, outputs


def test_heads_norms_and_other_leaves():
    _, found, (policy, value, _, (first, second)) = found_in(Heads(), INPUTS)
    expected = {
        "first": both(mean(first)),
        "normed": both(mean(second)),
        "norm": both(mean(second), "bias", "scale"),
        "policy": both(mean(policy)),
        "value": both(mean(value)),
        "log_std": np.ones(1),
    }
    close(found, expected)


def test_convolutions_that_are_flattened():
    """Behind the nonlinearity there is a normalisation, which is no part of the units before it."""
    _, found, (output, (conv, norm)) = found_in(Image(), INPUTS.reshape(7, 2, 2, 1))
    expected = {
        "conv": both(mean(conv)),
        "norm": both(mean(norm), "bias", "scale"),
        "out": both(mean(output)),
    }
    close(found, expected)


class Network(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 6, rngs=rngs)])
        self.norm, self.out = nnx.LayerNorm(6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        self.log_std = nnx.Param(jnp.zeros(2))

    def __call__(self, x):
        first = nnx.relu(self.layers[0](x))
        second = nnx.relu(self.norm(self.layers[1](first)))
        return self.out(second), first, second


def test_modules_of_nnx():
    model = Network(nnx.Rngs(0))
    output, first, second = model(INPUTS)
    found = quick_jit(lambda x: optim.extras.activations(model, x))(INPUTS)
    expected = {
        "layers": {"0": both(mean(first)), "1": both(mean(second))},
        "norm": both(mean(second), "bias", "scale"),
        "out": both(mean(output)),
        "log_std": np.ones(1),
    }
    close(found, expected)
    assert model(INPUTS)[0].shape == output.shape  # it is what it was


def test_modules_of_equinox():
    eqx = pytest.importorskip("equinox")
    network = eqx.nn.MLP(4, 3, 8, 2, key=KEY)
    found = optim.extras.activations(network, INPUTS)
    hidden, names = INPUTS, ("bias", "weight")
    expected = {}
    for i, layer in enumerate(network.layers):
        hidden = jax.vmap(layer)(hidden)
        hidden = jax.nn.relu(hidden) if i < 2 else hidden
        expected[str(i)] = both(mean(hidden), *names)
    close(found, {"layers": expected})
    params = eqx.filter(network, eqx.is_inexact_array)
    optimizer = optim.load("open@small")
    take = lambda given: jax.eval_shape(  # noqa: E731
        lambda: optimizer.update(params, optimizer.init(params), params, activations=given)
    )
    take(found)
    found["layers"]["0"]["weight"] = jnp.ones(4)  # for its inputs
    with pytest.raises(ValueError, match=r"must have shape \(8,\) or \(1,\) for layers/0/weight"):
        take(found)


def test_units_of_a_weight_are_on_its_first_axis():
    """The transposed kernel, under its name in other libraries, is treated alike."""
    optimizer = optim.load("open@small", noise_mask=False)
    kernel = jax.random.normal(KEY, (3, 2))
    activity = {"a": jnp.array([0.1, 2.0])}

    @quick_jit
    def update(params):
        return optimizer.update(params, optimizer.init(params), params, activations=activity)[0]

    left, right = update({"a": {"kernel": kernel}}), update({"a": {"weight": kernel.T}})
    np.testing.assert_allclose(left["a"]["kernel"], right["a"]["weight"].T, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["open@small", "redo", "cbp"])
def test_optimizers_take_them(name):
    network = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(2)])
    params = network.init(KEY, INPUTS)
    optimizer = optim.make(name) if "@" in name else optim.make(name, 0.1)

    def step(params):
        found = optim.extras.activations(network, INPUTS, params=params)
        shares = optim.extras.progress(3, iterations=10)
        state = optimizer.init(params)
        return optax.apply_updates(
            params, optimizer.update(params, state, params, activations=found, **shares)[0]
        )

    assert jax.eval_shape(step, params) == jax.eval_shape(lambda: params)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            lambda module, carry, x: (carry, module(x)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        return scan(nn.Dense(4, name="inner"), 0, x)[1]


class Half(nn.Module):
    def setup(self):
        self.used, self.other = nn.Dense(3), nn.Dense(2)

    def __call__(self, x, every=False):
        return self.other(self.used(x)) if every else self.used(x)


def test_what_cannot_be_seen_is_said():
    with pytest.raises(ValueError, match="params must be the parameters of the linen module"):
        optim.extras.activations(nn.Dense(2), INPUTS)
    params = Half().init(KEY, INPUTS, every=True)
    with pytest.raises(ValueError, match=r"must call all its layers, got one that .* other"):
        optim.extras.activations(Half(), INPUTS, params=params)
    assert optim.extras.activations(Half(), INPUTS, params=params, every=True)
    params = Scanned().init(KEY, INPUTS)
    with pytest.raises(ValueError, match=r"outside of scans and other compiled parts"):
        optim.extras.activations(Scanned(), INPUTS, params=params)


def test_progress_of_loops():
    count = 0
    for iteration in range(3):
        for epoch in range(4):
            for _ in range(2):
                found = optim.extras.progress(jnp.int32(count), 3, epochs=4, minibatches=2)
                np.testing.assert_allclose(found["training_progress"], iteration / 2)
                np.testing.assert_allclose(found["batch_progress"], epoch / 3, rtol=1e-6)
                count += 1
    assert optim.extras.progress(0, 1) == {"training_progress": 0, "batch_progress": 0}
    assert optim.extras.progress(100, 10)["training_progress"] == 1
