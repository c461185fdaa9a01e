"""What the optimizers read off the names in a tree of parameters, as a table."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim._kernels import kernel_axes
from optim._paths import is_actor, layer_positions, leaf_paths, match_leaves, networks

_HEAD = ("leaf", "shape", "network", "layer", "noise", "matrix")


def explain(
    params: optax.Params,
    *,
    layer_proportion: Any = None,
    noise_mask: bool | Any = None,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = True,
) -> str:
    """Tells how the optimizers see a tree: its networks, layers, noise and matrices.

    A transformation of optax cannot be asked what it will do with a tree. What ours read off its
    names, and off the masks that they are given, can be told from these alone: give the arguments
    that you give to the optimizers.

    Args:
        params: the parameters, or shapes as of `jax.eval_shape`.
        layer_proportion: as `OPEN.transform` takes it.
        noise_mask: the same.
        matrix_mask: as `adamo` takes it.
        ensemble_axes: the same.
        heads: the same.

    Returns:
        A table with a line for each trained leaf: its path, without levels of flax's own; its
        shape; its network, which `clip_by_network_norm` clips on its own; where its layer stands
        in it, as OPEN and `learned_correction` are told; the factor of OPEN's noise, `-` for none;
        and whether AdamO constrains it as a matrix. Below, what may not be meant.

    Raises:
        ValueError: if a mask does not match the parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> network = lambda units: {
        ...     "Dense_0": {"kernel": jnp.ones((4, 8))},
        ...     "Dense_1": {"kernel": jnp.ones((8, units))},
        ... }
        >>> params = {"actor": {"params": network(2)}, "critic": {"params": network(1)}}
        >>> print(explain(params, matrix_mask={"actor": False, "critic": True}))
        leaf                   shape   network  layer  noise  matrix
        actor/Dense_0/kernel   (4, 8)  actor    0      1      -
        actor/Dense_1/kernel   (8, 2)  actor    1      1      -
        critic/Dense_0/kernel  (4, 8)  critic   0      -      yes
        critic/Dense_1/kernel  (8, 1)  critic   1      -      yes
    """
    params = jax.tree.map(lambda leaf: leaf if _is_trained(leaf) else None, params)
    paths = leaf_paths(params)
    if layer_proportion is None:
        positions: list[Any] = list(layer_positions(paths))
    else:
        positions = match_leaves("layer_proportion", layer_proportion, paths)
    if noise_mask is None:
        factors: list[Any] = [float(is_actor(path)) for path in paths]
    else:
        factors = match_leaves("noise_mask", noise_mask, paths)
    owners = ["/".join(network) or "(all)" for network in networks(paths)]
    matrices = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
    rows = [
        (
            "/".join(path) or "(the only one)",
            str(leaf.shape),
            owner,
            f"{float(position):.3g}",
            f"{float(factor):.3g}" if factor else "-",
            "-" if axes is None else "yes",
        )
        for path, leaf, owner, position, factor, axes in zip(
            paths, jax.tree.leaves(params), owners, positions, factors, matrices, strict=True
        )
    ]
    return "\n".join([*_aligned([_HEAD, *rows]), *_doubts(owners, factors, noise_mask)])


def _is_trained(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _doubts(owners: list[str], factors: list[Any], noise_mask: Any) -> list[str]:
    doubts = []
    if noise_mask is None and factors and not any(factors):
        doubts.append(
            "No leaf gets OPEN's noise: no top-level entry is called actor or policy. Say with "
            "noise_mask= which leaves are the actor's."
        )
    if set(owners) == {"(all)"}:
        doubts.append(
            "All leaves are one network: clipped together, layers counted through. Put networks "
            "below entries of their own, as actor and critic."
        )
    return doubts
