"""AdaMod: Adam whose step sizes may not exceed their own long-term average."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range
from optim._leaves import (
    at_count,
    average,
    average_of_squares,
    bias_correction,
    safe_sqrt,
    working_zeros,
)
from optim._paths import as_mask
from optim._trained import on_trained_leaves


class ScaleByAdamodState(NamedTuple):
    """State of `scale_by_adamod`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32
    nu: optax.Updates  # like params, at least float32
    step_size: optax.Updates  # like params, at least float32; the learning rate is a factor of it


@on_trained_leaves
def scale_by_adamod(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as AdaMod does, without the learning rate.

    See `adamod` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        b3: decay rate of the step sizes, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        learning_rate: what the step sizes are multiplied by as they are averaged, and the direction
            is divided by. A constant cancels; a schedule has to be given here too, for its past
            values are in the average.

    Returns:
        The transformation, to be followed by the learning rate.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adamod(b3=0.9)
        >>> params = jnp.ones(2)
        >>> grads = jnp.array([0.01, 100.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates.round(3))  # Adam's would be 1 and 1.
        [0.1 0.1]

    References:
        Ding et al., `An Adaptive and Momental Bound Method for Stochastic Learning
        <https://arxiv.org/abs/1910.12249>`_, 2019, arXiv 1910.12249.
    """
    check_learning_rate(learning_rate)
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("b3", b3, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)

    def init_fn(params: optax.Params) -> ScaleByAdamodState:
        return ScaleByAdamodState(
            jnp.zeros([], jnp.int32),
            working_zeros(params),
            working_zeros(params),
            working_zeros(params),
        )

    def raw_step_size(nu: Any, *, count: jax.Array) -> Any:
        dtype = nu.dtype
        correction = jnp.sqrt(bias_correction(b2, count, dtype)) / bias_correction(b1, count, dtype)
        return correction / (safe_sqrt(nu) + jnp.asarray(eps, dtype))

    def direction(grad: Any, mu: Any, raw: Any, bound: Any, *, rate: Any) -> Any:
        rate = jnp.asarray(rate, mu.dtype)
        # A learning rate of zero, which schedules may end at, makes any direction do.
        bound = jnp.where(rate > 0, bound / jnp.where(rate > 0, rate, 1), raw)
        return (jnp.minimum(raw, bound) * mu).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdamodState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdamodState]:
        del params, extra_args
        rate = at_count(learning_rate, state.count)
        count = optax.safe_increment(state.count)
        mu = average(b1, state.mu, updates)
        nu = average_of_squares(b2, state.nu, updates)
        raw = jax.tree.map(functools.partial(raw_step_size, count=count), nu)
        scaled = jax.tree.map(lambda leaf: jnp.asarray(rate, leaf.dtype) * leaf, raw)
        step_size = average(b3, state.step_size, scaled)
        step = functools.partial(direction, rate=rate)
        updates = jax.tree.map(step, updates, mu, raw, step_size)
        return updates, ScaleByAdamodState(count, mu, nu, step_size)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def adamod(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The AdaMod optimizer, which begins with small steps and bounds unusually large ones.

    With Adam's uncorrected moments :math:`m, v` after :math:`t` steps,

    .. math::

      \begin{align*}
        r &= \frac{\alpha_t}{\sqrt{v} + \varepsilon} \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \\
        s &\leftarrow \beta_3 s + (1 - \beta_3)\, r \\
        w &\leftarrow (1 - \alpha_t \lambda)\, w - \min(r, s) \odot m
      \end{align*}

    The average :math:`s` begins at zero and is not corrected: AdaMod warms up by itself, over some
    :math:`1 / (1 - \beta_3)` steps.

    Args:
        learning_rate: step size, greater than 0, or a schedule. The authors' is 1e-3.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        b3: decay rate of the step sizes, in [0, 1). With 0, AdaMod is AdamW with `eps` added to the
            root of the uncorrected second moment.
        eps: added to the denominator outside the root, greater than 0.
        weight_decay: decoupled weight decay, at least 0, multiplied by the learning rate.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing; if a
            parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = adamod(learning_rate=0.1, b3=0.9)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.2)
        True

    References:
        Ding et al., `An Adaptive and Momental Bound Method for Stochastic Learning
        <https://arxiv.org/abs/1910.12249>`_, 2019, arXiv 1910.12249.

    .. note::
      The learning rate is inside the average, so the bound follows a schedule late: after a drop of
      the learning rate it does not bind for about `1 / (1 - b3)` steps. This is kept here, also
      under `optax.inject_hyperparams`.

    .. note::
      The authors' code has `b3=0.999`; its documentation says 0.9999.

    .. note::
      Moments and steps are computed in float32 at least. Under `optax.inject_hyperparams`,
      name `mask` in `static_args` if it is a function.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_adamod(b1=b1, b2=b2, b3=b3, eps=eps, learning_rate=learning_rate),
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        optax.scale_by_learning_rate(learning_rate),
    )
