"""Adam with critical momenta: a small memory of past momenta, chosen by gradient norm."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range, static_integer
from optim._leaves import (
    average,
    average_of_squares,
    bias_correction,
    norm,
    safe_sqrt,
    widest_dtype,
    working_dtype,
    working_zeros,
)
from optim._paths import as_mask
from optim._trained import on_trained_leaves

_CAPACITY = 5


class ScaleByAdamCMState(NamedTuple):
    """State of `scale_by_adam_cm`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32
    nu: optax.Updates  # like params, at least float32
    buffer: optax.Updates  # like params with a first axis of length capacity, at least float32
    priorities: jax.Array  # shape=(capacity,), the dtype of the widest leaf, at least float32
    size: jax.Array  # shape=(), dtype=jnp.int32: slots of the buffer in use


@on_trained_leaves
def scale_by_adam_cm(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    capacity: int | None = None,
    decay: jax.typing.ArrayLike = 0.7,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as Adam with critical momenta does, without the learning rate.

    See `adam_cm` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        capacity: number of momenta in the buffer, a static integer of at least 1. `None` is 5.
        decay: factor of the priorities at each step, in [0, 1).

    Returns:
        The transformation.

    Raises:
        ValueError: if a number is outside its range, `capacity` is traced, or a parameter is
            complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adam_cm()
        >>> params = jnp.ones(2)
        >>> state = direction.init(params)
        >>> for _ in range(2):
        ...     updates, state = direction.update(jnp.array([1.0, -10.0]), state, params)
        ...     print(updates.round(2))
        [0. 0.]
        [ 7.44 -7.44]

    References:
        Malviya et al., `Promoting Exploration in Memory-Augmented Adam using Critical Momenta
        <https://arxiv.org/abs/2307.09638>`_, TMLR 2024, arXiv 2307.09638.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)
    check_range("decay", decay, 0.0, 1.0)
    slots = static_integer("capacity", _CAPACITY if capacity is None else capacity, 1)

    def empty_buffer(param: Any) -> jax.Array:
        return jnp.stack([jnp.zeros_like(param, dtype=working_dtype(param))] * slots)

    def init_fn(params: optax.Params) -> ScaleByAdamCMState:
        return ScaleByAdamCMState(
            count=jnp.zeros([], jnp.int32),
            mu=working_zeros(params),
            nu=working_zeros(params),
            buffer=jax.tree.map(empty_buffer, params),
            priorities=jnp.zeros([slots], widest_dtype(params)),
            size=jnp.zeros([], jnp.int32),
        )

    def aggregate(mu: Any, buffer: Any, *, size: jax.Array) -> Any:
        # Unused slots are zero.
        # Slot by slot: XLA sums along a leading axis many times slower on a CPU.
        total = sum(buffer[1:], start=buffer[0])
        return mu + total / jnp.maximum(size, 1).astype(mu.dtype)

    def direction(grad: Any, momentum: Any, nu: Any, *, count: jax.Array) -> Any:
        dtype = momentum.dtype
        denominator = safe_sqrt(nu) / jnp.sqrt(bias_correction(b2, count, dtype))
        step = momentum / bias_correction(b1, count, dtype)
        return (step / (denominator + jnp.asarray(eps, dtype))).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdamCMState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdamCMState]:
        del params, extra_args
        count = optax.safe_increment(state.count)
        first = state.count == 0
        mu = jax.tree.map(
            lambda new, old: jnp.where(first, old, new), average(b1, state.mu, updates), state.mu
        )
        momentum = jax.tree.map(functools.partial(aggregate, size=state.size), mu, state.buffer)
        nu = average_of_squares(b2, state.nu, momentum)
        entries = jax.tree.map(lambda m, g: jnp.where(first, g.astype(m.dtype), m), mu, updates)
        size, buffer, priorities = _insert(state, entries, _sum_of_norms(updates, state.priorities))
        priorities = jnp.asarray(decay, priorities.dtype) * priorities
        updates = jax.tree.map(functools.partial(direction, count=count), updates, momentum, nu)
        return updates, ScaleByAdamCMState(count, mu, nu, buffer, priorities, size)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def adam_cm(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    capacity: int | None = None,
    decay: jax.typing.ArrayLike = 0.7,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with critical momenta, which overshoots out of sharp minima.

    A buffer :math:`B` of at most `capacity` past momenta is kept, those at whose time the
    gradient was largest. Their mean is added to the present momentum. For :math:`t \ge 2`,

    .. math::

      \begin{align*}
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        M = m + \frac{1}{|B|} \sum_{b \in B} b, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, M^2 \\
        w &\leftarrow (1 - \alpha \lambda)\, w - \frac{\alpha}{1 - \beta_1^t}
          \frac{M}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon}
      \end{align*}

    Then :math:`m` enters the buffer with the gradient's norm as its priority: into a free slot if
    there is one, else in place of the momentum of the lowest priority if that is lower. Last, all
    priorities are multiplied by `decay`. At :math:`t = 1` the gradient itself enters the buffer,
    both moments stay zero, and so do the updates.

    Args:
        learning_rate: step size, greater than 0, or a schedule. The authors take Adam's or a tenth
            of it.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        capacity: number of momenta in the buffer, a static integer of at least 1; each takes as
            much memory as the parameters. `None` is the authors' 5.
        decay: factor of the priorities at each step, in [0, 1).
        weight_decay: decoupled weight decay, at least 0, multiplied by the learning rate.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range or `capacity` is traced; from `update`, if
            `params` is missing; if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = adam_cm(learning_rate=0.01)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.2)
        True

    References:
        Malviya et al., `Promoting Exploration in Memory-Augmented Adam using Critical Momenta
        <https://arxiv.org/abs/2307.09638>`_, TMLR 2024, arXiv 2307.09638.

    .. note::
      The priority is the sum of the norms of the gradients of all leaves, not the norm of the
      whole gradient, and one decision serves all leaves: the authors' code with `synced=True`.
      Under `optax.masked` it is the sum over the leaves that are seen.

    .. note::
      As in the authors' code, the corrections count the first step, though it leaves the moments at
      zero. Its gradient, not multiplied by `1 - b1`, stays in the buffer until it is replaced:
      with the defaults and gradients of a steady size that is at the sixth step. Weight decay acts
      at the first step too.

    .. note::
      The authors' `kappa`, a switch that does not work when off, is left out: use Adam instead.

    .. note::
      Moments, buffer and steps are in float32 at least. Under `optax.inject_hyperparams`,
      name `capacity` in `static_args` if it is given, and `mask` if it is a function.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_adam_cm(b1=b1, b2=b2, eps=eps, capacity=capacity, decay=decay),
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _sum_of_norms(grads: optax.Updates, like: jax.Array) -> jax.Array:
    """The sum of the leaves' norms, a finite scalar of the dtype of `like`."""
    total = jnp.zeros([], like.dtype)
    for grad in jax.tree.leaves(grads):
        total = total + jnp.squeeze(norm(grad.astype(working_dtype(grad)))).astype(like.dtype)
    # An infinite priority would never decay.
    return jnp.minimum(total, jnp.finfo(like.dtype).max)


def _insert(
    state: ScaleByAdamCMState, entries: optax.Updates, priority: jax.Array
) -> tuple[jax.Array, optax.Updates, jax.Array]:
    """Puts the entries into a free slot, or else into that of the lowest priority if lower."""
    slots = state.priorities.shape[0]
    is_free = state.size < slots
    lowest = jnp.argmin(state.priorities).astype(jnp.int32)
    slot = jnp.where(is_free, state.size, lowest)
    enters = is_free | (priority > jnp.min(state.priorities))
    chosen = enters & (jnp.arange(slots, dtype=jnp.int32) == slot)

    def put(buffer: Any, entry: Any) -> Any:
        return jnp.where(chosen.reshape((slots,) + (1,) * entry.ndim), entry[None], buffer)

    buffer = jax.tree.map(put, state.buffer, entries)
    size = jnp.minimum(state.size + 1, slots)
    return size, buffer, jnp.where(chosen, priority, state.priorities)
