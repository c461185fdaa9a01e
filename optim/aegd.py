"""AEGD: gradient descent whose step sizes come from an energy that can only fall."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range, missing
from optim._leaves import at_count, working_dtype, working_zeros
from optim._trained import on_trained_leaves


class ScaleByAegdState(NamedTuple):
    """State of `scale_by_aegd`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    energy: optax.Updates  # like params, in float32 at least; set in the first step


@on_trained_leaves
def scale_by_aegd(
    learning_rate: optax.ScalarOrSchedule,
    c: jax.typing.ArrayLike = 1.0,
    weight_decay: jax.typing.ArrayLike = 0.0,
    floor: jax.typing.ArrayLike = 1e-2,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates as AEGD does, :math:`2 r q`, without the learning rate of the step.

    See `aegd` for the equations, the arguments and the notes.

    Args:
        learning_rate: step size or schedule that the energy follows; the step's own.
        c: added to the loss, at least 0.
        weight_decay: added, times the parameters, to :math:`q`, at least 0.
        floor: smallest value that the loss plus `c` is taken for, greater than 0.

    Returns:
        The transformation. `update` needs the parameters and the loss, `value`.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` or `value` is
            missing or a gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_aegd(learning_rate=0.5)
        >>> params = jnp.ones(2)
        >>> state = direction.init(params)
        >>> updates, state = direction.update(jnp.array([0.0, 4.0]), state, params, value=3.0)
        >>> print(updates, state.energy)
        [0. 2.] [2. 1.]

    References:
        Liu and Tian, `AEGD: Adaptive Gradient Descent with Energy
        <https://arxiv.org/abs/2010.05109>`_, 2020, arXiv 2010.05109.
    """
    check_learning_rate(learning_rate)
    check_range("c", c, 0.0)
    check_range("weight_decay", weight_decay, 0.0)
    check_range("floor", floor, 0.0, open_low=True)

    def init_fn(params: optax.Params) -> ScaleByAegdState:
        return ScaleByAegdState(
            count=jnp.zeros([], jnp.int32),
            energy=working_zeros(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAegdState,
        params: optax.Params | None = None,
        *,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAegdState]:
        del extra_args
        check_params("aegd", params)
        if value is None:
            raise missing("aegd", "value", "the loss at the parameters")
        rate = at_count(learning_rate, state.count)

        def root(dtype: Any) -> jax.Array:
            shifted = jnp.asarray(value, dtype) + jnp.asarray(c, dtype)
            return jnp.sqrt(jnp.maximum(shifted, jnp.asarray(floor, dtype)))

        def scaled(g: jax.Array, p: jax.Array) -> jax.Array:
            dtype = working_dtype(g)
            decay = jnp.asarray(weight_decay, dtype) * p.astype(dtype)
            return g.astype(dtype) / (2 * root(dtype)) + decay

        def spent(q: jax.Array, r: jax.Array) -> jax.Array:
            # Until the first step it is 0. A sum keeps shardings where a selection would not.
            r = r + jnp.where(state.count == 0, root(r.dtype), 0)
            return r / (1 + 2 * jnp.asarray(rate, r.dtype) * q * q)

        scaled_gradients = jax.tree.map(scaled, updates, params)
        energy = jax.tree.map(spent, scaled_gradients, state.energy)
        directions = jax.tree.map(
            lambda g, q, r: (2 * r * q).astype(g.dtype), updates, scaled_gradients, energy
        )
        return directions, ScaleByAegdState(optax.safe_increment(state.count), energy)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def aegd(
    learning_rate: optax.ScalarOrSchedule,
    c: jax.typing.ArrayLike = 1.0,
    weight_decay: jax.typing.ArrayLike = 0.0,
    decoupled_weight_decay: bool = False,
    floor: jax.typing.ArrayLike = 1e-2,
) -> optax.GradientTransformationExtraArgs:
    r"""The AEGD and AEGDW optimizers: gradient descent with an energy for every parameter.

    For the loss :math:`f` and a number :math:`c` that makes :math:`f + c` positive,

    .. math::

      \begin{align*}
        F &= \sqrt{f(\theta) + c}, \qquad q = \nabla f(\theta) / (2 F) + \lambda \theta \\
        r &\leftarrow r / (1 + 2 \alpha\, q^2) \\
        \theta &\leftarrow \theta - 2 \alpha\, r\, q
      \end{align*}

    element by element, with :math:`r` the energy, which starts at the :math:`F` of the first step.
    In AEGDW, the weight decay is not part of :math:`q` but :math:`\theta \leftarrow (1 - \alpha
    \lambda)\, \theta - 2 \alpha\, r\, q`. The energy never rises, whatever the learning rate.

    The authors' learning rate is 0.1. `update` takes the loss from the extra argument `value`:
    the loss, a scalar, at the parameters and on the batch from which the gradient comes.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        c: added to the loss, at least 0. The sum has to be positive: the loss of a policy, which
            may be negative, needs a larger `c` than the default.
        weight_decay: strength of the weight decay, at least 0.
        decoupled_weight_decay: whether the weight decay is AEGDW's. Must not be traced.
        floor: smallest value that the loss plus `c` is taken for, greater than 0.

    Returns:
        The optimizer. `update` needs the parameters and `value`; it ignores other extra
        arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` or `value` is
            missing or a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(params**2)
        >>> optimizer = aegd(learning_rate=0.2)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     value, grads = jax.value_and_grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params, value=value)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(2))
        [ 0.01 -0.17]

    References:
        Liu and Tian, `AEGD: Adaptive Gradient Descent with Energy
        <https://arxiv.org/abs/2010.05109>`_, 2020, arXiv 2010.05109.

    .. note::
      Where the loss plus `c` is below `floor`, it is taken for `floor`: no step is NaN, but
      the steps are no longer those of the paper, and the energy is spent faster. The paper defines
      nothing there. A loss that is NaN still gives NaN.

    .. note::
      The energy only falls, and large gradients spend it for good: an early spike slows all later
      learning. That is at odds with targets that move, as those of reinforcement learning do.

    .. note::
      The learning rate is part of the energy, so the direction alone cannot be computed without it:
      `scale_by_aegd` takes the same learning rate as the step that follows it.
    """
    scale = scale_by_aegd(learning_rate, c, 0.0 if decoupled_weight_decay else weight_decay, floor)
    check_range("weight_decay", weight_decay, 0.0)
    decay = optax.add_decayed_weights(weight_decay if decoupled_weight_decay else 0.0)
    return optax.chain(scale, decay, optax.scale_by_learning_rate(learning_rate))
