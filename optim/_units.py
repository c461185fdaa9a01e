"""Hidden units of the networks in a tree of parameters: how to find them.

A unit is an entry of the last axis of its layer's kernel and of the bias, and a row (axis -2) of
each next kernel; behind a convolution whose output is flattened, a row for each position.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import missing
from optim._leaves import working_dtype
from optim._paths import Path, leaf_paths, match_leaves

Links = Mapping[str, str | Sequence[str]]

_ADVICE = "links must say which layer feeds which, as in {'Dense_0': 'Dense_1'}: "


class Link(NamedTuple):
    """A layer whose output units are hidden. Numbers are positions among the tree's leaves."""

    path: Path  # of the kernel
    kernel: int
    bias: int | None
    next_kernels: tuple[int, ...]
    units: int


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A node with a kernel."""

    path: Path
    kernel_path: Path
    kernel: int
    bias: int | None
    bias_is_masked: bool
    shape: tuple[int, ...]

    @property
    def units(self) -> int:
        return self.shape[-1]

    @property
    def inputs(self) -> int:
        return self.shape[-2]

    def __str__(self) -> str:
        return "/".join(self.path) or "the tree"


@dataclasses.dataclass(frozen=True)
class _Hidden:
    """Stands for a leaf that a mask hides, or for None."""

    is_masked: bool


def find_links(params: Any, links: Links | None = None) -> tuple[Link, ...]:
    """Finds the hidden layers of all networks, and what each feeds.

    A layer is a node that holds a leaf called `kernel`, as flax has it. The layers of one network
    are children of one node, beside each other; networks, such as actor and critic, are apart.
    Layers whose names differ only by a number at the end follow each other in the order of the
    numbers. Shapes must agree; where they do not, and between names of different words, a layer
    follows the only one whose units are as many as it takes. So a trunk may have several heads.

    Args:
        params: the parameters, or what mirrors them; leaves that a mask hides are MaskedNode or
            None.
        links: for each hidden layer the layers that it feeds, where names do not tell: paths of
            layers, or of the kernels themselves, with slashes. Empty where there are no hidden
            units. `None` finds them by names.

    Returns:
        The links, each network's from its input to its output.

    Raises:
        ValueError: if it cannot be told what follows what, if a mask hides a part of a network, or
            if `links` does not fit the tree.

    Examples:
        >>> layer = lambda rows, columns: {"kernel": jnp.ones((rows, columns))}
        >>> params = {"Dense_0": layer(4, 8), "Dense_1": layer(8, 6), "Dense_2": layer(6, 2)}
        >>> [(link.path, link.next_kernels) for link in find_links(params)]
        [(('Dense_0', 'kernel'), (1,)), (('Dense_1', 'kernel'), (2,))]
    """
    shown = jax.tree.map(
        lambda x: _Hidden(x is not None) if _is_hidden(x) else x, params, is_leaf=_is_hidden
    )
    leaves = list(zip(leaf_paths(shown), jax.tree.leaves(shown), strict=True))
    # Positions are those of the leaves that are not hidden.
    places = itertools.accumulate((not isinstance(x, _Hidden) for _, x in leaves), initial=0)
    known = {path: (place, x) for place, (path, x) in zip(places, leaves, strict=False)}
    if links is not None:
        successors = _given(known, links)
    else:
        layers = _layers(known)
        successors = _found(layers)
        if not layers and sum(_is_kernel(leaf) for _, leaf in known.values()) > 1:
            raise ValueError(f"{_ADVICE}no leaf is called kernel.")
    return tuple(_link(layer, following) for layer, following in successors if following)


def _is_hidden(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def _is_kernel(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", ())) > 1


def _owner(path: Path, names: Iterable[str]) -> Path | None:
    """The node that holds this leaf if it has one of the names."""
    return path[:-1] if path and path[-1] in names else None


def _layers(known: Mapping[Path, Any]) -> list[_Layer]:
    return [
        _layer(known, path)
        for path, (_, leaf) in known.items()
        if _owner(path, ("kernel",)) is not None and (isinstance(leaf, _Hidden) or _is_kernel(leaf))
    ]


def _layer(known: Mapping[Path, Any], kernel_path: Path) -> _Layer:
    place, kernel = known[kernel_path]
    owner = _owner(kernel_path, ("kernel",))
    path = kernel_path[:-1] if owner is None else owner
    bias, is_masked = None, False
    for other, (position, leaf) in known.items():
        if _owner(other, ("bias", "b")) == path:
            is_masked = isinstance(leaf, _Hidden) and leaf.is_masked
            bias = None if isinstance(leaf, _Hidden) else position
    return _Layer(path, kernel_path, place, bias, is_masked, getattr(kernel, "shape", ()))


Successors = list[tuple[_Layer, list[_Layer]]]


def _given(known: Mapping[Path, Any], links: Links) -> Successors:
    """What `links` says."""

    def find(name: str) -> _Layer:
        wanted = tuple(part for part in name.split("/") if part and part != "params")
        for path, (_, leaf) in known.items():
            is_named = path == wanted or _owner(path, ("kernel",)) == wanted
            if is_named and _is_kernel(leaf):
                return _layer(known, path)
        choices = ["/".join(path) for path, (_, leaf) in known.items() if _is_kernel(leaf)]
        raise ValueError(f"links must name layers of the tree, {', '.join(choices)}; got {name!r}.")

    successors = []
    for name, following in links.items():
        names = [following] if isinstance(following, str) else list(following)
        layer, nexts = find(name), [find(one) for one in names]
        for other in nexts:
            if not _fits(layer, other):
                raise ValueError(
                    f"links must join layers that fit: {layer} has {layer.units} units, and "
                    f"{other} takes {other.inputs}."
                )
        successors.append((layer, nexts))
    return successors


def _found(layers: Sequence[_Layer]) -> Successors:
    """What names and shapes say."""
    groups: dict[Path, list[_Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.path[:-1], []).append(layer)
    for parent, members in list(groups.items()):
        hidden = [layer for layer in members if not layer.shape]
        if hidden and len(hidden) < len(members):
            raise ValueError(
                "params must show all layers of a network or none, got a mask that hides "
                f"{'/'.join(hidden[0].kernel_path)}."
            )
        if hidden:
            del groups[parent]
    successors: Successors = []
    networks: list[tuple[Path, list[_Layer], dict[_Layer, _Layer]]] = []
    for parent, members in groups.items():
        ordered, previous = _order(members)
        networks.append((parent, ordered, previous))
        successors += [
            (layer, [x for x in ordered if previous.get(x) == layer]) for layer in ordered
        ]
    for (one, feeding, before), (other, fed, _) in itertools.permutations(networks, 2):
        is_nested = one == other[: len(one)]
        start, first = fed[0], feeding[0]
        for last in feeding:
            is_output = last not in before.values() and last.units > 1
            takes_the_same = start.shape[:-1] == first.shape[:-1]
            if is_nested or (is_output and _fits(last, start) and not takes_the_same):
                raise ValueError(
                    f"{_ADVICE}{last} and {start} are not beside each other, and may be of one "
                    "network or of two."
                )
    return successors


def _order(members: Sequence[_Layer]) -> tuple[list[_Layer], dict[_Layer, _Layer]]:
    """The layers of a node from inputs to outputs, and the one before each but the first."""
    blocks: dict[str, list[tuple[int, _Layer]]] = {}
    for layer in members:
        name = layer.path[-1] if layer.path else ""
        stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
        blocks.setdefault(stem, []).append((int(number or -1), layer))
    chains = [
        [layer for _, layer in sorted(block, key=lambda x: x[0])] for block in blocks.values()
    ]
    previous: dict[_Layer, _Layer] = {}
    for chain in chains:
        for i, layer in enumerate(chain[1:], 1):
            if _fits(chain[i - 1], layer):
                previous[layer] = chain[i - 1]
            elif (before := _only(chain[:i], layer)) is not None:
                previous[layer] = before
            elif layer.shape[:-1] != chain[0].shape[:-1]:
                raise ValueError(
                    f"{_ADVICE}{chain[i - 1]} has {chain[i - 1].units} units, and {layer} takes "
                    f"{layer.inputs}."
                )
    feeding = set(previous.values())
    for chain in chains:
        outputs = [x for other in chains if other is not chain for x in other if x not in feeding]
        if (before := _only(outputs, chain[0])) is not None:
            previous[chain[0]] = before

    def depth(layer: _Layer) -> int:
        steps = 0
        while layer in previous:
            layer, steps = previous[layer], steps + 1
            if steps > len(members):
                raise ValueError(f"{_ADVICE}{layer} may be before or after another.")
        return steps

    # Positions are in the order of names, which decides between heads.
    return sorted(members, key=lambda layer: (depth(layer), layer.kernel)), previous


def _only(candidates: Sequence[_Layer], layer: _Layer) -> _Layer | None:
    """The one that can be before a layer; an equal number of units comes before flattening."""
    fitting = [x for x in candidates if _fits(x, layer)]
    fitting = [x for x in fitting if x.units == layer.inputs] or fitting
    if len(fitting) > 1:
        raise ValueError(f"{_ADVICE}{layer} may follow {' or '.join(str(x) for x in fitting)}.")
    return fitting[0] if fitting else None


def _fits(layer: _Layer, following: _Layer) -> bool:
    if len(following.shape) > 2:
        return len(layer.shape) == len(following.shape) and layer.units == following.inputs
    flattened = len(layer.shape) > 2 and following.inputs % max(layer.units, 1) == 0
    return layer.units == following.inputs or flattened


def _link(layer: _Layer, following: Sequence[_Layer]) -> Link:
    if layer.bias_is_masked:
        raise ValueError(
            "params must show all of a layer with hidden units, got a mask that hides "
            f"{layer}/bias."
        )
    nexts = tuple(x.kernel for x in following)
    return Link(layer.kernel_path, layer.kernel, layer.bias, nexts, layer.units)


def unit_activity(optimizer: str, activations: Any, links: Sequence[Link]) -> list[jax.Array]:
    """Mean absolute activation of the units of each link.

    Args:
        optimizer: its name, for the message.
        activations: the extra argument of `update`.
        links: what `find_links` gives.

    Returns:
        One vector for each link, in float32 at least.

    Raises:
        ValueError: if the argument is missing or does not fit.

    Examples:
        >>> layer = lambda rows, columns: {"kernel": jnp.ones((rows, columns))}
        >>> params = {"Dense_0": layer(4, 2), "Dense_1": layer(2, 3)}
        >>> unit_activity("ReDo", {"Dense_0": jnp.ones(2)}, find_links(params))
        [Array([1., 1.], dtype=float32)]
    """
    if activations is None:
        raise missing(optimizer, "activations", "the mean absolute activation of each unit")
    found = match_leaves("activations", activations, [link.path for link in links])
    for link, activity in zip(links, found, strict=True):
        if jnp.shape(activity) != (link.units,):
            raise ValueError(
                f"activations must have shape ({link.units},) for {'/'.join(link.path)}, got "
                f"{jnp.shape(activity)}."
            )
    return [activity.astype(working_dtype(activity)) for activity in found]


def relative(scores: jax.Array, eps: float) -> jax.Array:
    """Scores of a layer's units in units of their mean, to which `eps` is added.

    Examples:
        >>> print(relative(jnp.array([0.0, 1.0, 3.0]), 1e-9))
        [0.   0.75 2.25]
    """
    return scores / (jnp.mean(scores) + jnp.asarray(eps, scores.dtype))


def outgoing_strength(link: Link, kernels: Sequence[jax.Array]) -> jax.Array:
    """Mean absolute outgoing weight of each unit, over all that it feeds.

    Args:
        link: the units.
        kernels: the next kernels, in the order of `link.next_kernels`.

    Returns:
        A vector of shape (units,).

    Examples:
        >>> link = Link(("kernel",), 0, None, (1,), 2)
        >>> print(outgoing_strength(link, [jnp.array([[1.0, -3.0], [0.0, 1.0]])]))
        [2.  0.5]
    """
    sums = []
    for kernel in kernels:
        other_axes = (*range(kernel.ndim - 2), kernel.ndim - 1)
        rows = jnp.sum(jnp.abs(kernel), axis=other_axes)
        sums.append(jnp.sum(rows.reshape(-1, link.units), axis=0))  # as they were flattened
    each = sum(kernel.size for kernel in kernels) // link.units
    return sum(sums[1:], start=sums[0]) / max(each, 1)


def unit_tree(params: Any, links: Sequence[Link], vectors: Sequence[jax.Array]) -> Any:
    """Puts what is kept for units in the place of their kernels.

    A state of this form mirrors the parameters, as optax's tools for states expect it.

    Args:
        params: the parameters.
        links: what `find_links` gives.
        vectors: an array for each link.

    Returns:
        A pytree that mirrors `params`, with arrays of no entries for all other leaves.

    Examples:
        >>> layer = lambda rows, columns: {"kernel": jnp.ones((rows, columns))}
        >>> params = {"Dense_0": layer(4, 2), "Dense_1": layer(2, 3)}
        >>> unit_tree(params, find_links(params), [jnp.ones(2)])["Dense_0"]["kernel"].shape
        (2,)
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    kept = {link.kernel: vector for link, vector in zip(links, vectors, strict=True)}
    return treedef.unflatten([kept.get(i, jnp.zeros(0)) for i in range(len(leaves))])


def of_units(params: Any, links: Sequence[Link], tree: Any) -> list[jax.Array]:
    """What `unit_tree` was given.

    Examples:
        >>> layer = lambda rows, columns: {"kernel": jnp.ones((rows, columns))}
        >>> params = {"Dense_0": layer(4, 2), "Dense_1": layer(2, 3)}
        >>> links = find_links(params)
        >>> of_units(params, links, unit_tree(params, links, [jnp.ones(2)]))
        [Array([1., 1.], dtype=float32)]
    """
    treedef: Any = jax.tree.structure(params)
    leaves = treedef.flatten_up_to(tree)
    return [leaves[link.kernel] for link in links]
