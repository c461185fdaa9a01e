"""Adam with a step count for each entry, for wrappers that renew units of a network.

Counts like the parameters take longer to read and write than all the rest of an update, 2.5 times
Adam's time on PPO's Breakout networks. What is renewed are rows and columns, so one count for each
of these is enough.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range
from optim._leaves import average, average_of_squares, safe_sqrt, working_dtype, working_zeros
from optim._trained import on_trained_leaves


class ScaleByAdamGnTState(NamedTuple):
    """State of `scale_by_adam_gnt`, at least float32.

    A share is kept for each row and for each column of a kernel, of shapes (1, ..., in, 1) and
    (1, ..., 1, out); an entry's is the smaller one, that of the later beginning. Where there are no
    rows, it is kept for all entries together, shape (), and for each.
    """

    mu: optax.Updates  # like the parameters
    nu: optax.Updates  # like the parameters
    mu_share: tuple[optax.Updates, optax.Updates]  # 1 - b1**t, by which mu is divided
    nu_share: tuple[optax.Updates, optax.Updates]  # 1 - b2**t, by which nu is divided


@on_trained_leaves
def scale_by_adam_gnt(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as AdamGnT does, without the learning rate.

    See `adam_gnt` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.

    Returns:
        The transformation.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adam_gnt()
        >>> params = jnp.ones(2)
        >>> updates, _ = direction.update(jnp.array([0.01, 100.0]), direction.init(params))
        >>> print(updates.round(3))
        [1. 1.]

    References:
        Dohare et al., `Loss of plasticity in deep continual learning
        <https://arxiv.org/abs/2306.13812>`_, Nature 2024, arXiv 2306.13812.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)

    def init_fn(params: optax.Params) -> ScaleByAdamGnTState:
        # Each time anew: buffers that two arrays share could not be donated.
        moments = [working_zeros(params) for _ in range(2)]
        shares = [
            (jax.tree.map(_of_rows, params), jax.tree.map(_of_columns, params)) for _ in range(2)
        ]
        return ScaleByAdamGnTState(*moments, *shares)

    def direction(grad: Any, mu: Any, nu: Any, *shares: Any) -> Any:
        # Few numbers are inverted, and entries only multiplied: division takes longer.
        mu_rows, mu_columns, nu_rows, nu_columns = (1 / share for share in shares)
        root = safe_sqrt(nu * jnp.maximum(nu_rows, nu_columns)) + jnp.asarray(eps, nu.dtype)
        mean = mu * jnp.maximum(mu_rows, mu_columns)
        # Where gradient and eps are zero.
        return (mean / jnp.where(root > 0, root, 1)).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdamGnTState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdamGnTState]:
        del params, extra_args
        ones = jax.tree.map(jnp.ones_like, state.mu_share)
        state = ScaleByAdamGnTState(
            average(b1, state.mu, updates),
            average_of_squares(b2, state.nu, updates),
            average(b1, state.mu_share, ones),
            average(b2, state.nu_share, ones),
        )
        moments = (state.mu, state.nu)
        return jax.tree.map(direction, updates, *moments, *state.mu_share, *state.nu_share), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _of_rows(leaf: jax.Array) -> jax.Array:
    shape = (*(1,) * (leaf.ndim - 2), leaf.shape[-2], 1) if leaf.ndim > 1 else ()
    return jnp.zeros(shape, working_dtype(leaf))


def _of_columns(leaf: jax.Array) -> jax.Array:
    shape = (*(1,) * (leaf.ndim - 1), *leaf.shape[-1:])
    return jnp.zeros(shape, working_dtype(leaf))


@on_trained_leaves
def adam_gnt(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamGnT: Adam that corrects the moments of each entry by its own step count.

    It is what to put under wrappers that renew units, such as `redo`. With :math:`t` the updates of
    an entry since its state was last put back to the beginning,

    .. math::

      \begin{align*}
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \\
        \hat m &= m / (1 - \beta_1^t), \qquad \hat v = v / (1 - \beta_2^t) \\
        \theta &\leftarrow \theta - \alpha\, \hat{m} / (\sqrt{\hat{v}} + \varepsilon)
      \end{align*}

    As long as nothing is put back, this is Adam. `optax.adam` has one count for all entries: where
    moments become zero late in training, it takes them for averages of many gradients. With the
    default decay rates and a gradient that stays the same, steps then are 3.2 learning rates long
    at first and 6.6 after twelve updates; here they are 1. Equal decay rates keep `optax.adam` at 1
    too.

    Args:
        learning_rate: step size, greater than 0, or a schedule. Schedules count all updates.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.

    Returns:
        The optimizer. `update` ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = adam_gnt(learning_rate=0.1)
        >>> params = jnp.zeros(1)
        >>> updates, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
        >>> print(updates.round(3))
        [-0.1]

    References:
        Dohare et al., `Loss of plasticity in deep continual learning
        <https://arxiv.org/abs/2306.13812>`_, Nature 2024, arXiv 2306.13812.

    .. note::
      Instead of the count, the state holds :math:`1 - \beta^t` for both decay rates, as averages of
      ones, and not for each entry, but for each row and column of a kernel: what is renewed are all
      weights into or out of a unit. Of an entry's two counts the smaller one holds.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_adam_gnt(b1=b1, b2=b2, eps=eps), optax.scale_by_learning_rate(learning_rate)
    )
