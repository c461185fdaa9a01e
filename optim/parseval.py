"""Parseval regularisation: a penalty that keeps matrices near multiples of orthogonal ones."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params, check_range
from optim._kernels import (
    kernel_axes,
    on_matrices,
    orthogonality_residual,
    small_gram,
    sum_over_matrices,
)
from optim._leaves import widest_dtype, working_dtype
from optim._penalty import with_gradient, with_penalty
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


@on_trained_leaves
def parseval(
    inner: optax.GradientTransformation,
    strength: jax.typing.ArrayLike = 1e-3,
    scale: jax.typing.ArrayLike = 2.0,
    reference_width: jax.typing.ArrayLike | None = 64.0,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Pulls weight matrices to multiples of orthogonal ones, by a term of an optimizer's gradient.

    To the loss comes, for each selected kernel :math:`W` with :math:`c` columns, one for each
    output,

    .. math::

      \lambda \Big(\frac{w}{c}\Big)^2 \|W^\top W - s I\|_F^2, \qquad
      g \leftarrow g + 4 \lambda \Big(\frac{w}{c}\Big)^2\, W (W^\top W - s I)

    with :math:`\lambda` the strength, :math:`s` the scale and :math:`w` the width at which the
    strength is meant as it is. The inner optimizer is given that gradient.

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(3e-4)`.
        strength: :math:`\lambda`, at least 0. With 0, this is the inner optimizer. The authors use
            1e-3 or 1e-4.
        scale: :math:`s`, greater than 0, the square of the gain of an orthogonal initialisation: 2
            is that of the hidden layers of the authors' PPO and of this project's.
        reference_width: :math:`w`, greater than 0; `None` for a factor of 1.
        matrix_mask: booleans that select the kernels: a pytree that mirrors the parameters or is a
            prefix of them, matched by names, or a function from parameters to one. `None` selects
            all but the heads, see `heads`. Convolution kernels of flax are read as matrices of
            shape (height * width * inputs, outputs).
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. `None` is 0.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too. Layers
            are ordered by their names; networks are the entries at the top of a tree of three or
            more levels.

    Returns:
        The optimizer. Its state is the inner one's. `update` needs the parameters; extra arguments
        go to the inner optimizer, and `value`, `grad`, `value_fn` and `obj_fn` are those of the
        loss with the penalty.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing, a
            selected kernel is complex, `ensemble_axes` is traced or negative, or an extra argument
            is given that cannot be changed with the loss.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = parseval(optax.sgd(1.0), strength=1.0, reference_width=None)
        >>> params = jnp.diag(jnp.array([1.0, 2.0]))
        >>> updates, _ = optimizer.update(0 * params, optimizer.init(params), params)
        >>> print(updates)
        [[  4.  -0.]
         [ -0. -16.]]

    References:
        Chung et al., `Parseval Regularization for Continual Reinforcement Learning
        <https://arxiv.org/abs/2412.07224>`_, NeurIPS 2024, arXiv 2412.07224.

    .. note::
      Where a matrix has more columns than rows, the penalty is worked out from :math:`W W^\top`,
      which is smaller: the gradient is the same, and the value that the inner optimizer is told is
      less by the constant that no weights can remove.

    .. note::
      The penalty is of the fourth degree: with plain gradient descent of learning rate
      :math:`\alpha` it oscillates unless :math:`\alpha \lambda (w / c)^2 < 1 / (4 s)`. Where its
      gradient overflows it is dropped.

    .. note::
      In the source the penalty is part of the loss, before the gradient is clipped. Where a learner
      clips gradients before the optimizer, as the PPO of this project does, only the gradient of
      the loss is clipped.

    .. note::
      The authors' options to normalise columns first, to penalise groups of outputs apart and to
      add layers of learnable scales are not offered.
    """
    check_range("strength", strength, 0.0)
    check_range("scale", scale, 0.0, open_low=True)
    if reference_width is not None:
        check_range("reference_width", reference_width, 0.0, open_low=True)
    inner = with_standard_promotion(inner)

    def chosen(params: Any) -> Iterable[tuple[jax.Array, int | None]]:
        axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
        return zip(jax.tree.leaves(params), axes, strict=True)

    def factor(kernel: jax.Array) -> jax.Array:
        dtype = working_dtype(kernel)
        if reference_width is None:
            return jnp.asarray(strength, dtype)
        ratio = jnp.asarray(reference_width, dtype) / kernel.shape[-1]
        return jnp.asarray(strength, dtype) * jnp.square(ratio)

    def wide(kernel: jax.Array) -> jax.Array:
        return kernel.astype(working_dtype(kernel))

    def gradient(kernel: jax.Array, axes: int) -> jax.Array:
        def residual(matrix: jax.Array) -> jax.Array:
            found = orthogonality_residual(matrix, scale)
            return jnp.where(jnp.all(jnp.isfinite(found)), found, 0)

        return 4 * factor(kernel) * on_matrices(residual, axes, wide(kernel))

    def value(params: Any) -> jax.Array:
        square = lambda w: jnp.sum(jnp.square(small_gram(w, scale)[0]))  # noqa: E731
        values = [
            factor(kernel) * sum_over_matrices(square, number, wide(kernel))
            for kernel, number in chosen(params)
            if number is not None
        ]
        dtype = widest_dtype(values)
        return sum((value.astype(dtype) for value in values), start=jnp.zeros([], dtype))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        check_params("Parseval regularisation", params)
        terms = [
            None if number is None else gradient(kernel, number)
            for kernel, number in chosen(params)
        ]
        extra_args = with_penalty(extra_args, params, value, terms, "Parseval regularisation")
        return inner.update(with_gradient(updates, terms), state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
