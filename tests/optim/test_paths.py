"""Layers and entries of trees, by the names on the way to leaves."""

import dataclasses

import jax
import pytest
import trees
from flax import nnx

from optim._paths import as_mask, layer_positions, leaf_paths, match_leaves, match_tree, networks


def dense(*names):
    return {name: {"bias": 0, "kernel": 0} for name in names}


def positions(tree):
    """By the leaf's path."""
    paths = leaf_paths(tree)
    return dict(zip(map("/".join, paths), layer_positions(paths), strict=True))


def by_layer(tree):
    """Without kernel and bias, which always have the same."""
    found = {}
    for path, position in positions(tree).items():
        layer = path.removesuffix("/kernel").removesuffix("/bias")
        assert found.setdefault(layer, position) == position
    return found


def test_networks_with_and_without_a_params_level():
    actor, critic = dense("Dense_0", "Dense_1", "Dense_2") | {"log_std": 0}, dense("Dense_0", "out")
    expected = {
        "actor/Dense_0": 0,
        "actor/Dense_1": 1 / 3,
        "actor/Dense_2": 2 / 3,
        "actor/log_std": 1,
        "critic/Dense_0": 0,
        "critic/out": 1,
    }
    assert by_layer({"actor": actor, "critic": critic}) == pytest.approx(expected)
    levels = {"actor": {"params": actor}, "critic": {"params": critic}}
    assert by_layer(levels) == pytest.approx(expected)
    assert by_layer({"params": {"actor": actor, "critic": critic}}) == pytest.approx(expected)


def test_a_single_network():
    names = [f"Dense_{i}" for i in range(12)]
    expected = {name: i / 11 for i, name in enumerate(names)}
    assert by_layer(dense(*names)) == pytest.approx(expected)
    assert by_layer({"params": dense(*names)}) == pytest.approx(expected)
    assert by_layer({"actor": dense(*names)})["actor/Dense_10"] == pytest.approx(10 / 11)


def test_nested_modules_are_layers_where_they_hold_leaves():
    tree = {"actor": {"torso": dense("Conv_0", "Dense_0"), "head": dense("Dense_0")}}
    expected = {"actor/head/Dense_0": 0, "actor/torso/Conv_0": 0.5, "actor/torso/Dense_0": 1}
    assert by_layer(tree) == expected


def test_lists_and_single_layers():
    assert positions([dense("a")["a"]] * 11)["10/kernel"] == 1
    assert positions({"actor": dense("Dense_0"), "critic": dense("Dense_0")}) == dict.fromkeys(
        ["actor/Dense_0/bias", "actor/Dense_0/kernel", "critic/Dense_0/bias",
         "critic/Dense_0/kernel"], 0.0
    )  # fmt: skip
    assert positions(5) == {"": 0.0}
    assert positions({"w": 0, "b": 0}) == {"b": 0.0, "w": 0.0}
    assert positions({}) == {}


class Network(nnx.Module):
    def __init__(self, rngs):
        self.l1, self.l2 = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)
        self.out = nnx.Linear(3, 1, rngs=rngs)


class ActorCritic(nnx.Module):
    def __init__(self):
        self.actor, self.critic = Network(nnx.Rngs(0)), Network(nnx.Rngs(1))


@pytest.mark.parametrize("make", [lambda model: model, lambda model: nnx.state(model, nnx.Param)])
def test_variables_of_nnx(make):
    """The attribute of a variable that holds its array is no level, nor its name a layer."""
    layers = {"l1": 0, "l2": 0.5, "out": 1}
    assert by_layer(make(Network(nnx.Rngs(0)))) == layers
    tree = make(ActorCritic())
    expected = {f"{name}/{layer}": x for name in ("actor", "critic") for layer, x in layers.items()}
    assert by_layer(tree) == expected
    assert leaf_paths(tree) == leaf_paths(nnx.to_pure_dict(nnx.state(ActorCritic(), nnx.Param)))
    mask = match_tree("mask", {"actor": False, "critic": True}, tree)
    assert jax.tree.leaves(mask) == 6 * [False] + 6 * [True]


def test_other_levels_called_value_stay():
    assert leaf_paths({"policy": 0, "value": 1}) == [("policy",), ("value",)]
    assert leaf_paths({"critic": {"value": 1}}) == [("critic", "value")]

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Heads:
        policy: int
        value: int

    assert leaf_paths([Heads(0, 1)]) == [("0", "policy"), ("0", "value")]


def test_networks_whatever_the_nodes():
    layer = dense("Dense_0")
    kinds = [
        {"actor": layer, "critic": layer},
        {"params": {"actor": layer, "critic": layer}},
        {"actor": {"params": layer}, "critic": {"params": layer}},
        trees.Networks(layer, layer),
    ]
    for tree in kinds:
        assert networks(leaf_paths(tree)) == 2 * [("actor",)] + 2 * [("critic",)]
    for name, other in (("actor", "critic"), ("policy", "value")):
        flat = {name: layer["Dense_0"], other: 0}
        assert networks(leaf_paths(flat)) == 2 * [(name,)] + [(other,)]
        assert layer_positions(leaf_paths(flat)) == [0, 0, 0]
    heads = dense("Dense_0", "policy", "value")
    for tree in (dense("Dense_0", "Dense_1"), heads, {"params": heads}, [5, 6], 5, ()):
        assert set(networks(leaf_paths(tree))) <= {()}


def test_order_is_that_of_names_whatever_the_order_given():
    tree = {"actor": dense("Dense_1", "Dense_0")}
    assert by_layer(tree) == {"actor/Dense_0": 0, "actor/Dense_1": 1}


def test_matching():
    paths = leaf_paths({"actor": {"params": dense("a")}, "critic": {"params": dense("a")}})
    match = lambda given: match_leaves("mask", given, paths)  # noqa: E731
    assert match(1) == [1, 1, 1, 1]
    assert match({"actor": 1, "critic": {"a": {"bias": 2, "kernel": 3}}}) == [1, 1, 2, 3]
    assert match({"params": {"actor": {"a": 1}, "critic": 0}, "more": 5}) == [1, 1, 0, 0]
    with pytest.raises(ValueError, match=r"mask .* has actor, but nothing for critic/a/bias"):
        match({"actor": 1})
    with pytest.raises(ValueError, match="it has no entries, but nothing for actor/a/bias"):
        match({})
    with pytest.raises(ValueError, match=r"it has actor/a/b, actor/a/c, actor/a/d, actor/a/e, .*,"):
        match({"actor": {"a": dict.fromkeys("bcdefg", 0)}})


def test_masked_leaves_are_none():
    """As in a tree of `optax.masked`."""
    tree = {"actor": dense("Dense_0", "Dense_1")}
    tree["actor"]["Dense_0"] = jax.tree.map(lambda _: None, tree["actor"]["Dense_0"])
    assert by_layer(tree) == {"actor/Dense_1": 0}


def test_the_only_entry_below_a_leaf():
    """As a variable of flax nnx is a level above its array, of which optimizers see the array."""
    paths = leaf_paths({"actor": {"bias": 0, "kernel": 0}})
    given = {"actor": {"bias": {"value": 1}, "kernel": {"value": 2}}}
    assert match_leaves("mask", given, paths) == [1, 2]
    given["actor"]["kernel"]["more"] = 3
    with pytest.raises(ValueError, match="but nothing for actor/kernel"):
        match_leaves("mask", given, paths)


def test_trees_functions_and_modules_that_are_called():
    tree = trees.Networks(actor={"kernel": 5.0}, critic=[6.0, 7.0])
    expected = trees.Networks(actor={"kernel": 1}, critic=[2, 2])

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Called(trees.Networks):
        def __call__(self):
            raise AssertionError

    for given in (
        {"actor": 1, "critic": 2},
        Called(actor=1, critic=2),
        lambda tree: jax.tree.map(lambda leaf: 1 if leaf == 5 else 2, tree),
        lambda tree: {"actor": {"kernel": 1}, "critic": 2},
    ):
        assert match_tree("mask", given, tree) == expected
        assert as_mask("mask", given)(tree) == expected
    assert as_mask("mask", None) is None
