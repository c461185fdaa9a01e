"""SANIA: Polyak's step size on a diagonal preconditioner that does not change under scaling."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range, missing
from optim._leaves import (
    average_of_squares,
    bias_correction,
    inner_product,
    safe_sqrt,
    widest_dtype,
    working_zeros,
)
from optim._trained import on_trained_leaves

Preconditioner = Literal["adam", "adagrad"]


class ScaleBySaniaState(NamedTuple):
    """State of `scale_by_sania`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    nu: optax.Updates  # like params, at least float32: average, or sum, of squared gradients


@on_trained_leaves
def scale_by_sania(
    preconditioner: Preconditioner = "adam",
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.1,
    f_min: jax.typing.ArrayLike = 0.0,
    square_root: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates as SANIA does: its whole step, with the opposite sign.

    See `sania` for the equations, the arguments and the notes.

    Args:
        preconditioner: `"adam"` averages squared gradients, `"adagrad"` sums them.
        b2: decay rate of the average, in [0, 1); unused by `"adagrad"`.
        eps: smallest entry of the preconditioner, greater than 0.
        f_min: smallest value that the loss can take, finite.
        square_root: whether to divide by the root of the preconditioner.

    Returns:
        The transformation. `update` needs the loss, `value`.

    Raises:
        ValueError: if `preconditioner` is unknown or a number is outside its range; from
            `update`, if `value` is missing or a gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_sania()
        >>> grads = jnp.array([1.0, 2.0])
        >>> state = direction.init(grads)
        >>> print(direction.update(grads, state, value=0.75)[0])
        [0.5  0.25]

    References:
        Abdukhakimov et al., `SANIA: Polyak-type Optimization Framework Leads to Scale Invariant
        Stochastic Algorithms <https://arxiv.org/abs/2312.17369>`_, 2023, arXiv 2312.17369.
    """
    if preconditioner not in get_args(Preconditioner):
        raise ValueError(
            f"preconditioner must be one of {', '.join(get_args(Preconditioner))}, got "
            f"{preconditioner!r}."
        )
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)
    check_range("f_min", f_min, -jnp.inf, open_low=True)

    def init_fn(params: optax.Params) -> ScaleBySaniaState:
        return ScaleBySaniaState(count=jnp.zeros([], jnp.int32), nu=working_zeros(params))

    def update_fn(
        updates: optax.Updates,
        state: ScaleBySaniaState,
        params: optax.Params | None = None,
        *,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySaniaState]:
        del params, extra_args
        if value is None:
            raise missing("sania", "value", "the loss at the parameters")
        count = optax.safe_increment(state.count)

        def direction(g: jax.Array, v: jax.Array) -> jax.Array:
            if preconditioner == "adam":
                v = v / bias_correction(b2, count, v.dtype)
            v = jnp.maximum(v, jnp.asarray(eps, v.dtype))
            return g.astype(v.dtype) / (jnp.sqrt(v) if square_root else v)

        if preconditioner == "adagrad":
            nu = jax.tree.map(lambda v, g: v + jnp.square(g.astype(v.dtype)), state.nu, updates)
        else:
            nu = average_of_squares(b2, state.nu, updates)
        directions = jax.tree.map(direction, updates, nu)
        n = inner_product(updates, directions, widest_dtype(updates))
        step = _step_size(value, f_min, n)
        directions = jax.tree.map(
            lambda g, d: (step.astype(d.dtype) * d).astype(g.dtype), updates, directions
        )
        return directions, ScaleBySaniaState(count, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def sania(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    preconditioner: Preconditioner = "adam",
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.1,
    f_min: jax.typing.ArrayLike = 0.0,
    square_root: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""The SANIA optimizer in its forms AdamSQR and AdagradSQR.

    Each step solves for where the loss, on a quadratic model with the preconditioner :math:`B` as
    its Hessian, reaches its smallest value. For the loss :math:`f` and its gradient :math:`g`,

    .. math::

      \begin{align*}
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g^2, \quad B = \max(v / (1 - \beta_2^t),\,
          \varepsilon) && \text{(AdamSQR)} \\
        v &\leftarrow v + g^2, \quad B = \max(v,\, \varepsilon) && \text{(AdagradSQR)} \\
        d &= g / B, \qquad n = \langle g, d \rangle, \qquad
          \rho = 2\, (f - f_{\min}) / n \\
        \lambda &= 1 - \sqrt{1 - \rho} \ \text{ if } \rho \le 1, \text{ else } 1, \qquad
        \theta \leftarrow \theta - \alpha\, \lambda\, d
      \end{align*}

    with one inner product :math:`n` over all parameters. With `square_root`,
    :math:`d = g / \sqrt{B}`.

    Dividing by :math:`B` and not by its root is what makes the step follow any scaling of the
    parameters. There is no momentum.

    `update` takes the loss from the extra argument `value`: the loss, a scalar, at the
    parameters and on the batch from which the gradient comes.

    Args:
        learning_rate: factor of every step, greater than 0, or a schedule. The authors have none,
            which is 1.
        preconditioner: `"adam"` averages squared gradients, `"adagrad"` sums them.
        b2: decay rate of the average, in [0, 1); unused by `"adagrad"`.
        eps: smallest entry of the preconditioner, greater than 0.
        f_min: smallest value that the loss can take, finite. The authors assume 0.
        square_root: whether to divide by the root of the preconditioner. Must not be traced.

    Returns:
        The optimizer. `update` needs `value` and ignores other extra arguments.

    Raises:
        ValueError: if `preconditioner` is unknown or a number is outside its range; from
            `update`, if `value` is missing or a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(params**2)
        >>> optimizer = sania(square_root=True)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     value, grads = jax.value_and_grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params, value=value)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 0.1)
        True

    References:
        Abdukhakimov et al., `SANIA: Polyak-type Optimization Framework Leads to Scale Invariant
        Stochastic Algorithms <https://arxiv.org/abs/2312.17369>`_, 2023, arXiv 2312.17369.

    .. note::
      The step rests on the smallest possible loss. The losses of policies have none that is known
      and are often negative: set `f_min` below all of them, or use SANIA for critics only. At or
      below `f_min` the step is 0; the authors' formula would go uphill there.

    .. note::
      :math:`1 - \sqrt{1 - \rho}` is computed as :math:`\rho / (1 + \sqrt{1 - \rho})`, which keeps
      its digits where :math:`\rho` is small.

    .. note::
      Scale invariance ends where `eps` sets in. The authors' default of 0.1 is far above the
      squared gradients of most networks.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_sania(
            preconditioner=preconditioner,
            b2=b2,
            eps=eps,
            f_min=f_min,
            square_root=square_root,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _step_size(value: jax.typing.ArrayLike, f_min: jax.typing.ArrayLike, n: jax.Array) -> jax.Array:
    gap = jnp.maximum(jnp.asarray(value, n.dtype) - jnp.asarray(f_min, n.dtype), 0)
    inside = (n > 0) & (2 * gap <= n)
    # The inner selection keeps unused branches finite.
    rho = jnp.where(inside, 2 * gap / jnp.where(inside, n, 1), 0)
    return jnp.where(inside, rho / (1 + safe_sqrt(1 - rho)), 1)
