"""Which leaves are kernels, as flax lays them out, and arithmetic of kernels as matrices."""

import math
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
    leaves, paths = jax.tree.leaves(params), leaf_paths(params)
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
    leaves, paths = jax.tree.leaves(params), leaf_paths(params)
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


def as_matrices(kernel: jax.Array, axes: int) -> jax.Array:
    """A kernel as matrices, one for each member, on one leading axis.

    Convolution kernels of flax, (height, width, inputs, outputs), are matrices of shape
    (height * width * inputs, outputs).

    Args:
        kernel: the kernel.
        axes: number of leading axes that index members.

    Returns:
        The matrices.

    Examples:
        >>> print(as_matrices(jnp.ones((2, 3, 4, 5)), 1).shape)
        (2, 12, 5)
    """
    members = math.prod(kernel.shape[:axes])
    return kernel.reshape(members, -1, kernel.shape[-1])


def on_matrices(
    function: Callable[[jax.Array], jax.Array], axes: int, kernel: jax.Array
) -> jax.Array:
    """Applies a function of a matrix to a kernel, member by member, see `as_matrices`.

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
        return jax.vmap(function)(as_matrices(kernel, axes)).reshape(kernel.shape)

    # With shardings in the types, products of sharded matrices are ambiguous: leave those to XLA.
    if jax.sharding.get_abstract_mesh().explicit_axes:
        whole = jax.sharding.auto_axes(whole, out_sharding=jax.typeof(kernel).sharding)
    return whole(kernel)


def sum_over_matrices(
    function: Callable[[jax.Array], jax.Array], axes: int, kernel: jax.Array
) -> jax.Array:
    """The sum of a function of a matrix over the members of a kernel, see `as_matrices`.

    Args:
        function: from a matrix to a number.
        axes: number of leading axes that index members.
        kernel: the kernel.

    Returns:
        The sum.

    Examples:
        >>> print(sum_over_matrices(jnp.trace, 1, jnp.ones((3, 2, 2))))
        6.0
    """

    def total(kernel: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(function)(as_matrices(kernel, axes)))

    if jax.sharding.get_abstract_mesh().explicit_axes:
        total = jax.sharding.auto_axes(total, out_sharding=jax.P())
    return total(kernel)


def small_gram(matrix: jax.Array, scale: jax.typing.ArrayLike = 1.0) -> tuple[jax.Array, bool]:
    """The smaller Gram matrix of a matrix, minus a multiple of the identity.

    Args:
        matrix: W, with r rows and c columns.
        scale: the multiple s.

    Returns:
        W W^T - s I and True if r < c, else W^T W - s I and False.

    Examples:
        >>> gram, is_wide = small_gram(jnp.array([[3.0, 4.0]]))
        >>> print(gram, is_wide)
        [[24.]] True
    """
    rows, columns = matrix.shape
    is_wide = rows < columns
    scaled = jnp.asarray(scale, matrix.dtype) * jnp.eye(min(rows, columns), dtype=matrix.dtype)
    # Full precision: near orthogonality the Gram matrix minus I would be rounding error otherwise.
    product = matrix_product(matrix, matrix.T) if is_wide else matrix_product(matrix.T, matrix)
    return product - scaled, is_wide


def orthogonality_residual(matrix: jax.Array, scale: jax.typing.ArrayLike = 1.0) -> jax.Array:
    """W (W^T W - s I), which is (W W^T - s I) W, by the smaller Gram matrix.

    Args:
        matrix: W.
        scale: s.

    Returns:
        A matrix of the same shape; zero where W is the root of s times an orthogonal matrix.

    Examples:
        >>> print(orthogonality_residual(jnp.diag(jnp.array([1.0, 2.0])), 2.0))
        [[-1.  0.]
         [ 0.  4.]]
    """
    gram, is_wide = small_gram(matrix, scale)
    return matrix_product(gram, matrix) if is_wide else matrix_product(matrix, gram)


def matrix_product(first: jax.Array, second: jax.Array) -> jax.Array:
    """The product of two matrices in full precision, also where an accelerator has less.

    Args:
        first: the left factor, a matrix or a vector.
        second: the right one, likewise.

    Returns:
        The product.

    Examples:
        >>> print(matrix_product(jnp.ones((1, 2)), jnp.ones((2, 1))))
        [[2.]]
    """
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)
