"""What belongs to which leaf of a tree of networks, found by the names on the way to it."""

import collections
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Path = tuple[str, ...]

# Top-level entries that are networks by their names; Brax says policy and value.
ACTORS = frozenset({"actor", "policy"})
CRITICS = frozenset({"critic", "value"})


def leaf_paths(tree: Any) -> list[Path]:
    """The names on the way to each leaf, in flatten order, without flax's own levels.

    Those are `params` and, below the name of a variable of flax nnx, the attribute `value`.

    Args:
        tree: any pytree.

    Returns:
        One tuple of names for each leaf.

    Examples:
        >>> leaf_paths({"actor": {"params": {"Dense_0": {"bias": 1, "kernel": 2}}}})
        [('actor', 'Dense_0', 'bias'), ('actor', 'Dense_0', 'kernel')]
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    keys = [path for path, _ in flat]
    siblings = collections.Counter(path[:-1] for path in keys)
    alone = jax.tree_util.GetAttrKey("value")
    keys = [
        path[:-1] if path[1:] and path[-1] == alone and siblings[path[:-1]] == 1 else path
        for path in keys
    ]
    names = [[jax.tree_util.keystr((key,), simple=True) for key in path] for path in keys]
    return [tuple(name for name in path if name != "params") for path in names]


def networks(paths: Sequence[Path]) -> list[Path]:
    """The network that each leaf is of, whatever the kinds of the nodes.

    The top-level entries are networks, as in `{"actor": ..., "critic": ...}`, if the tree has at
    least three levels, or if none of them has another name than `actor`, `critic`, `policy` or
    `value`. Otherwise the whole tree is one.

    Args:
        paths: what `leaf_paths` gives.

    Returns:
        For each leaf the path of its network, which is empty where the whole tree is one.

    Examples:
        >>> networks([("actor", "Dense_0", "bias"), ("log_std",)])
        [('actor',), ('log_std',)]
        >>> networks([("Dense_0", "bias"), ("Dense_1", "bias")])
        [(), ()]
    """
    several = any(len(path) > 2 for path in paths)
    several = several or all(path[:1] and path[0] in ACTORS | CRITICS for path in paths)
    return [path[:1] if several else () for path in paths]


def is_actor(path: Path) -> bool:
    """Whether a leaf is the actor's, which is what gets noise unless something else is said.

    Examples:
        >>> is_actor(("policy", "hidden_0", "bias")), is_actor(("Dense_0", "bias"))
        (True, False)
    """
    return bool(path) and path[0] in ACTORS


def outputs_first(path: Path, ndim: int) -> bool:
    """Whether a leaf has its output units on the first axis, not on the last.

    So have those called `weight`, as in equinox and PyTorch; flax's are called `kernel`.

    Examples:
        >>> outputs_first(("layers", "0", "weight"), 2), outputs_first(("Dense_0", "kernel"), 2)
        (True, False)
    """
    return ndim > 1 and path[-1:] == ("weight",)


def layer_positions(paths: Sequence[Path]) -> list[float]:
    """Where each leaf's layer stands in its network: 0 for the first one, 1 for the last.

    The networks are those of `networks`. A layer is whatever holds leaves; a leaf that stands
    beside layers, such as `log_std`, counts as one. Layers come in the order of their names, with
    numbers counted: `Dense_10` comes after `Dense_9`.

    Args:
        paths: what `leaf_paths` gives.

    Returns:
        `i / (n - 1)` for the leaves of layer `i` of `n`, and 0 where there is only one.

    Examples:
        >>> layer_positions([("Dense_0", "bias"), ("Dense_0", "kernel"), ("Dense_1", "kernel")])
        [0.0, 0.0, 1.0]
    """
    owners = networks(paths)
    split = [(owner, path[len(owner) :]) for owner, path in zip(owners, paths, strict=True)]
    nested = {network for network, path in split if len(path) > 1}
    layers = [
        (network, path[:-1] if len(path) > 1 or network not in nested else path)
        for network, path in split
    ]
    order: dict[Path, list[Path]] = {}
    for network, layer in sorted(set(layers), key=lambda pair: [*map(_natural, pair)]):
        order.setdefault(network, []).append(layer)
    return [
        order[network].index(layer) / max(len(order[network]) - 1, 1) for network, layer in layers
    ]


def match_leaves(name: str, given: Any, paths: Sequence[Path]) -> list[Any]:
    """Finds what is given for each leaf: the entry at its path or above it, or the only one below.

    Only names count, not the kinds of the nodes: a dict will do for a module or a state of flax
    nnx, in which a variable is one more level above its array.

    Args:
        name: name of the argument, for the message.
        given: pytree that mirrors the parameters, or a prefix of one; with or without `params`
            levels. What it holds for other leaves is left alone.
        paths: paths of the parameters' leaves.

    Returns:
        One entry for each leaf.

    Raises:
        ValueError: if there is nothing for a leaf.

    Examples:
        >>> match_leaves("mask", {"actor": 1, "critic": 0}, [("actor", "bias"), ("critic", "bias")])
        [1, 0]
        >>> match_leaves("mask", {"actor": 1}, [("critic", "bias")])
        Traceback (most recent call last):
        ...
        ValueError: mask must mirror the parameters: it has actor, but nothing for critic/bias.
    """
    entries: Mapping[Path, Any] = dict(zip(leaf_paths(given), jax.tree.leaves(given), strict=True))
    found = []
    for path in paths:
        above = [path[:depth] for depth in range(len(path), -1, -1)]
        entry = next((prefix for prefix in above if prefix in entries), None)
        if entry is None:
            below = [longer for longer in entries if longer[: len(path)] == path]
            entry = below[0] if len(below) == 1 else None
        if entry is None:
            shown = ", ".join(_shown(entry) for entry in list(entries)[:4]) or "no entries"
            more = ", ..." if len(entries) > 4 else ""
            raise ValueError(
                f"{name} must mirror the parameters: it has {shown}{more}, but nothing for "
                f"{_shown(path)}."
            )
        found.append(entries[entry])
    return found


def match_tree(name: str, given: Any, tree: Any) -> Any:
    """Like `match_leaves`, for a mask or other argument with a value for each leaf.

    Args:
        name: name of the argument, for the message.
        given: one value for all leaves, a pytree that mirrors the parameters or is a prefix of
            them, or a function from the parameters to one of these.
        tree: the parameters, or what mirrors them.

    Returns:
        A pytree that mirrors `tree`.

    Raises:
        ValueError: if there is nothing for a leaf.

    Examples:
        >>> tree = {"actor": 5, "critic": {"kernel": 6}}
        >>> match_tree("mask", {"actor": False, "critic": True}, tree)
        {'actor': False, 'critic': {'kernel': True}}
    """
    # A module that holds the values may be callable too.
    if callable(given) and all(map(callable, jax.tree.leaves(given))):
        given = given(tree)
    return jax.tree.unflatten(jax.tree.structure(tree), match_leaves(name, given, leaf_paths(tree)))


def as_mask(name: str, given: Any) -> Callable[[Any], Any] | None:
    """A mask as optax takes it: a function from the parameters to a pytree that mirrors them.

    Args:
        name: name of the argument, for the message.
        given: what `match_tree` takes, or None.

    Returns:
        The function; None for None, which selects everything.

    Examples:
        >>> as_mask("mask", {"kernel": True, "bias": False})({"kernel": 1.0, "bias": 2.0})
        {'bias': False, 'kernel': True}
    """
    return None if given is None else functools.partial(match_tree, name, given)


def _natural(path: Path) -> list[list[Any]]:
    """A sort key in which numbers within names are counted."""
    return [
        [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
        for name in path
    ]


def _shown(path: Path) -> str:
    return "/".join(path) or "one value for all"
