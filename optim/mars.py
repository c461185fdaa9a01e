"""MARS: AdamW on a variance-reduced, clipped gradient."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range, missing
from optim._leaves import (
    average,
    average_of_squares,
    bias_correction,
    norm,
    safe_sqrt,
    working_dtype,
    working_zeros,
)
from optim._trained import on_trained_leaves


class ScaleByMarsState(NamedTuple):
    """State of `scale_by_mars`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    mu: optax.Updates  # like params, at least float32: first moment
    nu: optax.Updates  # like mu: second moment
    previous: optax.Updates  # like params: last step's gradients, or parameters where exact


@on_trained_leaves
def scale_by_mars(
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    gamma: jax.typing.ArrayLike = 0.025,
    b1_1d: jax.typing.ArrayLike = 0.9,
    b2_1d: jax.typing.ArrayLike = 0.95,
    optimize_1d: bool = False,
    exact: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates as MARS does, without weight decay and learning rate.

    See `mars` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the first moment of matrices, in [0, 1).
        b2: decay rate of the second moment of matrices, in [0, 1).
        eps: added to the denominator, at least 0.
        gamma: strength of the variance reduction, at least 0.
        b1_1d: decay rate of the first moment of all other leaves, in [0, 1).
        b2_1d: decay rate of the second moment of all other leaves, in [0, 1).
        optimize_1d: whether all leaves are treated as matrices are.
        exact: whether the gradient is compared with that of the same batch at the last parameters.

    Returns:
        The transformation. If exact, `update` needs the parameters, and `previous_gradient` or
        `obj_fn`.

    Raises:
        ValueError: if a number is outside its range; from `update`, if a gradient is complex or an
            argument is missing.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_mars()
        >>> params = jnp.ones((2, 2))
        >>> updates, state = direction.update(0.1 * params, direction.init(params))
        >>> print(updates.round(3))
        [[1. 1.]
         [1. 1.]]

    References:
        Yuan et al., `MARS: Unleashing the Power of Variance Reduction for Training Large Models
        <https://arxiv.org/abs/2411.10438>`_, 2024, arXiv 2411.10438.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("gamma", gamma, 0.0)
    check_range("b1_1d", b1_1d, 0.0, 1.0)
    check_range("b2_1d", b2_1d, 0.0, 1.0)

    def is_matrix(leaf: Any) -> bool:
        return optimize_1d or leaf.ndim == 2

    def corrected(g: jax.Array, previous: jax.Array) -> jax.Array:
        """The variance-reduced and clipped gradient, in float32 at least."""
        dtype = working_dtype(g)
        if not is_matrix(g):
            return g.astype(dtype)
        decay = jnp.asarray(b1, dtype)
        strength = jnp.asarray(gamma, dtype) * decay / (1 - decay)
        g, previous = g.astype(dtype), previous.astype(dtype)
        return _clip_norm(g + strength * (g - previous))

    def first_moment(m: jax.Array, c: jax.Array) -> jax.Array:
        return average(b1 if is_matrix(m) else b1_1d, m, c)

    def second_moment(v: jax.Array, c: jax.Array) -> jax.Array:
        return average_of_squares(b2 if is_matrix(v) else b2_1d, v, c)

    def direction(g: jax.Array, m: jax.Array, v: jax.Array, *, count: jax.Array) -> jax.Array:
        dtype = m.dtype
        m_hat = m / bias_correction(b1 if is_matrix(m) else b1_1d, count, dtype)
        v_hat = v / bias_correction(b2 if is_matrix(v) else b2_1d, count, dtype)
        return (m_hat / (safe_sqrt(v_hat) + jnp.asarray(eps, dtype))).astype(g.dtype)

    def init_fn(params: optax.Params) -> ScaleByMarsState:
        return ScaleByMarsState(
            count=jnp.zeros([], jnp.int32),
            mu=working_zeros(params),
            nu=working_zeros(params),
            previous=jax.tree.map(jnp.zeros_like, params),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByMarsState,
        params: optax.Params | None = None,
        *,
        obj_fn: Callable[[optax.Params], jax.Array] | None = None,
        previous_gradient: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByMarsState]:
        del extra_args
        last, previous = state.previous, updates
        if exact:
            check_params("mars", params)
            last, previous = previous_gradient, params
            first = state.count == 0
            if last is None:
                if obj_fn is None:
                    raise missing(
                        "mars",
                        "obj_fn",
                        "the loss as a function of the parameters, or previous_gradient the "
                        "gradient at the last step's parameters, since exact=True,",
                    )
                at = jax.tree.map(
                    lambda old, new: jnp.where(first, new, old), state.previous, params
                )
                last = jax.grad(obj_fn)(at)
            last = jax.tree.map(
                lambda old, g: jnp.where(first, g, old.astype(g.dtype)), last, updates
            )
        count = optax.safe_increment(state.count)
        gradients = jax.tree.map(corrected, updates, last)
        mu = jax.tree.map(first_moment, state.mu, gradients)
        nu = jax.tree.map(second_moment, state.nu, gradients)
        directions = jax.tree.map(functools.partial(direction, count=count), updates, mu, nu)
        # A copy, since the caller may donate the buffers of parameters and state.
        kept = jax.tree.map(lambda old, new: jnp.array(new, old.dtype), state.previous, previous)
        return directions, ScaleByMarsState(count, mu, nu, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def mars(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    gamma: jax.typing.ArrayLike = 0.025,
    weight_decay: jax.typing.ArrayLike = 0.0,
    b1_1d: jax.typing.ArrayLike = 0.9,
    b2_1d: jax.typing.ArrayLike = 0.95,
    weight_decay_1d: jax.typing.ArrayLike = 0.1,
    optimize_1d: bool = False,
    exact: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""The MARS optimizer in its AdamW form.

    MARS corrects each gradient by how it changed since the last step, clips it, and gives it to
    AdamW. For every matrix with gradient :math:`g_t`,

    .. math::

      \begin{align*}
        c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - \tilde{g}_{t-1}), \qquad
        c_t \leftarrow c_t / \max(\|c_t\|_F, 1) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, c_t, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, c_t^2 \\
        \theta &\leftarrow \theta - \alpha \left(
          \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon}
          + \lambda \theta \right)
      \end{align*}

    In the approximate form :math:`\tilde{g}_{t-1}` is the last step's gradient, 0 in the first
    step. In the exact form it is the gradient at the last step's parameters on the present batch:
    `update` takes it as the extra argument `previous_gradient`, a pytree like the gradients, or
    computes it from `obj_fn`, a function from parameters to the loss on the present batch, for
    the cost of one more gradient.

    All leaves but matrices take plain AdamW steps with decay rates of their own. The authors'
    learning rate is 3e-3.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment of matrices, in [0, 1).
        b2: decay rate of the second moment of matrices, in [0, 1).
        eps: added to the denominator, at least 0.
        gamma: strength of the variance reduction, at least 0. With 0, MARS is AdamW on clipped
            gradients.
        weight_decay: strength of the decoupled weight decay of matrices, at least 0.
        b1_1d: decay rate of the first moment of all other leaves, in [0, 1).
        b2_1d: decay rate of the second moment of all other leaves, in [0, 1).
        weight_decay_1d: strength of the decoupled weight decay of all other leaves, at least 0.
        optimize_1d: whether all leaves are treated as matrices are. Must not be traced.
        exact: whether to use the exact form. Must not be traced.

    Returns:
        The optimizer. `update` needs the parameters, and in the exact form `previous_gradient` or
        `obj_fn`; it ignores other extra arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if a gradient is complex or an
            argument is missing.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(params["kernel"] ** 2) + jnp.sum(params["bias"] ** 2)
        >>> optimizer = mars(learning_rate=0.1, exact=True)
        >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params, obj_fn=loss)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params["kernel"].round(2), params["bias"].round(2))
        [[0.5 0.5]
         [0.5 0.5]] [0.47 0.47]

    References:
        Yuan et al., `MARS: Unleashing the Power of Variance Reduction for Training Large Models
        <https://arxiv.org/abs/2411.10438>`_, 2024, arXiv 2411.10438.

    .. note::
      As in the authors' code, a matrix is a leaf with exactly two axes: the kernels of convolutions
      and the stacked matrices of an ensemble are not, unless `optimize_1d` is set. Their default
      decays all such leaves, biases included, by `weight_decay_1d=0.1`.

    .. note::
      The authors give the other leaves a learning rate of their own, with the same default; here
      all share one. Use `optax.partition` for two.

    .. note::
      In the first step of the exact form nothing is corrected. Clipping that comes first in a chain
      reaches the gradient but not the one computed from `obj_fn`, and a correction of the
      difference would be wrong: leave it out. Under `optax.masked` or `optax.partition`
      the parameters have holes that `obj_fn` does not expect: pass `previous_gradient` there,
      with `mask_compatible_extra_args=True`.

    .. note::
      The forms for Lion and Shampoo are not offered.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    check_range("weight_decay_1d", weight_decay_1d, 0.0)

    def mask(matrix: bool) -> Callable[[optax.Params], Any]:
        return lambda params: jax.tree.map(
            lambda leaf: (optimize_1d or leaf.ndim == 2) == matrix, params
        )

    return optax.chain(
        scale_by_mars(
            b1=b1,
            b2=b2,
            eps=eps,
            gamma=gamma,
            b1_1d=b1_1d,
            b2_1d=b2_1d,
            optimize_1d=optimize_1d,
            exact=exact,
        ),
        optax.add_decayed_weights(weight_decay, mask(True)),
        optax.add_decayed_weights(weight_decay_1d, mask(False)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _clip_norm(x: jax.Array) -> jax.Array:
    """Scales a leaf to a Frobenius norm of at most 1; squares of large entries do not overflow."""
    # What it is divided by cancels out of the value, and so out of the derivative.
    size = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(x), initial=0), 1))
    unit = x / size
    unit_norm = norm(unit)
    is_long = size * unit_norm > 1
    return jnp.where(is_long, unit / jnp.where(is_long, unit_norm, 1), x)
