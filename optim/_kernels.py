"""Which leaves are kernels, as flax lays them out, and arithmetic of kernels as matrices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optim._checks import static_integer
from optim._leaves import working_dtype
from optim._paths import Path, layer_positions, leaf_paths, match_tree


def kernel_axes(
    params: Any, matrix_mask: Any = None, ensemble_axes: Any = None, *, heads: bool = True
) -> list[int | None]:
    """Chooses the kernels among the leaves: those with two or more axes that are selected.

    Args:
        params: the parameters.
        matrix_mask: booleans that select leaves, see `optim._paths.match_tree`. `None` selects all
            kernels, but see `heads`.
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. `None` is 0.
        heads: whether `None` also selects the last kernel of each network, where it has several.
            Networks and the order of their layers are those of `optim._paths.layer_positions`.

    Returns:
        For each leaf, in flatten order, its number of ensemble axes, or None if it is no selected
        kernel.

    Raises:
        ValueError: if a mask does not mirror the parameters, `ensemble_axes` is no integer of at
            least 0, or a selected kernel is complex.

    Examples:
        >>> layer = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
        >>> kernel_axes({"Dense_0": layer, "Dense_1": layer}, heads=False)
        [None, 0, None, None]
    """
    leaves, paths = jax.tree.leaves(params), _paths(params)
    mask = match_tree("matrix_mask", True if matrix_mask is None else matrix_mask, params)
    given = match_tree("ensemble_axes", 0 if ensemble_axes is None else ensemble_axes, params)
    axes = [static_integer("ensemble_axes", number, 0) for number in jax.tree.leaves(given)]
    is_kernel = [
        jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.ndim - number >= 2 and leaf.size > 0
        for leaf, number in zip(leaves, axes, strict=True)
    ]
    if matrix_mask is None and not heads:
        kernels = [i for i, kernel in enumerate(is_kernel) if kernel]
        positions = layer_positions([paths[i] for i in kernels])
        for i, position in zip(kernels, positions, strict=True):
            is_kernel[i] = position < 1
    found = [
        number if kernel and selected else None
        for number, kernel, selected in zip(axes, is_kernel, jax.tree.leaves(mask), strict=True)
    ]
    for leaf, number in zip(leaves, found, strict=True):
        if number is not None:
            working_dtype(leaf)
    return found


def kernels_of_biases(params: Any, axes: Sequence[int | None]) -> list[int | None]:
    """Finds the kernel beside each bias: the only one of its layer.

    Args:
        params: the parameters.
        axes: what `kernel_axes` gives.

    Returns:
        For each leaf, in flatten order, the place of its kernel among the leaves; None if it is
        no bias of one axis, beside the ensemble's, or has no selected kernel or several.

    Examples:
        >>> layer = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
        >>> kernels_of_biases({"Dense_0": layer, "log_std": jnp.ones(2)}, [None, 0, None])
        [1, None, None]
    """
    leaves, paths = jax.tree.leaves(params), _paths(params)
    owners: dict[Path, list[int]] = {}
    for i, path in enumerate(paths):
        if axes[i] is not None:
            owners.setdefault(path[:-1], []).append(i)

    def owner(leaf: Any, path: Path) -> int | None:
        found = owners.get(path[:-1], [])
        if path[-1:] != ("bias",) or len(found) != 1:
            return None
        (kernel,) = found
        number = axes[kernel]
        return kernel if number is not None and leaf.ndim == number + 1 else None

    return [owner(leaf, path) for leaf, path in zip(leaves, paths, strict=True)]


def on_matrices(
    function: Callable[[jax.Array], jax.Array], axes: int, kernel: jax.Array
) -> jax.Array:
    """Applies a function of a matrix to a kernel, member by member.

    Convolution kernels of flax, (height, width, inputs, outputs), are matrices of shape
    (height * width * inputs, outputs).

    Args:
        function: from a matrix to one of its shape.
        axes: number of leading axes that index members.
        kernel: the kernel.

    Returns:
        What the function gives, in the shape of the kernel.

    Examples:
        >>> print(on_matrices(lambda matrix: matrix @ matrix, 1, jnp.ones((1, 2, 2))))
        [[[2. 2.]
          [2. 2.]]]
    """

    def whole(kernel: jax.Array) -> jax.Array:
        mapped = function
        for _ in range(axes):
            mapped = jax.vmap(mapped)
        matrices = kernel.reshape((*kernel.shape[:axes], -1, kernel.shape[-1]))
        return mapped(matrices).reshape(kernel.shape)

    # With shardings in the types, products of sharded matrices are ambiguous: leave those to XLA.
    if jax.sharding.get_abstract_mesh().explicit_axes:
        whole = jax.sharding.auto_axes(whole, out_sharding=jax.typeof(kernel).sharding)
    return whole(kernel)


def _paths(params: Any) -> list[Path]:
    """Like `leaf_paths`, without the level below its name that a variable of flax nnx has."""
    return [
        path[:-1] if path[-1:] == ("value",) and path[-2:-1] in (("kernel",), ("bias",)) else path
        for path in leaf_paths(params)
    ]
