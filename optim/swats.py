"""SWATS: begins as Adam and switches to SGD, whose learning rate it estimates from Adam's steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range
from optim._leaves import (
    at_count,
    bias_correction,
    inner_product,
    safe_sqrt,
    widest_dtype,
    working_zeros,
)
from optim._trained import on_trained_leaves


class ScaleBySwatsState(NamedTuple):
    """State of `scale_by_swats`. Both learning rates are relative to Adam's."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32: Adam's first moment, later SGD's trace
    nu: optax.Updates  # like params, at least float32: constant after the switch
    rate_average: jax.Array  # shape=(), the dtype of the widest leaf, at least float32
    sgd_rate: jax.Array  # shape=(), the dtype of rate_average: 0 before the switch


@on_trained_leaves
def scale_by_swats(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-9,
    tolerance: jax.typing.ArrayLike = 1e-9,
    learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as SWATS does, without the learning rate.

    See `swats` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, and SGD's momentum, in [0, 1).
        b2: decay rate of the second moment and of the average of SGD's learning rate, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        tolerance: largest difference at the switch, at least 0. With 0 there is none.
        learning_rate: by what the estimates are multiplied before `tolerance` is applied to them.

    Returns:
        The transformation, to be followed by the learning rate.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_swats(tolerance=1e-3)
        >>> params = jnp.ones(2)
        >>> state = direction.init(params)
        >>> for _ in range(3):  # A steady gradient makes it switch at the second step.
        ...     updates, state = direction.update(jnp.array([1.0, 3.0]), state, params)
        ...     print(updates.round(3), state.sgd_rate.round(3))
        [1. 1.] 0.0
        [1. 1.] 0.5
        [0.05 0.15] 0.5

    References:
        Keskar and Socher, `Improving Generalization Performance by Switching from Adam to SGD
        <https://arxiv.org/abs/1712.07628>`_, 2017, arXiv 1712.07628, algorithm 1.
    """
    check_learning_rate(learning_rate)
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)
    check_range("tolerance", tolerance, 0.0)

    def init_fn(params: optax.Params) -> ScaleBySwatsState:
        dtype = widest_dtype(params)
        return ScaleBySwatsState(
            count=jnp.zeros([], jnp.int32),
            mu=working_zeros(params),
            nu=working_zeros(params),
            rate_average=jnp.zeros([], dtype),
            sgd_rate=jnp.zeros([], dtype),
        )

    def first_moment(grad: Any, mu: Any, *, switched: jax.Array) -> Any:
        decay, g = jnp.asarray(b1, mu.dtype), grad.astype(mu.dtype)
        return decay * mu + jnp.where(switched, 1, 1 - decay) * g

    def second_moment(grad: Any, nu: Any, *, switched: jax.Array) -> Any:
        decay, g = jnp.asarray(b2, nu.dtype), grad.astype(nu.dtype)
        return jnp.where(switched, nu, decay * nu + (1 - decay) * g * g)

    def adam_direction(mu: Any, nu: Any, *, count: jax.Array) -> Any:
        dtype = mu.dtype
        correction = jnp.sqrt(bias_correction(b2, count, dtype)) / bias_correction(b1, count, dtype)
        return correction * mu / (safe_sqrt(nu) + jnp.asarray(eps, dtype))

    def direction(grad: Any, mu: Any, adam_step: Any, *, sgd_rate: jax.Array) -> Any:
        rate = sgd_rate.astype(mu.dtype)
        sgd_step = (1 - jnp.asarray(b1, mu.dtype)) * rate * mu
        return jnp.where(rate > 0, sgd_step, adam_step).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleBySwatsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySwatsState]:
        del params, extra_args
        dtype = state.rate_average.dtype
        rate = jnp.asarray(at_count(learning_rate, state.count), dtype)
        count = optax.safe_increment(state.count)
        switched = state.sgd_rate > 0
        mu = jax.tree.map(functools.partial(first_moment, switched=switched), updates, state.mu)
        nu = jax.tree.map(functools.partial(second_moment, switched=switched), updates, state.nu)
        adam_steps = jax.tree.map(functools.partial(adam_direction, count=count), mu, nu)

        # The rate of the SGD step whose projection on Adam's is that step.
        estimate, is_valid = _ratio(
            inner_product(adam_steps, adam_steps, dtype),
            inner_product(adam_steps, updates, dtype),
        )
        decay = jnp.asarray(b2, dtype)
        rate_average = decay * state.rate_average + (1 - decay) * estimate
        rate_average = jnp.where(is_valid & ~switched, rate_average, state.rate_average)
        corrected = rate_average / bias_correction(b2, count, dtype)
        agrees = rate * jnp.abs(corrected - estimate) < jnp.asarray(tolerance, dtype)
        switches = ~switched & is_valid & agrees & (count > 1) & (corrected > 0) & (rate > 0)

        step = functools.partial(direction, sgd_rate=state.sgd_rate)
        updates = jax.tree.map(step, updates, mu, adam_steps)
        mu = jax.tree.map(lambda leaf: jnp.where(switches, 0, leaf), mu)
        sgd_rate = jnp.where(switches, corrected, state.sgd_rate)
        return updates, ScaleBySwatsState(count, mu, nu, rate_average, sgd_rate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def swats(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-9,
    tolerance: jax.typing.ArrayLike = 1e-9,
) -> optax.GradientTransformationExtraArgs:
    r"""The SWATS optimizer: Adam, then SGD with momentum.

    Let :math:`g` be the gradient of all parameters as one vector, :math:`m, v` Adam's uncorrected
    moments after :math:`t` steps. Until the switch,

    .. math::

      \begin{align*}
        p &= -\alpha\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
          \frac{m}{\sqrt{v} + \varepsilon}, \qquad w \leftarrow w + p \\
        \gamma &= \frac{p^\top p}{-p^\top g}, \qquad
        \lambda \leftarrow \beta_2 \lambda + (1 - \beta_2)\, \gamma
          \qquad \text{if } p^\top g \ne 0 \\
        \Lambda &= \lambda / (1 - \beta_2^t) \qquad
          \text{if } t > 1 \text{ and } |\lambda / (1 - \beta_2^t) - \gamma| < \epsilon
      \end{align*}

    and with :math:`\Lambda` the switch is made, once and for all parameters. After it, with
    :math:`b = 0` at first,

    .. math:: b \leftarrow \beta_1 b + g, \qquad w \leftarrow w - (1 - \beta_1)\, \Lambda\, b.

    Args:
        learning_rate: Adam's step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, and SGD's momentum, in [0, 1).
        b2: decay rate of the second moment and of the average :math:`\lambda`, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        tolerance: largest difference :math:`\epsilon` at the switch, at least 0. With 0 there is
            none, and SWATS is Adam with `eps` added to the root of the uncorrected second moment.

    Returns:
        The optimizer. Its updates have the dtype of the gradients; extra arguments are ignored.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = swats(learning_rate=0.1, b2=0.9, tolerance=0.01)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.1, state[0].sgd_rate > 0)
        True True

    References:
        Keskar and Socher, `Improving Generalization Performance by Switching from Adam to SGD
        <https://arxiv.org/abs/1712.07628>`_, 2017, arXiv 1712.07628, algorithm 1.

    .. note::
      The tolerance is absolute, while the estimates scale with the learning rate and with the
      inverse of the gradient: the same value switches at once on one task and never on another.
      The paper's 1e-9 is below the resolution of float32 for estimates above 0.01 or so, which
      then have to agree to the last bit. Look at `sgd_rate` in the state.

    .. note::
      The estimate may be negative, when momentum goes uphill. A switch to a negative rate is
      refused here, as are estimates that overflow; the paper is silent.

    .. note::
      The paper's learning rate is constant and is gone after the switch. Here the estimates are
      relative to the learning rate of the step, which multiplies SGD's steps too: for a constant
      this is the paper's rule, and a schedule goes on acting after the switch.

    .. note::
      Moments, estimates and steps are computed in float32 at least. After the switch the first
      moment's memory holds SGD's trace. The seeds of a `vmap` switch each at its own time.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_swats(b1=b1, b2=b2, eps=eps, tolerance=tolerance, learning_rate=learning_rate),
        optax.scale_by_learning_rate(learning_rate),
    )


def _ratio(numerator: jax.Array, denominator: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The ratio, or 0 where it does not exist, and whether it does."""
    ratio = numerator / jnp.where(denominator != 0, denominator, 1)
    is_valid = (denominator != 0) & jnp.isfinite(ratio)
    return jnp.where(is_valid, ratio, 0), is_valid
