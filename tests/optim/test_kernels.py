"""Which leaves count as kernels, heads and their biases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from agents import environments
from agents.ppo import PPOConfig, ppo
from optim._kernels import kernel_axes, kernels_of_biases, on_matrices
from optim._paths import leaf_paths


def layer(*shape):
    return {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[-1])}


def chosen(params, **options):
    """Paths of the kernels, and of biases with their kernels."""
    axes = kernel_axes(params, **options)
    paths = ["/".join(path) for path in leaf_paths(params)]
    kernels = [path for path, number in zip(paths, axes, strict=True) if number is not None]
    owners = zip(paths, kernels_of_biases(params, axes), strict=True)
    return kernels, {path: paths[owner] for path, owner in owners if owner is not None}


MANY = {f"Dense_{i}": layer(3, 3) for i in range(12)} | {"log_std": jnp.ones(3)}


@pytest.mark.parametrize("with_level", [False, True])
def test_heads_are_the_last_layers_whatever_the_order_of_names(with_level):
    networks = {"actor": MANY, "critic": MANY}
    if with_level:
        networks = {name: {"params": network} for name, network in networks.items()}
    kernels, owners = chosen(networks, heads=False)
    expected = [f"{n}/Dense_{i}/kernel" for n in ("actor", "critic") for i in range(11)]
    assert sorted(kernels) == sorted(expected)
    assert owners == {kernel.replace("kernel", "bias"): kernel for kernel in expected}
    assert len(chosen(networks)[0]) == 24


def test_networks_of_ppo():
    """Of one and two networks; a head alone is no head."""
    for name in ("CartPole-v1", "Pendulum-v1"):
        config = PPOConfig(1, num_envs=1, num_steps=8)
        learner = ppo(environments.make(name), config, optax.sgd(0.1))
        state = learner.init(jax.random.key(0))
        expected = [f"{n}/Dense_{i}/kernel" for n in ("actor", "critic") for i in range(2)]
        assert chosen(state.params, heads=False)[0] == expected
        assert chosen(state.params["actor"], heads=False)[0] == [e[6:] for e in expected[:2]]
    assert chosen({"kernel": jnp.ones((2, 2))}, heads=False)[0] == ["kernel"]


def test_states_of_nnx():
    class Network(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
            self.second = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    kernels, owners = chosen(nnx.state(Network(), nnx.Param), heads=False)
    assert kernels == ["first/kernel"]
    assert owners == {"first/bias": "first/kernel"}


def test_only_biases_of_layers():
    params = {
        "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "conv": layer(3, 3, 2, 4),
        "counts": layer(2, 2) | {"kernel": jnp.ones((2, 2), int)},
        "several": {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "empty": {"kernel": jnp.ones((0, 3)), "bias": jnp.ones(3)},
        "members": {"kernel": jnp.ones((5, 2, 3)), "bias": jnp.ones((5, 3))},
    }
    axes = {name: int(name == "members") for name in params}
    kernels, owners = chosen(params, ensemble_axes=axes)
    assert kernels == ["conv/kernel", "members/kernel", "several/a", "several/b"]
    assert owners == {"conv/bias": "conv/kernel", "members/bias": "members/kernel"}


def test_a_mask_decides_alone():
    mask = {f"Dense_{i}": i == 11 for i in range(12)} | {"log_std": True}
    for given in (mask, lambda params: mask):
        assert chosen(MANY, matrix_mask=given, heads=False)[0] == ["Dense_11/kernel"]


def test_a_matrix_of_each_member():
    kernel = jnp.arange(2.0 * 3 * 5 * 7 * 4).reshape(2, 3, 5, 7, 4)
    sums = on_matrices(lambda m: jnp.broadcast_to(m.sum(0, keepdims=True), m.shape), 1, kernel)
    expected = np.broadcast_to(np.sum(kernel, (1, 2, 3), keepdims=True), kernel.shape)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_errors():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2), jnp.complex64)}
    with pytest.raises(ValueError, match="split_real_and_imaginary"):
        kernel_axes(params)
    assert kernel_axes(params, {"a": True, "b": False}) == [0, None]
    with pytest.raises(ValueError, match="matrix_mask must mirror the parameters"):
        kernel_axes(params, {"a": True})
    for axes in (-1, 0.5, True):
        with pytest.raises(ValueError, match="ensemble_axes must be a static integer"):
            kernel_axes(params, ensemble_axes=axes)
