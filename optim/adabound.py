"""AdaBound and AMSBound: Adam whose step sizes are clipped to bounds that close in on SGD's."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range
from optim._leaves import average, average_of_squares, bias_correction, safe_sqrt, working_zeros
from optim._paths import as_mask
from optim._trained import on_trained_leaves


class ScaleByAdaboundState(NamedTuple):
    """State of `scale_by_adabound`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32
    nu: optax.Updates  # like params, at least float32


class ScaleByAmsboundState(NamedTuple):
    """State of `scale_by_amsbound`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32
    nu: optax.Updates  # like params, at least float32
    nu_max: optax.Updates  # like params, at least float32


@on_trained_leaves
def scale_by_adabound(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    final_ratio: jax.typing.ArrayLike = 100.0,
    gamma: jax.typing.ArrayLike = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as AdaBound does, without the learning rate.

    See `adabound` for the equations and the notes. The bounds are multiples of the learning
    rate, so that it can be left out: this is exact, also for schedules.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        final_ratio: SGD's learning rate, to which the bounds converge, relative to the learning
            rate at which training begins; greater than 0.
        gamma: speed of the convergence, at least 0.

    Returns:
        The transformation.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adabound(final_ratio=2.0, gamma=1.0)
        >>> params = jnp.ones(2)
        >>> grads = jnp.array([1.0, 10.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates.round(3))  # The step sizes are clipped to 1 and 4.
        [0.4 1. ]

    References:
        Luo et al., `Adaptive Gradient Methods with Dynamic Bound of Learning Rate
        <https://arxiv.org/abs/1902.09843>`_, ICLR 2019, arXiv 1902.09843.
    """
    _check(b1, b2, eps, final_ratio, gamma)

    def init_fn(params: optax.Params) -> ScaleByAdaboundState:
        return ScaleByAdaboundState(
            jnp.zeros([], jnp.int32), working_zeros(params), working_zeros(params)
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdaboundState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdaboundState]:
        del params, extra_args
        count = optax.safe_increment(state.count)
        mu = average(b1, state.mu, updates)
        nu = average_of_squares(b2, state.nu, updates)
        step = functools.partial(_bounded, count, b1, b2, eps, final_ratio, gamma)
        return jax.tree.map(step, updates, mu, nu), ScaleByAdaboundState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def scale_by_amsbound(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    final_ratio: jax.typing.ArrayLike = 100.0,
    gamma: jax.typing.ArrayLike = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as AMSBound does, without the learning rate.

    It is `scale_by_adabound` with the largest second moment so far in the denominator.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        final_ratio: SGD's learning rate, to which the bounds converge, relative to the learning
            rate at which training begins; greater than 0.
        gamma: speed of the convergence, at least 0.

    Returns:
        The transformation.

    Raises:
        ValueError: if a number is outside its range; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_amsbound(final_ratio=2.0, gamma=1.0)
        >>> params = jnp.ones(2)
        >>> grads = jnp.array([1.0, 10.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates.round(3))
        [0.4 1. ]

    References:
        Luo et al., `Adaptive Gradient Methods with Dynamic Bound of Learning Rate
        <https://arxiv.org/abs/1902.09843>`_, ICLR 2019, arXiv 1902.09843.
    """
    _check(b1, b2, eps, final_ratio, gamma)

    def init_fn(params: optax.Params) -> ScaleByAmsboundState:
        return ScaleByAmsboundState(
            jnp.zeros([], jnp.int32),
            working_zeros(params),
            working_zeros(params),
            working_zeros(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAmsboundState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAmsboundState]:
        del params, extra_args
        count = optax.safe_increment(state.count)
        mu = average(b1, state.mu, updates)
        nu = average_of_squares(b2, state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        step = functools.partial(_bounded, count, b1, b2, eps, final_ratio, gamma)
        updates = jax.tree.map(step, updates, mu, nu_max)
        return updates, ScaleByAmsboundState(count, mu, nu, nu_max)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def adabound(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    final_lr: jax.typing.ArrayLike = 0.1,
    gamma: jax.typing.ArrayLike = 1e-3,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any | None = None,
    base_learning_rate: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The AdaBound optimizer, which begins as Adam and ends as SGD with momentum.

    .. math::

      \begin{align*}
        g &\leftarrow g + \lambda w, \qquad
        m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \\
        f &= \alpha^* \alpha_t / \alpha_0, \qquad
        l = f \Bigl(1 - \frac{1}{\gamma t + 1}\Bigr), \qquad
        h = f \Bigl(1 + \frac{1}{\gamma t}\Bigr) \\
        w &\leftarrow w - \operatorname{clip}\Bigl(
          \frac{\alpha_t}{\sqrt{v} + \varepsilon} \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t},
          \ l,\ h\Bigr) \odot m
      \end{align*}

    with :math:`\alpha^*` the final learning rate and :math:`\alpha_0` the base one: the bounds
    follow the schedule.

    Args:
        learning_rate: step size, greater than 0, or a schedule. The authors' is 1e-3.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        final_lr: SGD's learning rate, to which the bounds converge, greater than 0. **The default
            is the authors', for image classification, and far too large for RL**: after `1 / gamma`
            steps every step size is at least half of it. Begin with what SGD with momentum would
            use on the task, or with about `learning_rate`.
        gamma: speed of the convergence, at least 0. With 0 the bounds stay open, and AdaBound is
            Adam with `eps` added to the root of the uncorrected second moment.
        weight_decay: L2 penalty, at least 0: it passes through the moments.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.
        base_learning_rate: what `final_lr` is relative to, greater than 0: when the learning rate
            is equal to it, the bounds converge to `final_lr`. `None` takes the learning rate
            itself, of a schedule its value at step 0.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range, or a schedule begins at 0 and
            `base_learning_rate` is not given; from `update`, if `params` is missing; if a
            parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = adabound(learning_rate=0.1, final_lr=0.1, gamma=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.01)
        True

    References:
        Luo et al., `Adaptive Gradient Methods with Dynamic Bound of Learning Rate
        <https://arxiv.org/abs/1902.09843>`_, ICLR 2019, arXiv 1902.09843.

    .. note::
      As in the authors' code, the moments are not corrected again after the clipping: where a
      bound is met in the first steps, the step is shorter than that of SGD with a corrected
      momentum. Their AdaBoundW is not offered: it subtracts the decay without the learning rate.

    .. note::
      The authors' base learning rate is the one that the optimizer is built with, before any
      schedule acts. A schedule with a warm-up needs `base_learning_rate`, its peak; so does
      `optax.inject_hyperparams` with a schedule, under which the learning rate of each step
      would count as the base. Name `mask` in `static_args` there if it is a function.

    .. note::
      Moments and steps are computed in float32 at least.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    final_ratio = _final_ratio(learning_rate, final_lr, base_learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        scale_by_adabound(b1=b1, b2=b2, eps=eps, final_ratio=final_ratio, gamma=gamma),
        optax.scale_by_learning_rate(learning_rate),
    )


@on_trained_leaves
def amsbound(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    final_lr: jax.typing.ArrayLike = 0.1,
    gamma: jax.typing.ArrayLike = 1e-3,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any | None = None,
    base_learning_rate: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The AMSBound optimizer: AdaBound with AMSGrad's second moment.

    In the equations of `adabound`, :math:`v` in the denominator becomes
    :math:`\hat{v} \leftarrow \max(\hat{v}, v)`, the largest uncorrected second moment so far.

    Args:
        learning_rate: step size, greater than 0, or a schedule. The authors' is 1e-3.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        final_lr: SGD's learning rate, to which the bounds converge, greater than 0. **The default
            is far too large for RL**, see `adabound`.
        gamma: speed of the convergence, at least 0. With 0 the bounds stay open.
        weight_decay: L2 penalty, at least 0: it passes through the moments.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.
        base_learning_rate: what `final_lr` is relative to, greater than 0. `None` takes the
            learning rate itself, of a schedule its value at step 0.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range, or a schedule begins at 0 and
            `base_learning_rate` is not given; from `update`, if `params` is missing; if a
            parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = amsbound(learning_rate=0.1, final_lr=0.1, gamma=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.01)
        True

    References:
        Luo et al., `Adaptive Gradient Methods with Dynamic Bound of Learning Rate
        <https://arxiv.org/abs/1902.09843>`_, ICLR 2019, arXiv 1902.09843.

    .. note::
      The notes of `adabound` hold here too. The step size is still multiplied by
      `sqrt(1 - b2**t)`, though the maximum has not been corrected, as in the authors' code.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    final_ratio = _final_ratio(learning_rate, final_lr, base_learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        scale_by_amsbound(b1=b1, b2=b2, eps=eps, final_ratio=final_ratio, gamma=gamma),
        optax.scale_by_learning_rate(learning_rate),
    )


def _check(b1: Any, b2: Any, eps: Any, final_ratio: Any, gamma: Any) -> None:
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)
    check_range("final_ratio", final_ratio, 0.0, open_low=True)
    check_range("gamma", gamma, 0.0)


def _final_ratio(learning_rate: Any, final_lr: Any, base_learning_rate: Any) -> jax.Array:
    """The final learning rate relative to the base one, after the checks of all three."""
    check_learning_rate(learning_rate)
    check_range("final_lr", final_lr, 0.0, open_low=True)
    if base_learning_rate is not None:
        check_range("base_learning_rate", base_learning_rate, 0.0, open_low=True)
        base = base_learning_rate
    elif callable(learning_rate):
        base = learning_rate(jnp.zeros([], jnp.int32))
        if not isinstance(base, jax.core.Tracer) and not 0 < base < jnp.inf:
            raise ValueError(
                f"base_learning_rate must be given for a schedule that starts at {float(base):g}, "
                "to which final_lr cannot be relative: base_learning_rate=..., its peak if it "
                "warms up, as an argument or an option of the spec."
            )
    else:
        base = learning_rate
    base = jnp.asarray(base, float)
    # A learning rate of zero, which schedules may end at, has no ratio and needs none.
    return jnp.asarray(final_lr, float) / jnp.where(base > 0, base, 1)


def _bounded(
    count: jax.Array,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    final_ratio: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike,
    grad: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
) -> jax.Array:
    """The direction of one leaf: its moment times step sizes within the bounds."""
    dtype = mu.dtype
    eps, final_ratio, gamma = (jnp.asarray(number, dtype) for number in (eps, final_ratio, gamma))
    correction = jnp.sqrt(bias_correction(b2, count, dtype)) / bias_correction(b1, count, dtype)
    elapsed = gamma * count.astype(dtype)
    lower = final_ratio * (1 - 1 / (elapsed + 1))
    upper = final_ratio * (1 + 1 / elapsed)
    step_size = jnp.clip(correction / (safe_sqrt(nu) + eps), lower, upper)
    return (step_size * mu).astype(grad.dtype)
