"""Hidden units found in trees of parameters, and what all that renew them have in common."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from unit_networks import activity, dense, networks

from agents.environment import Box, Discrete
from agents.networks import Actor, Critic
from agents.offline.networks import Critic as OfflineCritic
from agents.offline.networks import DeterministicActor, GaussianActor
from optim._events import change_if
from optim._paths import leaf_paths
from optim._renewal import draw_kernel
from optim._units import Link, find_links, relative


def layer(*shape):
    return {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1])}


def owner_of(path):
    return re.sub(r"/(kernel|bias|w|b)(/value)?$", "", "/".join(path))


def named(params, links=None):
    """Links as a dict from paths of kernels to those of the next ones; biases are checked."""
    paths = leaf_paths(params)
    found = {}
    for link in find_links(params, links):
        assert paths[link.kernel] == link.path
        if link.bias is not None:
            assert owner_of(paths[link.bias]) == owner_of(link.path)
            assert {"bias", "b"} & set(paths[link.bias])
        found[owner_of(link.path)] = [owner_of(paths[place]) for place in link.next_kernels]
        assert link.units == jax.tree.leaves(params)[link.kernel].shape[-1]
    return found


CHAIN = {"Dense_0": ["Dense_1"], "Dense_1": ["Dense_2"]}
BOTH = {f"actor/{k}": [f"actor/{v[0]}"] for k, v in CHAIN.items()} | {
    "critic/Dense_0": ["critic/Dense_1"]
}


@pytest.mark.parametrize("node", [dict, FrozenDict, nnx.State])
def test_actor_and_critic_apart(node):
    params = networks()
    assert named(node(params)) == BOTH
    with_level = {name: {"params": network} for name, network in params.items()}
    assert named(node(with_level)) == BOTH


def abstract(module, *shapes):
    inputs = [jnp.zeros(shape) for shape in shapes]
    return jax.eval_shape(lambda key: module.init(key, *inputs)["params"], jax.random.key(0))


@pytest.mark.parametrize("space", [Discrete(4), Box(4, -1.0, 1.0)])
def test_the_networks_of_ppo(space):
    """With as many actions as observations: by shapes the critic could follow the actor."""
    params = {
        "actor": abstract(Actor(space, 1, (64, 64)), (7, 4)),
        "critic": abstract(Critic(1, (64, 64)), (7, 4)),
    }
    both = {f"{n}/{k}": [f"{n}/{v[0]}"] for n in ("actor", "critic") for k, v in CHAIN.items()}
    assert named(params) == both
    flat = {
        "actor": abstract(Actor(space, 1, ()), (7, 4)),
        "critic": abstract(Critic(1, ()), (7, 4)),
    }
    assert named(flat) == {}


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_networks_of_offline_learners(layer_norm):
    options = {"widths": (6, 6), "layer_norm": layer_norm}
    for module in (DeterministicActor(outputs=3, **options), GaussianActor(outputs=3, **options)):
        assert named(abstract(module, (7, 5))) == CHAIN
    critic = abstract(OfflineCritic(**options), (7, 8))
    assert named({"q0": critic, "q1": critic}) == {
        f"{q}/{k}": [f"{q}/{v[0]}"] for q in ("q0", "q1") for k, v in CHAIN.items()
    }


def test_numbers_count():
    """Of twelve layers, whose order in the tree is another one."""
    params = {f"Dense_{i}": layer(4, 4) for i in range(12)}
    assert named(params) == {f"Dense_{i}": [f"Dense_{i + 1}"] for i in range(11)}
    assert list(named(params)) == [f"Dense_{i}" for i in range(11)]


def test_without_biases_and_with_unit_count_one():
    params = dense(sizes=(3, 1, 2), bias=False)
    assert named(params) == {"Dense_0": ["Dense_1"]}
    assert find_links(params)[0].bias is None


def test_convolutions():
    params = {
        "Conv_0": layer(3, 3, 4, 16),
        "Conv_1": layer(3, 3, 16, 8),
        "Dense_0": layer(6 * 7 * 8, 32),
        "Dense_1": layer(32, 3),
    }
    expected = {"Conv_0": ["Conv_1"], "Conv_1": ["Dense_0"], "Dense_0": ["Dense_1"]}
    assert named(params) == expected
    assert list(named(params)) == list(expected)
    del params["Conv_1"]
    params["Dense_0"] = layer(16 * 9, 32)
    assert named(params) == {"Conv_0": ["Dense_0"], "Dense_0": ["Dense_1"]}


def test_heads_on_a_trunk():
    trunk = {"Dense_0": layer(4, 16), "Dense_1": layer(16, 8)}
    heads = {"Dense_1": ["policy", "value"]}
    by_name = trunk | {"value": layer(8, 1), "policy": layer(8, 3)}
    assert named(by_name) == {"Dense_0": ["Dense_1"]} | heads
    by_number = trunk | {"Dense_2": layer(8, 3), "Dense_3": layer(8, 1)}
    assert named(by_number) == {"Dense_0": ["Dense_1"], "Dense_1": ["Dense_2", "Dense_3"]}
    # Two networks in one module, as flax numbers them.
    two = {f"Dense_{i}": layer(*x) for i, x in enumerate([(4, 8), (8, 3), (4, 8), (8, 1)])}
    assert named(two) == {"Dense_0": ["Dense_1"], "Dense_2": ["Dense_3"]}
    words = {"trunk": layer(4, 16), "policy": layer(16, 3), "value": layer(16, 1)}
    assert named(words) == {"trunk": ["policy", "value"]}


AMBIGUOUS = {
    "heads of equal layers": [(4, 8), (8, 8), (8, 3), (8, 1)],
    "a branch": [(4, 8), (8, 8), (8, 3), (8, 8), (8, 1)],
    "no match": [(4, 8), (9, 2)],
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_numbers_and_shapes_that_do_not_tell(kind):
    params = {f"Dense_{i}": layer(*shape) for i, shape in enumerate(AMBIGUOUS[kind])}
    with pytest.raises(
        ValueError, match=r"^links must say which layer feeds which, as in .*Dense_"
    ):
        find_links(params)


@pytest.mark.parametrize(
    "params",
    [
        {"encoder": layer(4, 8), "decoder": layer(8, 4)},  # a circle
        {"trunk": layer(4, 4), "policy": layer(4, 4), "value": layer(4, 1)},
        {"trunk": {"Dense_0": layer(4, 8), "Dense_1": layer(8, 8)}, "policy": layer(8, 2)},
        {"trunk": {"Dense_0": layer(4, 8), "Dense_1": layer(8, 6)}, "head": {"out": layer(6, 2)}},
        {"encoder": {"Conv_0": layer(3, 3, 1, 4)}, "actor": {"Dense_0": layer(36, 2)}},
        {"mlp": {"w": jnp.ones((4, 8))}, "out": {"w": jnp.ones((8, 2))}},
    ],
)
def test_words_and_nodes_that_do_not_tell(params):
    with pytest.raises(ValueError, match=r"^links must say which layer feeds which"):
        find_links(params)


def test_nothing_to_find():
    for params in (jnp.ones(3), {}, layer(3, 2), {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}):
        assert find_links(params) == ()
    assert find_links({"a": jnp.ones((2, 2)), "b": jnp.ones((2, 3))}, {}) == ()


def test_links_given():
    params = {
        "trunk": {"params": {"Dense_0": layer(4, 8), "Dense_1": layer(8, 8)}},
        "policy": layer(8, 2),
        "value": {"w": jnp.ones((8, 1)), "b": jnp.ones(1)},
    }
    links = {"trunk/Dense_0": "trunk/Dense_1", "trunk/Dense_1": ["policy", "value/w"]}
    expected = {"trunk/Dense_0": ["trunk/Dense_1"], "trunk/Dense_1": ["policy", "value"]}
    assert named(params, links) == expected
    haiku = {"a": {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}, "b": {"w": jnp.ones((8, 2))}}
    assert find_links(haiku, {"a/w": "b/w"}) == (Link(("a", "w"), 1, 0, (2,), 8),)
    with pytest.raises(ValueError, match=r"^links must name layers of the tree, .*got 'tronk'\.$"):
        find_links(params, {"tronk": "policy"})
    with pytest.raises(
        ValueError, match=r"^links must join layers that fit: policy has 2 units, an"
    ):
        find_links(params, {"policy": "trunk/Dense_1"})


def test_masks():
    """All of a network or nothing of it."""
    params = networks()
    masked = optax.MaskedNode()
    hidden = params | {"critic": jax.tree.map(lambda _: masked, params["critic"])}
    assert list(named(hidden)) == ["actor/Dense_0", "actor/Dense_1"]
    assert list(named(params | {"critic": masked})) == ["actor/Dense_0", "actor/Dense_1"]
    for name, part in (("Dense_1", "kernel"), ("Dense_0", "bias")):
        critic = params["critic"] | {name: params["critic"][name] | {part: masked}}
        with pytest.raises(ValueError, match=f"params must show .* hides critic/{name}/{part}"):
            find_links(params | {"critic": critic})
    critic = params["critic"] | {"Dense_1": params["critic"]["Dense_1"] | {"bias": masked}}
    assert named(params | {"critic": critic}) == BOTH
    critic = params["critic"] | {"Dense_0": params["critic"]["Dense_0"] | {"bias": None}}
    assert named(params | {"critic": critic}) == BOTH


def test_relative_scores():
    scores = relative(jnp.array([0.0, 0.02, 1.0, 3.0]), 1e-9)
    np.testing.assert_allclose(scores, [0.0, 0.0199, 0.995, 2.985], atol=1e-4)
    np.testing.assert_array_equal(relative(jnp.zeros(3), 1e-9), 0.0)


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [
        ("xavier_uniform", np.sqrt(6 / (12 * 8 + 12 * 50))),
        ("he_uniform", np.sqrt(6 / 96)),
        ("lecun_uniform", np.sqrt(3 / 96)),
        ("torch_uniform", 1 / np.sqrt(96)),
    ],
)
def test_bounds_of_draws(initializer, bound):
    drawn = draw_kernel(jax.random.key(0), (3, 4, 8, 50), jnp.float32, initializer)
    assert 0.99 * bound < np.max(np.abs(drawn)) <= bound
    if initializer != "torch_uniform":
        initialise = getattr(jax.nn.initializers, initializer)()
        flax = initialise(jax.random.key(1), (3, 4, 8, 50), jnp.float32)
        np.testing.assert_allclose(np.std(drawn), np.std(flax), rtol=0.02)


def test_one_condition_for_all_seeds():
    """Under vmap, also of vmap, it is computed only when it is due for one of them."""

    def change(due):
        return change_if(due, lambda x: jnp.where(due, jnp.sin(x), x), jnp.float32(1))

    due = jnp.array([[False, True], [False, False]])
    together = jax.vmap(jax.vmap(change))
    np.testing.assert_allclose(together(due), np.where(due, np.sin(1), 1), rtol=1e-6)
    conditions = [e for e in jax.make_jaxpr(together)(due).eqns if e.primitive.name == "cond"]
    assert len(conditions) == 1
    assert conditions[0].invars[0].aval.shape == ()
    slope = jax.grad(lambda x: change_if(due[0, 1], lambda y: y * y, x))(3.0)
    assert slope == 6.0


def test_activity_of_the_tests():
    """What the tests of the optimizers pass."""
    tree = activity(networks(), [("actor/Dense_0", 2)])
    np.testing.assert_array_equal(tree["actor"]["Dense_0"]["bias"], [1, 1, 0, 1, 1])
