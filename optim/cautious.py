"""Cautious updates: only the entries of an update that go down the present gradient are taken."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range, check_real
from optim._paths import as_mask
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Scale = Literal["mean", "paper"]


@on_trained_leaves
def cautious(
    inner: optax.GradientTransformation, scale: Scale = "mean"
) -> optax.GradientTransformationExtraArgs:
    r"""Drops the entries of an optimizer's update that go up the present gradient.

    With :math:`u` the update of one tensor by the inner optimizer, negative for descent, :math:`g`
    the gradient that this wrapper is given and :math:`d` the number of entries of the tensor,

    .. math::

      \begin{align*}
        \phi &= \mathbb{1}[u \odot g < 0] \\
        u &\leftarrow u \odot \phi / \max(\bar\phi, 10^{-3}) && \text{scale "mean"} \\
        u &\leftarrow u \odot \phi \cdot d / (\textstyle\sum\phi + 1) && \text{scale "paper"}
      \end{align*}

    where :math:`\bar\phi` is the share of the entries that are kept. The scale makes up for the
    entries dropped. An entry whose gradient is zero is dropped.

    Args:
        inner: a whole optimizer, learning rate included, but without weight decay: decay belongs
            outside, as in `cautious_adamw`.
        scale: "mean" is what the authors' code has now; "paper" is what their paper has. They
            differ where tensors are small or few entries are kept.

    Returns:
        The optimizer. Its state is the inner one's, its updates have the dtype of the inner one's.

    Raises:
        ValueError: if `scale` is unknown; from `update`, if a gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = cautious(optax.sgd(0.1, momentum=0.9))
        >>> params = jnp.zeros(4)
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update(jnp.ones(4), state, params)
        >>> updates, _ = optimizer.update(jnp.array([1.0, 1.0, -0.5, -0.5]), state, params)
        >>> print(updates.round(2))  # The momentum goes up the last two gradients.
        [-0.38 -0.38  0.    0.  ]

    References:
        Liang et al., `Cautious Optimizers: Improving Training with One Line of Code
        <https://arxiv.org/abs/2411.16085>`_, 2024, arXiv 2411.16085.

    .. note::
      A tensor is a leaf of the tree. Members of an ensemble on a leading axis share one scale,
      unless the optimizer is vmapped over that axis.

    .. note::
      The gradient is the one given to this wrapper. Clip before it, not inside.
    """
    return _masked_by_sign(inner, scale, descent=-1)


@on_trained_leaves
def scale_by_cautious_adam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    scale: Scale = "mean",
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as cautious Adam does, without learning rate and weight decay.

    See `cautious_adamw` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        scale: what makes up for the entries dropped, "mean" or "paper", see `cautious`.
        eps_root: added to the denominator inside the root, at least 0.

    Returns:
        The transformation. Its state is Adam's, `optax.ScaleByAdamState`.

    Raises:
        ValueError: if a number is outside its range or `scale` is unknown; from `update`, if a
            gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_cautious_adam()
        >>> params = jnp.zeros(3)
        >>> updates, _ = direction.update(jnp.array([2.0, 0.0, -3.0]), direction.init(params))
        >>> print(updates.round(2))
        [ 1.5  0.  -1.5]

    References:
        Liang et al., `Cautious Optimizers: Improving Training with One Line of Code
        <https://arxiv.org/abs/2411.16085>`_, 2024, arXiv 2411.16085, algorithm 2.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("eps_root", eps_root, 0.0)
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return _masked_by_sign(adam, scale, descent=1)


@on_trained_leaves
def cautious_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: jax.typing.ArrayLike = 0.0,
    scale: Scale = "mean",
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW that takes only the entries of Adam's step that go down the present gradient.

    For every tensor :math:`\theta` with gradient :math:`g`, Adam's corrected moments
    :math:`\hat m, \hat v`, learning rate :math:`\alpha` and weight decay :math:`\lambda`,

    .. math::

      \begin{align*}
        u &= \hat{m} / (\sqrt{\hat{v} + \bar{\varepsilon}} + \varepsilon) \\
        \phi &= \mathbb{1}[u \odot g > 0] \\
        \theta &\leftarrow \theta
          - \alpha\, (u \odot \phi / \max(\bar\phi, 10^{-3}) + \lambda \theta)
      \end{align*}

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1). With 0 and no zero gradients, this is AdamW.
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: strength of the decoupled weight decay, at least 0; it is not masked by sign.
        scale: what makes up for the entries dropped, "mean" or "paper", see `cautious`.
        mask: booleans that select the decayed leaves: a pytree that mirrors the parameters or is a
            prefix of them, or a function from parameters to one. `None` selects all.
        eps_root: added to the denominator inside the root, at least 0.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range or `scale` is unknown; from `update`, if a
            gradient is complex or `params` is missing.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = cautious_adamw(learning_rate=0.1)
        >>> params = jnp.array([1.0, 2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(2))
        [0.51 1.5 ]

    References:
        Liang et al., `Cautious Optimizers: Improving Training with One Line of Code
        <https://arxiv.org/abs/2411.16085>`_, 2024, arXiv 2411.16085, algorithm 2.

    .. note::
      `eps` is added after the correction of the moments, as in Adam. The authors' code for single
      tensors adds it before: at step t its `eps` is larger by the factor
      :math:`1/\sqrt{1-\beta_2^t}`.

    .. note::
      In the newest revision of the authors' code that was read, the default path masks the
      momentum by its own sign, which keeps everything. This is the algorithm of the paper.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_cautious_adam(b1=b1, b2=b2, eps=eps, scale=scale, eps_root=eps_root),
        with_standard_promotion(optax.add_decayed_weights(weight_decay, as_mask("mask", mask))),
        optax.scale_by_learning_rate(learning_rate),
    )


def _masked_by_sign(
    inner: optax.GradientTransformation, scale: Scale, *, descent: int
) -> optax.GradientTransformationExtraArgs:
    """Keeps the entries for which `descent` is the sign of update times gradient."""
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {scale!r}.")
    inner = with_standard_promotion(inner)

    def keep(update: jax.Array, grad: jax.Array) -> jax.Array:
        # Signs instead of the product, which underflows where both factors are small.
        ascent = update * descent
        kept = ((ascent > 0) & (grad > 0)) | ((ascent < 0) & (grad < 0))
        # Half precision cannot count the entries of a large tensor.
        dtype = jnp.float32 if update.dtype.itemsize < 4 else update.dtype
        size, count = jnp.asarray(max(kept.size, 1), dtype), jnp.sum(kept, dtype=dtype)
        factor = 1 / jnp.maximum(count / size, 1e-3) if scale == "mean" else size / (count + 1)
        scaled = (update.astype(dtype) * factor).astype(update.dtype)
        return jnp.where(kept | jnp.isnan(update), scaled, 0)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        check_real("cautious", updates)
        inner_updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(keep, inner_updates, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
