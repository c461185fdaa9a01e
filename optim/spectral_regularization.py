"""Spectral regularisation: a penalty that keeps the largest singular values of layers near one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params, check_range, static_integer
from optim._kernels import as_matrices, kernel_axes, kernels_of_biases, matrix_product
from optim._leaves import norm, widest_dtype, working_dtype
from optim._penalty import with_gradient, with_penalty
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


class SpectralRegularizationState(NamedTuple):
    """State of `spectral_regularization`."""

    # For each selected kernel, one vector with an entry for each output, for each member.
    vectors: optax.Params
    inner_state: optax.OptState


@on_trained_leaves
def spectral_regularization(
    inner: optax.GradientTransformation,
    strength: jax.typing.ArrayLike = 1e-3,
    exponent: int = 2,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Pulls the largest singular value of each layer to one, by a term of an optimizer's gradient.

    To the loss comes, for each selected kernel :math:`W` with largest singular value
    :math:`\sigma` and singular vectors :math:`u, v`, and for the bias :math:`b` beside it,

    .. math::

      \lambda (\sigma^k - 1)^2 + \lambda \|b\|^{2k}, \qquad
      g_W \leftarrow g_W + 2 k \lambda\, (\sigma^k - 1)\, \sigma^{k-1} u v^\top, \qquad
      g_b \leftarrow g_b + 2 k \lambda\, \|b\|^{2k - 2} b

    The vectors are kept in the state and improved by one power iteration at every update,

    .. math::

      u \leftarrow W v / \|W v\|, \qquad v \leftarrow W^\top u / \|W^\top u\|, \qquad
      \sigma = u^\top W v

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(3e-4)`.
        strength: :math:`\lambda`, at least 0. With 0, this is the inner optimizer.
        exponent: :math:`k`, a static integer of at least 1.
        matrix_mask: booleans that select the kernels: a pytree that mirrors the parameters or is a
            prefix of them, matched by names, or a function from parameters to one. `None` selects
            all, but see `heads`. Convolution kernels of flax are read as matrices of shape
            (height * width * inputs, outputs).
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. `None` is 0.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too. Layers
            are ordered by their names; networks are the entries at the top of a tree of three or
            more levels.

    Returns:
        The optimizer. `update` needs the parameters; extra arguments go to the inner optimizer, and
        `value`, `grad`, `value_fn` and `obj_fn` are those of the loss with the penalty, with the
        vectors held fixed.

    Raises:
        ValueError: if a number is outside its range; from `init` or `update`, if a selected kernel
            is complex or `ensemble_axes` is traced or negative; from `update`, if `params` is
            missing or an extra argument is given that cannot be changed with the loss.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = spectral_regularization(optax.sgd(1.0), strength=1.0)
        >>> params = jnp.diag(jnp.array([2.0, 1.0]))
        >>> state = optimizer.init(params)
        >>> for _ in range(20):
        ...     updates, state = optimizer.update(0 * params, state, params)
        >>> print(jnp.diag(updates).round(2))
        [-24.  -0.]

    References:
        Lewandowski et al., `Learning Continually by Spectral Regularization
        <https://arxiv.org/abs/2406.06811>`_, ICLR 2025, arXiv 2406.06811.

    .. note::
      The paper could not be read in full: the penalty is as others give it, and neither its
      exponent nor a strength for reinforcement learning is known here. The defaults are this
      project's. What the paper does with scales and offsets of normalisation layers is not known
      either; they are left alone, as are biases without a selected kernel.

    .. note::
      From the vectors at the start, which are drawn from one key for all seeds, a few iterations
      give too small a singular value: a quarter too small after the first, 1 % after twenty.

    .. note::
      Where a term overflows it is dropped.

    .. note::
      The penalty is meant as part of the loss, before the gradient is clipped. Where a learner
      clips gradients before the optimizer, as the PPO of this project does, only the gradient of
      the loss is clipped.
    """
    check_range("strength", strength, 0.0)
    exponent = static_integer("exponent", exponent, 1)
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> SpectralRegularizationState:
        treedef: Any = jax.tree.structure(params)
        axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
        vectors = [
            jnp.zeros(0) if number is None else _first_vectors(leaf, number, place)
            for place, (leaf, number) in enumerate(zip(jax.tree.leaves(params), axes, strict=True))
        ]
        return SpectralRegularizationState(treedef.unflatten(vectors), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: SpectralRegularizationState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SpectralRegularizationState]:
        check_params("spectral regularisation", params)
        treedef: Any = jax.tree.structure(params)
        axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
        is_chosen = [
            number is not None or owner is not None
            for number, owner in zip(axes, kernels_of_biases(params, axes), strict=True)
        ]

        def chosen(params: Any) -> list[jax.Array | None]:
            leaves = zip(jax.tree.leaves(params), is_chosen, strict=True)
            return [leaf.astype(working_dtype(leaf)) if one else None for leaf, one in leaves]

        leaves = chosen(params)
        right = jax.tree.leaves(state.vectors)
        left: list[Any] = [None] * len(right)
        terms: list[Any] = [None] * len(right)
        for i, (leaf, number) in enumerate(zip(leaves, axes, strict=True)):
            if leaf is None:
                continue
            weight = jnp.asarray(2 * exponent * strength, leaf.dtype)
            if number is None:
                sizes = jnp.sum(jnp.square(leaf), axis=-1, keepdims=True)
                sizes = jnp.where(_is_small(sizes, exponent), sizes, 0)
                terms[i] = jnp.where(sizes > 0, weight * sizes ** (exponent - 1) * leaf, 0)
            else:
                found = _power_iteration(leaf, right[i], number, weight, exponent)
                left[i], right[i], terms[i] = found

        def penalty(leaves: Sequence[jax.Array | None]) -> jax.Array:
            dtype = widest_dtype(leaves)
            total = jnp.zeros([], dtype)
            for leaf, number, u, v in zip(leaves, axes, left, right, strict=True):
                if leaf is None:
                    continue
                if number is None:
                    sizes = jnp.sum(jnp.square(leaf), axis=-1)
                    addends = jnp.where(_is_small(sizes, exponent), sizes, 0) ** exponent
                else:
                    sigmas = _singular_values(u, leaf, v, number)
                    sigmas = jnp.where(_is_small(sigmas, 2 * exponent), sigmas, 1)
                    addends = jnp.square(sigmas**exponent - 1)
                total += jnp.sum(addends).astype(dtype)
            return jnp.asarray(strength, dtype) * total

        extra_args = with_penalty(
            extra_args, params, lambda at: penalty(chosen(at)), terms, "spectral regularisation"
        )
        updates, inner_state = inner.update(
            with_gradient(updates, terms), state.inner_state, params, **extra_args
        )
        return updates, SpectralRegularizationState(treedef.unflatten(right), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _first_vectors(kernel: Any, axes: int, place: int) -> jax.Array:
    """Random ones of length 1; `kernel` may be a shape alone."""
    key = jax.random.fold_in(jax.random.PRNGKey(0), place)
    shape = (*kernel.shape[:axes], kernel.shape[-1])
    vectors = jax.random.normal(key, shape, working_dtype(kernel))
    return vectors / norm(vectors, (-1,))


def _power_iteration(
    kernel: jax.Array,
    vectors: jax.Array,
    axes: int,
    weight: jax.Array,
    exponent: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One improvement of the singular vectors, and the gradient of the penalty.

    Args:
        kernel: the kernel.
        vectors: right singular vectors so far, one for each member.
        axes: number of leading axes that index members.
        weight: twice the exponent times the strength.
        exponent: k.

    Returns:
        The left singular vectors, one row for each member; the right ones in their shape; and the
        gradient, like the kernel.
    """

    def of_member(
        matrix: jax.Array, v: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        u = _unit(matrix_product(matrix, v), jnp.zeros_like(matrix[:, 0]))
        rows = matrix_product(u, matrix)
        v = _unit(rows, v)
        sigma = jnp.sum(rows * v)  # u^T W v, without a third product
        sigma = jnp.where(_is_small(sigma, 2 * exponent), sigma, 1)
        slope = weight * (sigma**exponent - 1) * sigma ** (exponent - 1)
        return u, v, jnp.outer(u, slope * v)

    def whole(
        kernel: jax.Array, vectors: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        matrices = as_matrices(kernel, axes)
        flat = vectors.reshape(-1, vectors.shape[-1])
        left, right, terms = jax.vmap(of_member, (0, 0, None))(matrices, flat, weight)
        return left, right.reshape(vectors.shape), terms.reshape(kernel.shape)

    # With shardings in the types, products of sharded matrices are ambiguous: leave those to XLA.
    if jax.sharding.get_abstract_mesh().explicit_axes:
        shardings = (jax.P(), jax.typeof(vectors).sharding, jax.typeof(kernel).sharding)
        whole = jax.sharding.auto_axes(whole, out_sharding=shardings)
    return whole(kernel, vectors, weight)


def _singular_values(left: jax.Array, kernel: jax.Array, right: jax.Array, axes: int) -> jax.Array:
    """For each member, u^T W v."""

    def whole(left: jax.Array, kernel: jax.Array, right: jax.Array) -> jax.Array:
        rows = jax.vmap(matrix_product)(left, as_matrices(kernel, axes))
        return jnp.sum(rows * right.reshape(rows.shape), axis=-1)

    if jax.sharding.get_abstract_mesh().explicit_axes:
        whole = jax.sharding.auto_axes(whole, out_sharding=jax.P())
    return whole(left, kernel, right)


def _unit(vector: jax.Array, otherwise: jax.Array) -> jax.Array:
    """The vector at length 1, or another in its place if it has no length or an infinite one."""
    length = norm(vector)
    has_length = (length > 0) & jnp.isfinite(length)
    return jnp.where(has_length, vector / jnp.where(has_length, length, 1), otherwise)


def _is_small(numbers: jax.Array, power: int) -> jax.Array:
    """Whether their powers are finite."""
    return numbers < jnp.asarray(float(jnp.finfo(numbers.dtype).max) ** (1 / power), numbers.dtype)
