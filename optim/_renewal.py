"""How hidden units are renewed, in the parameters and in an optimizer's state."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._events import change_if
from optim._leaves import working_dtype
from optim._paths import Path, leaf_paths
from optim._units import Link

Initializer = Literal["xavier_uniform", "he_uniform", "lecun_uniform", "torch_uniform"]


def check_initializer(name: str) -> None:
    """Refuses an initialiser that is not known.

    Raises:
        ValueError: if it is not one of `Initializer`.
    """
    if name not in get_args(Initializer):
        choices = ", ".join(get_args(Initializer))
        raise ValueError(f"initializer must be one of {choices}, got {name!r}.")


def draw_kernel(key: jax.Array, shape: Sequence[int], dtype: Any, initializer: str) -> jax.Array:
    r"""Draws a kernel uniformly within a bound b.

    With :math:`n_\text{in}` and :math:`n_\text{out}` the inputs and outputs of a unit, all
    positions of a convolution counted: :math:`b = \sqrt{6 / (n_\text{in} + n_\text{out})}` for
    "xavier_uniform", :math:`\sqrt{6 / n_\text{in}}` for "he_uniform",
    :math:`\sqrt{3 / n_\text{in}}` for "lecun_uniform" and :math:`\sqrt{1 / n_\text{in}}` for
    "torch_uniform".

    Args:
        key: random key.
        shape: of the kernel.
        dtype: of the kernel.
        initializer: the name.

    Returns:
        The kernel.

    Examples:
        >>> kernel = draw_kernel(jax.random.key(0), (4, 3), jnp.float32, "torch_uniform")
        >>> print(jnp.all(jnp.abs(kernel) <= 0.5))
        True
    """
    fan_in = math.prod(shape[:-1])
    fan_out = math.prod(shape[:-2]) * shape[-1]
    bound = {
        "xavier_uniform": math.sqrt(6 / max(fan_in + fan_out, 1)),
        "he_uniform": math.sqrt(6 / max(fan_in, 1)),
        "lecun_uniform": math.sqrt(3 / max(fan_in, 1)),
        "torch_uniform": math.sqrt(1 / max(fan_in, 1)),
    }[initializer]
    return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)


class Renewal(NamedTuple):
    """How the units of a link are renewed.

    Attributes:
        renews_bias_state: whether the inner state of biases is put back too.
        in_turn: whether the weights from one renewed unit into another one are drawn, because
            layers are renewed one after the other from the first; otherwise they are 0.
    """

    renews_bias_state: bool
    in_turn: bool


def renew(
    inner: optax.GradientTransformation,
    renewal: Renewal,
    initializer: str,
    links: Sequence[Link],
    units: Sequence[jax.Array],
    params: Any,
    updates: Any,
    inner_state: Any,
    key: jax.Array,
) -> tuple[Any, Any]:
    """Renews units: incoming weights drawn anew, biases and outgoing weights 0.

    Where the inner optimizer's state mirrors the parameters, that is where the names on the way to
    a leaf end in those of a parameter and the shape ends in its shape, the entries of renewed
    weights are put to what `inner.init` gives for the new parameters. Where the shape has a 1 for
    an axis of the parameter, an entry stands for all along that axis, and is put back where all of
    these are. Other entries, and what does not mirror the parameters, such as a step count, are not
    touched.

    Args:
        inner: the inner optimizer.
        renewal: how.
        initializer: of the incoming weights, see `draw_kernel`.
        links: what `find_links` gives.
        units: for each link a Boolean vector, true for the units to be renewed.
        params: the parameters before the update.
        updates: updates of the inner optimizer.
        inner_state: its state after the update.
        key: random key of this update.

    Returns:
        The updates that lead to the renewed parameters, and the inner state.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    steps: list[Any] = treedef.flatten_up_to(updates)
    wide = [leaf.astype(working_dtype(leaf)) for leaf in leaves]
    new = [leaf + step.astype(leaf.dtype) for leaf, step in zip(wide, steps, strict=True)]
    of_params: dict[int, jax.Array] = {}
    of_state: dict[int, jax.Array] = {}

    def put(place: int, mask: jax.Array, value: Any, has_state: bool = True) -> None:
        new[place] = jnp.where(mask, value, new[place])
        for masks in (of_params, of_state) if has_state else (of_params,):
            masks[place] = masks[place] | mask if place in masks else mask

    def incoming(i: int, link: Link, mask: jax.Array) -> None:
        kernel = wide[link.kernel]
        drawn = draw_kernel(jax.random.fold_in(key, i), kernel.shape, kernel.dtype, initializer)
        columns = mask.reshape((1,) * (kernel.ndim - 1) + mask.shape)
        put(link.kernel, jnp.broadcast_to(columns, kernel.shape), drawn)
        if link.bias is not None:
            put(link.bias, mask, 0, renewal.renews_bias_state)

    def outgoing(_: int, link: Link, mask: jax.Array) -> None:
        for place in link.next_kernels:
            kernel = wide[place]
            put(place, jnp.broadcast_to(_rows(mask, kernel), kernel.shape), 0)

    jobs = [(incoming, *job) for job in zip(itertools.count(), links, units, strict=False)]
    last = [(outgoing, *job) for job in zip(itertools.count(), links, units, strict=False)]
    pairs = zip(jobs, last, strict=True)
    for act, i, link, mask in itertools.chain(*pairs) if renewal.in_turn else [*jobs, *last]:
        act(i, link, mask)
    for place, mask in of_params.items():
        step = steps[place]
        steps[place] = jnp.where(mask, (new[place] - wide[place]).astype(step.dtype), step)
    renewed = treedef.unflatten(
        [leaf.astype(old.dtype) for leaf, old in zip(new, leaves, strict=True)]
    )
    paths = leaf_paths(params)
    masks = {paths[place]: mask for place, mask in of_state.items()}
    inner_state = _with_entries_of(inner_state, inner.init(renewed), paths, masks)
    return treedef.unflatten(steps), inner_state


def _rows(mask: jax.Array, kernel: jax.Array) -> jax.Array:
    """A mask or other vector of units along the rows of a next kernel.

    Flax flattens a convolution's output with the channels last: they are repeated as a whole.
    """
    rows = jnp.tile(mask, kernel.shape[-2] // mask.size)
    return rows.reshape((1,) * (kernel.ndim - 2) + (-1, 1))


def _with_entries_of(
    state: Any, other: Any, paths: Sequence[Path], masks: Mapping[Path, jax.Array]
) -> Any:
    """An optimizer's state, with entries of another one where the masks of parameters are true."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(state)
    mixed = []
    for path, old, new in zip(leaf_paths(state), leaves, jax.tree.leaves(other), strict=True):
        # The longest of several, which a network within another one may have.
        ends = [x for x in (path[i:] for i in range(len(path))) if x in paths]
        mask = masks.get(ends[0]) if ends else None
        if mask is not None and old.ndim >= mask.ndim:
            shape = old.shape[old.ndim - mask.ndim :]
            shared = tuple(i for i, size in enumerate(shape) if size == 1 != mask.shape[i])
            mask = jnp.all(mask, axis=shared, keepdims=True)
            if shape == mask.shape:
                mask = mask.reshape((1,) * (old.ndim - mask.ndim) + mask.shape)
                mask = jnp.broadcast_to(mask, old.shape)
                old = jnp.where(mask, new.astype(old.dtype), old)
        mixed.append(old)
    return treedef.unflatten(mixed)


def renew_dormant(
    inner: optax.GradientTransformation,
    renewal: Renewal,
    initializer: str,
    links: Sequence[Link],
    scores: Sequence[jax.Array],
    tau: Any,
    due: jax.Array,
    params: Any,
    updates: Any,
    inner_state: Any,
    key: jax.Array,
) -> tuple[Any, Any]:
    """Renews, if it is due, the units whose scores are at most a threshold. See `renew`.

    Args:
        inner: the inner optimizer.
        renewal: how.
        initializer: of the incoming weights.
        links: what `find_links` gives.
        scores: for each link a vector.
        tau: the threshold.
        due: a Boolean.
        params: the parameters before the update.
        updates: updates of the inner optimizer.
        inner_state: its state after the update.
        key: random key of this update.

    Returns:
        Updates and inner state.
    """
    dormant = [due & (score <= jnp.asarray(tau, score.dtype)) for score in scores]
    return change_if(
        due,
        lambda old: renew(inner, renewal, initializer, links, dormant, params, *old, key),
        (updates, inner_state),
    )
