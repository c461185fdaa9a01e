import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees
from flax import nnx
from quick import quick_jit

import optim

GRADS = {
    "actor": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.zeros(2)},
    "critic": {"kernel": jnp.full((2, 1), 0.1), "bias": jnp.array([0.2])},
}


def clip(grads, max_norm=1.0):
    transform = optim.clip_by_network_norm(max_norm)
    return quick_jit(transform.update)(grads, transform.init(grads))[0]


def test_each_network_is_clipped_alone():
    clipped = clip(GRADS)
    expected = optax.clip_by_global_norm(1.0)
    for name, grads in GRADS.items():
        jax.tree.map(
            np.testing.assert_array_equal,
            clipped[name],
            quick_jit(expected.update)(grads, expected.init(grads))[0],
        )
    assert np.isclose(optax.tree.norm(clipped["actor"]), 1.0)
    jax.tree.map(np.testing.assert_array_equal, clipped["critic"], GRADS["critic"])


def test_a_huge_network_leaves_the_others_alone():
    huge = {**GRADS, "critic": jax.tree.map(lambda leaf: 1e6 * leaf, GRADS["critic"])}
    jax.tree.map(np.testing.assert_array_equal, clip(huge)["actor"], clip(GRADS)["actor"])


class Model(nnx.Module):
    def __init__(self, grads):
        for name, network in grads.items():
            setattr(self, name, nnx.Dict({k: nnx.Param(leaf) for k, leaf in network.items()}))


@pytest.mark.parametrize(
    "make",
    [
        lambda grads: {"params": grads},
        lambda grads: {name: {"params": network} for name, network in grads.items()},
        lambda grads: trees.Networks(**grads),
        lambda grads: nnx.state(Model(grads), nnx.Param),
        lambda grads: {"policy": grads["actor"], "value": grads["critic"]},
        lambda grads: {"q0": {"Dense_0": grads["actor"]}, "q1": {"Dense_0": grads["critic"]}},
        lambda grads: ({"a": {"Dense_0": grads["actor"]}}, {"a": {"Dense_0": grads["critic"]}}),
    ],
)
def test_networks_are_told_by_path_whatever_holds_them(make):
    clipped = clip(make(GRADS))
    expected = make(clip(GRADS))
    assert jax.tree.structure(clipped) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, clipped, expected)


LAYER = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)}


@pytest.mark.parametrize(
    "tree",
    [
        jnp.full(4, 2.0),
        (jnp.full(2, 2.0), [jnp.full(2, 2.0)]),
        LAYER,
        {"params": LAYER},
        {"Dense_0": LAYER, "Dense_1": LAYER},
        {"params": {"Dense_0": LAYER, "policy": LAYER, "value": LAYER}},
    ],
)
def test_other_trees_are_clipped_as_one(tree):
    assert np.isclose(optax.tree.norm(clip(tree)), 1.0)


def test_masked_and_empty_trees():
    for tree in ({}, (), None, {"actor": {}}, {"actor": None}, {"actor": optax.MaskedNode()}):
        assert jax.tree.structure(clip(tree)) == jax.tree.structure(tree)
    masked = optax.masked(optim.clip_by_network_norm(1.0), {"actor": False, "critic": True})
    updates, _ = masked.update(
        {"actor": jnp.full(2, 5.0), "critic": jnp.full(2, 5.0)}, masked.init(GRADS)
    )
    np.testing.assert_array_equal(updates["actor"], 5.0)
    assert np.isclose(optax.tree.norm(updates["critic"]), 1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype):
    clipped = clip({"actor": jnp.full(3, 7.0, dtype)})
    assert clipped["actor"].dtype == dtype


@pytest.mark.parametrize("infinity", [float("inf"), np.float32(np.inf), jnp.float32(jnp.inf)])
def test_infinity_clips_nothing(infinity):
    """Also where the norm overflows."""
    huge = {"actor": jnp.full(2, 3e38), "critic": jnp.array([-1.0, 2.0])}
    jax.tree.map(np.testing.assert_array_equal, clip(huge, infinity), huge)
    with pytest.raises(ValueError, match="max_norm must be in"):
        optim.clip_by_network_norm(-infinity)


def test_it_has_no_state_and_takes_extra_arguments():
    transform = optim.clip_by_network_norm(1.0)
    state = transform.init(GRADS)
    assert state == optax.EmptyState()
    transform.update(GRADS, state, GRADS, value=jnp.ones(()), activations=None)


def test_vmap_clips_each_seed_alone():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.01 * leaf]), GRADS)
    clipped = jax.vmap(clip)(stacked)
    for i, scale in enumerate((1.0, 0.01)):
        alone = clip(jax.tree.map(lambda leaf, scale=scale: scale * leaf, GRADS))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), clipped, alone
        )


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan"), "1"])
def test_max_norm_out_of_range(max_norm):
    with pytest.raises(ValueError, match="max_norm must be in"):
        optim.clip_by_network_norm(max_norm)


def test_leaves_without_gradients():
    """They count for nothing: functions, None, and integers whose gradients are zero."""
    grads = {name: {**network, "activation": None} for name, network in GRADS.items()}
    grads["actor"]["calls"] = jnp.int32(0)
    params = {name: {**network, "activation": jax.nn.relu} for name, network in GRADS.items()}
    params["actor"]["calls"] = jnp.int32(7)
    transform = optim.clip_by_network_norm(1.0)
    clipped, _ = transform.update(grads, transform.init(params), params)
    calls = clipped["actor"].pop("calls")
    assert (calls, calls.dtype) == (0, jnp.int32)
    expected = clip(GRADS)
    for name, network in clipped.items():
        assert network.pop("activation") is None
        jax.tree.map(np.testing.assert_allclose, network, expected[name])
    grads["actor"]["calls"] = np.zeros((), jax.dtypes.float0)
    with pytest.raises(ValueError, match="got float0 at 'actor/calls'; give None"):
        transform.update(grads, transform.init(params), params)
