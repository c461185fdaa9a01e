"""TRAC: a step size for lifelong learning that needs no tuning, on top of any optimizer."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range, check_real
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)

# erfi(1 / sqrt(2))
_ERFI_UNIT = 0.9534382692512611
# Beyond this erfi is no longer a float32.
_LARGEST = 9.0
# Sampling distance and last sample of the sum for erfi. The distance is a power of two, so that
# the samples are exact; the sum's error is exp(-(pi / (2 distance))**2), below float64's.
_DISTANCE = 0.25
_SAMPLES = 31


class TracState(NamedTuple):
    """State of `trac`. Its numbers are float32, or float64 if a parameter is."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    scale: jax.Array  # shape=(), the sum of the tuners' outputs, before it is clipped at 0
    variance: jax.Array  # shape=(len(betas),), discounted sums of h**2
    sigma: jax.Array  # shape=(len(betas),), minus the discounted sums of h
    reference: optax.Params  # the parameters at the first update
    displacement: optax.Params | None  # sum of the inner updates; None with exact_reference
    inner_state: optax.OptState


@on_trained_leaves
def trac(
    inner: optax.GradientTransformation,
    betas: tuple[float, ...] = BETAS,
    s_prev: jax.typing.ArrayLike = 1e-8,
    eps: jax.typing.ArrayLike = 1e-8,
    exact_reference: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the whole displacement made by an optimizer with one number, tuned online.

    The parameters are kept at :math:`\theta_\text{ref} + S \Delta`, where
    :math:`\theta_\text{ref}` are those at the first update and :math:`\Delta` is the sum of the
    inner updates. One scale :math:`S` for all parameters is learned without a step size, by
    tuners of different memory, one for each :math:`\beta_j`. After a change of task the scale
    shrinks and the parameters go back towards the reference, which keeps them plastic. With
    gradient :math:`g` and inner update :math:`u` at the present parameters,

    .. math::

      \begin{align*}
        h &= \langle \Delta, g \rangle \quad \text{over all parameters} \\
        v_j &\leftarrow \beta_j^2 v_j + h^2, \qquad
        \sigma_j \leftarrow \beta_j \sigma_j - h, \qquad \sigma_j = 10^{-8} \text{ at first} \\
        s_j &= \frac{s_\text{prev}}{\operatorname{erfi}(1/\sqrt{2})}
          \operatorname{erfi}\!\Big(\frac{\sigma_j}{\sqrt{2 v_j} + \varepsilon}\Big) \\
        \Delta &\leftarrow \Delta + u, \qquad S = \max(\textstyle\sum_j s_j, 0), \qquad
        \theta \leftarrow \theta_\text{ref} + S \Delta
      \end{align*}

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(1e-2)`.
        betas: discounts of the tuners, each in [0, 1).
        s_prev: scale to begin with, greater than 0. It is meant to be tiny: each tuner grows out of
            it exponentially.
        eps: added to the denominators, greater than 0.
        exact_reference: whether the displacement is worked out from the parameters, as the authors'
            code does, instead of being kept in the state. It saves one copy of the parameters but
            is lossy, see the note.

    Returns:
        The optimizer. `update` needs the parameters; extra arguments go to the inner optimizer.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing or a
            gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = trac(optax.adam(0.1))
        >>> params = jnp.full(2, 0.5)
        >>> def step(carry, _):
        ...     params, state = carry
        ...     grads = jax.grad(lambda p: jnp.sum((p - 2.0) ** 2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return (optax.apply_updates(params, updates), state), None
        >>> carry = (params, optimizer.init(params))
        >>> (params, _), _ = jax.lax.scan(step, carry, length=1000)
        >>> print(jnp.abs(params - 2.0) < 0.2)
        [ True  True]

    References:
        Muppidi et al., `Fast TRAC: A Parameter-Free Optimizer for Lifelong Reinforcement Learning
        <https://arxiv.org/abs/2405.16642>`_, NeurIPS 2024, arXiv 2405.16642.

    .. note::
      The authors' code works :math:`\Delta` out as :math:`(\theta - \theta_\text{ref}) /
      (\sum_j s_j + \varepsilon)`. At a scale near 1e-7 that difference is rounded away in float32
      wherever a parameter is not near 0, :math:`h` stays 0 and nothing is ever learned; and a scale
      of 0 forgets the displacement. Here the displacement is kept in the state, unless
      `exact_reference` asks for the authors' way.

    .. note::
      :math:`h` is taken with the unscaled displacement, as in the authors' code: it is the
      derivative of the loss with respect to the scale. As there, :math:`\sigma_j` begins at
      1e-8 and the scale is clipped at 0.

    .. note::
      :math:`h` is held within :math:`\pm 10^{15}`, far beyond what a learner meets, so that its
      squares stay finite; the argument of erfi is held within :math:`\pm 9`.

    .. note::
      Weight decay of the inner optimizer pulls to 0, TRAC to the reference. Do not reset TRAC's
      state between tasks.
    """
    for beta in betas:
        check_range("betas", beta, 0.0, 1.0)
    check_range("s_prev", s_prev, 0.0, open_low=True)
    check_range("eps", eps, 0.0, open_low=True)
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> TracState:
        dtype = _wide(*jax.tree.leaves(params))
        return TracState(
            count=jnp.zeros([], jnp.int32),
            scale=jnp.zeros([], dtype),
            variance=jnp.zeros(len(betas), dtype),
            sigma=jnp.full(len(betas), 1e-8, dtype),
            reference=jax.tree.map(jnp.zeros_like, params),
            displacement=None if exact_reference else _widened_zeros(params),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: TracState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TracState]:
        check_params("TRAC", params)
        check_real("TRAC", updates)
        grads = updates
        steps, inner_state = inner.update(grads, state.inner_state, params, **extra_args)
        dtype = state.scale.dtype
        tuner_eps = jnp.asarray(eps, dtype)
        first = state.count == 0
        reference = jax.tree.map(
            lambda param, old: jnp.where(first, param, old), params, state.reference
        )
        displacement = state.displacement
        if displacement is None:
            displacement = jax.tree.map(
                lambda param, old: (
                    (_widened(param) - _widened(old))
                    / (state.scale + tuner_eps).astype(_wide(param))
                ),
                params,
                reference,
            )

        slope = _inner_product(displacement, grads, dtype)
        scale, variance, sigma = _tune(
            slope, state.variance, state.sigma, betas, jnp.asarray(s_prev, dtype), tuner_eps
        )
        clipped = jnp.maximum(scale, 0)
        displacement = jax.tree.map(lambda d, step: d + step.astype(d.dtype), displacement, steps)
        updates = jax.tree.map(
            lambda start, d, param: (
                _widened(start) + clipped.astype(d.dtype) * d - _widened(param)
            ).astype(param.dtype),
            reference,
            displacement,
            params,
        )
        return updates, TracState(
            count=optax.safe_increment(state.count),
            scale=scale,
            variance=variance,
            sigma=sigma,
            reference=reference,
            displacement=None if exact_reference else displacement,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def trac_adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    s_prev: jax.typing.ArrayLike = 1e-8,
    exact_reference: bool = False,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Adam under `trac`, the combination of the paper's experiments.

    See `trac` for the equations and the notes.

    Args:
        learning_rate: Adam's step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to Adam's denominator outside the root, at least 0.
        s_prev: scale to begin with, greater than 0.
        exact_reference: whether the displacement is worked out from the parameters.
        eps_root: added to Adam's denominator inside the root, at least 0.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing or a
            gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = trac_adam(learning_rate=1e-2)
        >>> params = jnp.zeros(1)
        >>> updates, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
        >>> print(f"{updates[0]:.1e}")  # The scale begins near 1e-7.
        -1.0e-09

    References:
        Muppidi et al., `Fast TRAC: A Parameter-Free Optimizer for Lifelong Reinforcement Learning
        <https://arxiv.org/abs/2405.16642>`_, NeurIPS 2024, arXiv 2405.16642.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("eps_root", eps_root, 0.0)
    adam = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return trac(adam, s_prev=s_prev, exact_reference=exact_reference)


def _tune(
    slope: jax.Array,
    variance: jax.Array,
    sigma: jax.Array,
    betas: tuple[float, ...],
    s_prev: jax.Array,
    eps: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One step of the tuners: the sum of their outputs, and their state."""
    discount = jnp.asarray(betas, variance.dtype)
    slope = jnp.clip(slope, -1e15, 1e15)
    variance = discount**2 * variance + slope**2
    sigma = discount * sigma - slope
    # The inner selection keeps the derivative of the root finite at zero.
    root = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    tuned = _erfi(sigma / (math.sqrt(2) * root + eps))
    return s_prev / _ERFI_UNIT * jnp.sum(tuned), variance, sigma


def _erfi(x: jax.Array) -> jax.Array:
    r"""The imaginary error function of a vector, with arguments held within [-9, 9].

    Rybicki's sum for Dawson's integral, with the samples at :math:`\pm a_n` taken together so that
    nothing cancels: for :math:`x \ge 0` and :math:`a_n = n / 4`, n odd,

    .. math::

      \operatorname{erfi}(x) = \frac{2}{\pi} e^{x^2}
        \sum_{n > 0} \frac{1 - e^{-4 x a_n}}{n}\, e^{-(x - a_n)^2}

    The relative error is below 2e-6 in float32, most of it from exp.
    """
    x = jnp.clip(x, -_LARGEST, _LARGEST)
    # Not abs and sign, whose derivatives are 0 at 0.
    sign = jnp.where(x < 0, -jnp.ones_like(x), 1)
    x = sign * x
    n = jnp.arange(1, 2 * _SAMPLES, 2, dtype=x.dtype)[None, :]
    shift = x[:, None] - _DISTANCE * n
    terms = -jnp.expm1(-4 * _DISTANCE * n * x[:, None]) / n * jnp.exp(-(shift**2))
    # The square of a multiple of 1/32 is exact, which keeps exp from amplifying its rounding. A
    # second exp instead of expm1 would be merged with the first by the compiler.
    coarse = jax.lax.stop_gradient(jnp.round(x * 32) / 32)
    square = jnp.exp(coarse**2) * (1 + jnp.expm1((x - coarse) * (x + coarse)))
    return sign * (2 / math.pi) * square * jnp.sum(terms, axis=1)


def _wide(*leaves: Any) -> Any:
    """float32, or float64 if a leaf is."""
    return jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32


def _widened(leaf: jax.Array) -> jax.Array:
    return leaf.astype(_wide(leaf))


def _widened_zeros(tree: Any) -> Any:
    # A displacement in half precision would stop growing long before its time.
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=_wide(leaf)), tree)


def _inner_product(x: Any, y: Any, dtype: Any) -> jax.Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype)), x, y)
    return sum(jax.tree.leaves(products), start=jnp.zeros([], dtype))
