"""Adam-Rel: Adam whose step count starts anew with every new objective."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_period, check_range
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


@on_trained_leaves
def scale_by_adam_rel(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    period: int | jax.Array | None = None,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as Adam-Rel does, without the learning rate.

    See `adam_rel` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        period: updates between two new objectives, a whole number of at least 1; `None` leaves
            them to `reset`.
        eps_root: added to the denominator inside the root, at least 0.

    Returns:
        The transformation. Its state is Adam's, `optax.ScaleByAdamState`, whose `count` is
        of the updates since the last new objective. `update` takes the extra argument `reset`,
        which counts where there is no period.

    Raises:
        ValueError: if a number is outside its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adam_rel(b1=0.0, b2=0.75, period=50)
        >>> grads = jnp.ones(2)
        >>> state = direction.init(grads)
        >>> for _ in range(51):
        ...     updates, state = direction.update(grads, state)
        >>> print(state.count, updates.round(3))
        1 [0.5 0.5]

    References:
        Ellis et al., `Adam on Local Time: Addressing Nonstationarity in RL with Relative Adam
        Timesteps <https://arxiv.org/abs/2412.17113>`_, NeurIPS 2024, arXiv 2412.17113.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("eps_root", eps_root, 0.0)
    check_period(period)
    adam = with_standard_promotion(optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root))

    def update_fn(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        *,
        reset: jax.typing.ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        count = state.count
        if period is not None:
            count = jnp.where(count >= jnp.asarray(period, count.dtype), 0, count)
        elif reset is not None:
            count = jnp.where(reset, 0, count)
        return adam.update(updates, state._replace(count=count), params)

    return optax.GradientTransformationExtraArgs(adam.init, update_fn)


@on_trained_leaves
def adam_rel(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    period: int | jax.Array | None = None,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The Adam-Rel optimizer, for objectives that change abruptly.

    Adam's moments are kept over a change of objective, but the step count that corrects them is
    local: it starts anew. With :math:`t = 1, 2, \dots` since the last change,

    .. math::

      \begin{align*}
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \\
        \hat m &= m / (1 - \beta_1^t), \qquad \hat v = v / (1 - \beta_2^t) \\
        \theta &\leftarrow \theta
          - \alpha\, \hat{m} / (\sqrt{\hat{v} + \bar{\varepsilon}} + \varepsilon)
      \end{align*}

    Where the gradient grows by a large factor with the new objective, Adam's step would overshoot
    (by :math:`\sqrt{10}` with the defaults) and that of Adam-Rel does not; where it stays the same,
    Adam-Rel warms up, from 0.32 of the learning rate with the defaults.

    The objective changes in PPO with every rollout, that is after epochs times minibatches updates,
    and in DQN with every hard update of the target network. The PPO of this project passes
    `reset`, so no period is needed there.

    Args:
        learning_rate: step size, greater than 0, or a schedule. Schedules count all updates.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        period: updates between two new objectives, a whole number of at least 1; `reset` is then
            ignored. `None` leaves them to `reset`; without that, Adam-Rel is Adam, bit for bit.
        eps_root: added to the denominator inside the root, at least 0.

    Returns:
        The optimizer. `update` takes the extra argument `reset`, a Boolean that says that this
        gradient is the first of a new objective.

    Raises:
        ValueError: if a number is outside its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = adam_rel(learning_rate=0.1)
        >>> params = jnp.zeros(1)
        >>> state = optimizer.init(params)
        >>> for step in range(40):
        ...     grads = jnp.full(1, 1.0 if step < 30 else 1000.0)
        ...     updates, state = optimizer.update(grads, state, params, reset=step == 30)
        ...     if step in (29, 30):
        ...         print(updates.round(3))
        [-0.1]
        [-0.101]

    References:
        Ellis et al., `Adam on Local Time: Addressing Nonstationarity in RL with Relative Adam
        Timesteps <https://arxiv.org/abs/2412.17113>`_, NeurIPS 2024, arXiv 2412.17113.

    .. note::
      The authors' code could not be found; this is the rule that the paper states.

    .. note::
      `eps=1e-8` is Adam's default. The paper keeps what the agent's Adam has: 1e-5 for PPO.

    .. note::
      `optax.MultiSteps` only hands over the extra arguments of the mini-step that emits an update.
      A `reset` in any other is lost, and the first gradient of a new objective comes in such a one:
      give a `period`, counted in emitted updates, or `reset` in the mini-step that emits.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_adam_rel(b1=b1, b2=b2, eps=eps, period=period, eps_root=eps_root),
        optax.scale_by_learning_rate(learning_rate),
    )
