"""Periodic resets of an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_period, check_range
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


class ResetState(NamedTuple):
    """State of `reset_state`."""

    # Updates since the last reset; shape=(), dtype=int32.
    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


@on_trained_leaves
def reset_state(
    inner: optax.GradientTransformation, period: int | jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Puts the state of an optimizer back to its beginning, time and again.

    With :math:`s` the state of the inner optimizer, :math:`\theta` the parameters, :math:`g` the
    gradient and :math:`n` the number of updates since the last reset,

    .. math::

      (s, n) \leftarrow (\text{init}(\theta), 0) \ \text{ if } n \ge \text{period, or if reset},
      \qquad (u, s) \leftarrow \text{update}(g, s, \theta), \qquad n \leftarrow n + 1,

    so the reset comes before the first update on the new objective. The parameters stay as they
    are. Keep what should go on counting, as a schedule of the learning rate, outside; see
    `adam_reset`.

    Args:
        inner: the optimizer, or part of one, whose state is reset.
        period: updates between two resets, a whole number of at least 1; `reset` is then ignored.
            `None` leaves them to `reset`. With neither, this is the inner optimizer.

    Returns:
        The optimizer. `update` needs the parameters and takes the extra argument `reset`, a
        Boolean that says that this gradient is the first of a new objective.

    Raises:
        ValueError: if `period` is no whole number of at least 1; from `update`, if `params` is
            missing.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = reset_state(optax.sgd(1.0, momentum=0.5), period=3)
        >>> params = jnp.zeros(1)
        >>> state = optimizer.init(params)
        >>> for _ in range(4):
        ...     updates, state = optimizer.update(jnp.ones(1), state, params)
        ...     print(updates)
        [-1.]
        [-1.5]
        [-1.75]
        [-1.]

    References:
        Asadi et al., `Resetting the Optimizer in Deep RL: An Empirical Study
        <https://arxiv.org/abs/2306.17833>`_, NeurIPS 2023, arXiv 2306.17833.

    .. note::
      A random key in the inner state also goes back to its beginning, or, in the optimizers of this
      project that draw numbers, to one that depends on the parameters at the reset.

    .. note::
      `optax.MultiSteps` only hands over the extra arguments of the mini-step that emits an update.
      A `reset` in any other is lost, and the first gradient of a new objective comes in such a one:
      give a `period`, counted in emitted updates, or `reset` in the mini-step that emits.
    """
    check_period(period)
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> ResetState:
        return ResetState(jnp.zeros([], jnp.int32), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: ResetState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ResetState]:
        count, inner_state = state
        due = jnp.zeros([], bool)
        if period is not None:
            due |= count >= jnp.asarray(period, count.dtype)
        elif (reset := extra_args.get("reset")) is not None:
            due |= jnp.asarray(reset, bool)
        check_params("a reset", params)
        inner_state = jax.tree.map(
            lambda new, old: jnp.where(due, new, old), inner.init(params), inner_state
        )
        updates, inner_state = inner.update(updates, inner_state, params, **extra_args)
        count = optax.safe_increment(jnp.where(due, 0, count))
        return updates, ResetState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def adam_reset(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    period: int | jax.Array | None = None,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam whose moments and step count are reset with every new objective.

    It is `reset_state` over `optax.scale_by_adam`: before the first update on a new
    objective, :math:`m, v, t \leftarrow 0`.

    The authors reset at every update of the target network of a value-based agent. In PPO the
    objective changes with every rollout, that is after epochs times minibatches updates; the PPO of
    this project passes `reset` there.

    Args:
        learning_rate: step size, greater than 0, or a schedule. Schedules count all updates.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        period: updates between two resets, a whole number of at least 1; `reset` is then ignored.
            `None` leaves them to the extra argument `reset`; without that, this is Adam, bit for
            bit.
        eps_root: added to the denominator inside the root, at least 0.

    Returns:
        The optimizer. `update` needs the parameters and takes the extra argument `reset`, see
        `reset_state`.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = adam_reset(learning_rate=0.1, period=2)
        >>> params = jnp.zeros(1)
        >>> state = optimizer.init(params)
        >>> for grad in (1.0, 1.0, 1000.0):
        ...     updates, state = optimizer.update(jnp.full(1, grad), state, params)
        >>> print(updates.round(3))
        [-0.1]

    References:
        Asadi et al., `Resetting the Optimizer in Deep RL: An Empirical Study
        <https://arxiv.org/abs/2306.17833>`_, NeurIPS 2023, arXiv 2306.17833.

    .. note::
      `optax.MultiSteps` only hands over the extra arguments of the mini-step that emits an update.
      A `reset` in any other is lost, and the first gradient of a new objective comes in such a one:
      give a `period`, counted in emitted updates, or `reset` in the mini-step that emits.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("eps_root", eps_root, 0.0)
    return optax.chain(
        reset_state(optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root), period),
        optax.scale_by_learning_rate(learning_rate),
    )
