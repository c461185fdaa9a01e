"""EXAdam: Adam with moments that correct each other and with the gradient itself in the step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range
from optim._leaves import average, average_of_squares, bias_correction, safe_sqrt, working_zeros
from optim._paths import as_mask
from optim._trained import on_trained_leaves


class ScaleByExadamState(NamedTuple):
    """State of `scale_by_exadam`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32
    nu: optax.Updates  # like params, at least float32


@on_trained_leaves
def scale_by_exadam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as EXAdam does, without the learning rate.

    See `exadam` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to denominators, greater than 0.

    Returns:
        The transformation.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_exadam()
        >>> params = jnp.ones(2)
        >>> grads = jnp.array([1.0, 0.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates.round(1))
        [16.  0.]

    References:
        Adly, `EXAdam: The Power of Adaptive Cross-Moments <https://arxiv.org/abs/2412.20302>`_,
        2024, arXiv 2412.20302.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)

    def init_fn(params: optax.Params) -> ScaleByExadamState:
        return ScaleByExadamState(
            jnp.zeros([], jnp.int32), working_zeros(params), working_zeros(params)
        )

    def direction(grad: Any, mu: Any, nu: Any, *, count: jax.Array) -> Any:
        dtype = mu.dtype
        correction1, correction2 = (bias_correction(rate, count, dtype) for rate in (b1, b2))
        small = jnp.asarray(eps, dtype)
        # x / (x + eps) as 1 - eps / (x + eps), which is 1 and not NaN where x overflows.
        d1 = 1 + (1 - small / (nu + small)) * (1 - correction2)
        d2 = 1 + (1 - small / (mu * mu + small)) * (1 - correction1)
        numerator = (mu + grad.astype(dtype)) / correction1 * d1
        return (numerator / (safe_sqrt(nu / correction2 * d2) + small)).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByExadamState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByExadamState]:
        del params, extra_args
        count = optax.safe_increment(state.count)
        mu = average(b1, state.mu, updates)
        nu = average_of_squares(b2, state.nu, updates)
        step = functools.partial(direction, count=count)
        return jax.tree.map(step, updates, mu, nu), ScaleByExadamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def exadam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The EXAdam optimizer.

    With Adam's uncorrected moments :math:`m, v` after :math:`t` steps,

    .. math::

      \begin{align*}
        d_1 &= 1 + \frac{v}{v + \varepsilon} \beta_2^t, \qquad
        d_2 = 1 + \frac{m^2}{m^2 + \varepsilon} \beta_1^t \\
        \tilde{m} &= \frac{m}{1 - \beta_1^t} d_1, \qquad
        \tilde{v} = \frac{v}{1 - \beta_2^t} d_2, \qquad
        \tilde{g} = \frac{g}{1 - \beta_1^t} d_1 \\
        w &\leftarrow (1 - \alpha \lambda)\, w
          - \alpha\, \frac{\tilde{m} + \tilde{g}}{\sqrt{\tilde{v}} + \varepsilon}
      \end{align*}

    Args:
        learning_rate: step size, greater than 0, or a schedule. **The steps are twice as long as
            Adam's**, at the beginning up to 16 times: take half of Adam's learning rate or less.
            The author suggests 5e-4 for RL.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to denominators, greater than 0.
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
        >>> optimizer = exadam(learning_rate=0.05)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.2)
        True

    References:
        Adly, `EXAdam: The Power of Adaptive Cross-Moments <https://arxiv.org/abs/2412.20302>`_,
        2024, arXiv 2412.20302.

    .. note::
      This is the rule of the author's present code. The first version of the paper and the code
      multiplied the learning rate by :math:`\ln(\sqrt{2} \sqrt{t + 1})`, dropped in April 2025.

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
        scale_by_exadam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        optax.scale_by_learning_rate(learning_rate),
    )
