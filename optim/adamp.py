"""AdamP and SGDP: steps without the part that would only lengthen scale-invariant weights."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range, static_integer
from optim._leaves import (
    average,
    average_of_squares,
    bias_correction,
    norm,
    safe_sqrt,
    working_dtype,
    working_zeros,
)
from optim._paths import match_tree
from optim._trained import on_trained_leaves


class ScaleByAdamPState(NamedTuple):
    """State of `scale_by_adamp`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # like params, at least float32
    nu: optax.Updates  # like params, at least float32


class ScaleBySGDPState(NamedTuple):
    """State of `scale_by_sgdp`."""

    trace: optax.Updates  # like params, at least float32


@on_trained_leaves
def scale_by_adamp(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    weight_decay: jax.typing.ArrayLike = 0.0,
    nesterov: bool = False,
    ensemble_axes: int | Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as AdamP does, weight decay included, without the learning rate.

    See `adamp` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator and to norms, greater than 0.
        delta: threshold on the cosine, at least 0.
        wd_ratio: share of the weight decay that projected leaves keep, at least 0.
        weight_decay: decoupled weight decay, at least 0.
        nesterov: whether to look one gradient ahead.
        ensemble_axes: number of leading axes that index the members of an ensemble.

    Returns:
        The transformation. `update` needs the parameters.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing or
            `ensemble_axes` is traced or negative; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adamp()
        >>> params = {"kernel": jnp.array([[1.0], [0.0]])}
        >>> grads = {"kernel": jnp.array([[0.01], [1.0]])}
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates["kernel"].round(3).T)  # Not [[1. 1.]]: the radial part is gone.
        [[0. 1.]]

    References:
        Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
        Weights <https://arxiv.org/abs/2006.08217>`_, ICLR 2021, arXiv 2006.08217.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    _check_projection(eps, delta, wd_ratio, weight_decay)

    def init_fn(params: optax.Params) -> ScaleByAdamPState:
        return ScaleByAdamPState(
            jnp.zeros([], jnp.int32), working_zeros(params), working_zeros(params)
        )

    def direction(grad: Any, mu: Any, nu: Any, param: Any, axes: Any, *, count: jax.Array) -> Any:
        dtype = mu.dtype
        step = average(b1, mu, grad) if nesterov else mu
        denominator = safe_sqrt(nu) / jnp.sqrt(bias_correction(b2, count, dtype))
        step = step / (denominator + jnp.asarray(eps, dtype))
        w = param.astype(dtype)
        step, decay = _project(grad.astype(dtype), step, w, eps, delta, wd_ratio, axes)
        step = step / bias_correction(b1, count, dtype)
        return (step + jnp.asarray(weight_decay, dtype) * decay * w).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdamPState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdamPState]:
        del extra_args
        check_params("AdamP", params)
        count = optax.safe_increment(state.count)
        mu = average(b1, state.mu, updates)
        nu = average_of_squares(b2, state.nu, updates)
        axes = match_tree("ensemble_axes", 0 if ensemble_axes is None else ensemble_axes, updates)
        step = functools.partial(direction, count=count)
        updates = jax.tree.map(step, updates, mu, nu, params, axes)
        return updates, ScaleByAdamPState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    weight_decay: jax.typing.ArrayLike = 0.0,
    nesterov: bool = False,
    ensemble_axes: int | Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The AdamP optimizer, for networks with normalization layers.

    Weights before a normalization layer are scale-invariant: their gradient is at right angles to
    them, and momentum makes them longer at every step, which shrinks the effective step size.
    AdamP finds such weights by the angle and takes the radial part out of their step.

    With Adam's uncorrected moments :math:`m, v` after :math:`t` steps,

    .. math::

      \begin{align*}
        q &= m / (\sqrt{v / (1 - \beta_2^t)} + \varepsilon) \\
        q, \rho &\leftarrow \begin{cases}
          q - \hat{w} \langle \hat{w}, q \rangle,\ \rho_{wd} &
            \text{if } \max |\cos(g, w)| < \delta / \sqrt{n} \\
          q,\ 1 & \text{otherwise} \end{cases} \\
        w &\leftarrow (1 - \alpha \lambda \rho)\, w - \frac{\alpha}{1 - \beta_1^t}\, q
      \end{align*}

    with :math:`\hat{w} = w / (\|w\| + \varepsilon)`. Cosine, norm and inner product are first taken
    for each output channel (the last axis of a flax kernel), whose weights number :math:`n`, and
    the test is on the largest cosine of the leaf. If it fails, they are taken for the whole leaf.
    Leaves with fewer than two axes take AdamW's steps. The authors' learning rate is 1e-3.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator and to the norm of the weights, and the smallest norm in the
            cosine; greater than 0.
        delta: threshold on the cosine, at least 0. With 0 nothing is projected: AdamP is AdamW.
        wd_ratio: share of the weight decay that projected leaves keep, at least 0.
        weight_decay: decoupled weight decay, at least 0, multiplied by the learning rate.
        nesterov: whether to replace the first moment by its average with one more copy of the
            gradient.
        ensemble_axes: number of leading axes that index the members of an ensemble (1 for critics
            under `flax.linen.vmap`), for all leaves or as a pytree that mirrors the parameters or
            is a prefix of them. Each member is a leaf of its own. `None` is 0.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing or
            `ensemble_axes` is traced or negative; if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = adamp(learning_rate=0.1)
        >>> params = {"kernel": jnp.array([[3.0], [4.0]])}
        >>> state = optimizer.init(params)
        >>> loss = lambda p: (p["kernel"] / jnp.linalg.norm(p["kernel"]))[0, 0]
        >>> for _ in range(5):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params["kernel"].round(1).T, f"{jnp.linalg.norm(params['kernel']):.2f}")
        [[2.4 4.4]] 5.01

    References:
        Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
        Weights <https://arxiv.org/abs/2006.08217>`_, ICLR 2021, arXiv 2006.08217.

    .. note::
      The authors' channels are the first axis, as PyTorch lays kernels out; here they are the last.

    .. note::
      The floor of the norms in the cosine is absolute: channels whose gradient is shorter than
      `eps`, such as those of dead units, count as scale-invariant. Nothing checks that weights
      truly are so: without normalization layers, and with `n` small, large parts of a network
      may be projected by chance, since random vectors have cosines of about `1 / sqrt(n)`.

    .. note::
      Moments and steps are computed in float32 at least.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_adamp(
            b1=b1,
            b2=b2,
            eps=eps,
            delta=delta,
            wd_ratio=wd_ratio,
            weight_decay=weight_decay,
            nesterov=nesterov,
            ensemble_axes=ensemble_axes,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


@on_trained_leaves
def scale_by_sgdp(
    momentum: jax.typing.ArrayLike = 0.0,
    dampening: jax.typing.ArrayLike = 0.0,
    eps: jax.typing.ArrayLike = 1e-8,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    weight_decay: jax.typing.ArrayLike = 0.0,
    nesterov: bool = False,
    ensemble_axes: int | Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as SGDP does, weight decay included, without the learning rate.

    See `sgdp` for the equations, the arguments and the notes.

    Args:
        momentum: decay rate of the trace, in [0, 1).
        dampening: share of the gradient that the trace leaves out, in [0, 1).
        eps: added to norms, greater than 0.
        delta: threshold on the cosine, at least 0.
        wd_ratio: share of the weight decay that projected leaves keep, at least 0.
        weight_decay: decoupled weight decay, at least 0.
        nesterov: whether to look one gradient ahead.
        ensemble_axes: number of leading axes that index the members of an ensemble.

    Returns:
        The transformation. `update` needs the parameters.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing or
            `ensemble_axes` is traced or negative; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_sgdp()
        >>> params = {"kernel": jnp.array([[1.0], [0.0]])}
        >>> grads = {"kernel": jnp.array([[0.01], [1.0]])}
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates["kernel"].round(3).T)
        [[0. 1.]]

    References:
        Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
        Weights <https://arxiv.org/abs/2006.08217>`_, ICLR 2021, arXiv 2006.08217.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("dampening", dampening, 0.0, 1.0)
    _check_projection(eps, delta, wd_ratio, weight_decay)

    def init_fn(params: optax.Params) -> ScaleBySGDPState:
        return ScaleBySGDPState(working_zeros(params))

    def accumulate(grad: Any, trace: Any) -> Any:
        kept, left_out = (jnp.asarray(number, trace.dtype) for number in (momentum, dampening))
        return kept * trace + (1 - left_out) * grad.astype(trace.dtype)

    def direction(grad: Any, trace: Any, param: Any, axes: Any) -> Any:
        dtype = trace.dtype
        g, w, mass = grad.astype(dtype), param.astype(dtype), jnp.asarray(momentum, dtype)
        step = g + mass * trace if nesterov else trace
        step, decay = _project(g, step, w, eps, delta, wd_ratio, axes)
        decay = jnp.asarray(weight_decay, dtype) * decay / (1 - mass)
        return (step + decay * w).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleBySGDPState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySGDPState]:
        del extra_args
        check_params("SGDP", params)
        trace = jax.tree.map(accumulate, updates, state.trace)
        axes = match_tree("ensemble_axes", 0 if ensemble_axes is None else ensemble_axes, updates)
        updates = jax.tree.map(direction, updates, trace, params, axes)
        return updates, ScaleBySGDPState(trace)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def sgdp(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.0,
    dampening: jax.typing.ArrayLike = 0.0,
    eps: jax.typing.ArrayLike = 1e-8,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    weight_decay: jax.typing.ArrayLike = 0.0,
    nesterov: bool = False,
    ensemble_axes: int | Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The SGDP optimizer: SGD with momentum and AdamP's projection.

    .. math::

      \begin{align*}
        b &\leftarrow \mu b + (1 - d)\, g, \qquad q = b \ \text{ or, with Nesterov, } g + \mu b \\
        q, \rho &\leftarrow \text{as in AdamP} \\
        w &\leftarrow \Bigl(1 - \frac{\alpha \lambda \rho}{1 - \mu}\Bigr) w - \alpha\, q
      \end{align*}

    See `adamp` for the projection and for what it is good for.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        momentum: decay rate :math:`\mu` of the trace, in [0, 1).
        dampening: share :math:`d` of the gradient that the trace leaves out, in [0, 1).
        eps: added to the norm of the weights, and the smallest norm in the cosine; greater than 0.
        delta: threshold on the cosine, at least 0. With 0, SGDP is SGD with decoupled weight decay.
        wd_ratio: share of the weight decay that projected leaves keep, at least 0.
        weight_decay: decoupled weight decay, at least 0, multiplied by the learning rate and
            divided by `1 - momentum`.
        nesterov: whether to use Nesterov's momentum.
        ensemble_axes: number of leading axes that index the members of an ensemble (1 for critics
            under `flax.linen.vmap`), for all leaves or as a pytree that mirrors the parameters or
            is a prefix of them. Each member is a leaf of its own. `None` is 0.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing or
            `ensemble_axes` is traced or negative; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = sgdp(learning_rate=0.1, momentum=0.9)
        >>> params = {"kernel": jnp.array([[1.0], [0.0]]), "bias": jnp.ones(1)}
        >>> grads = {"kernel": jnp.array([[0.01], [1.0]]), "bias": jnp.ones(1)}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(updates["kernel"].round(3).T, updates["bias"])
        [[-0.  -0.1]] [-0.1]

    References:
        Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
        Weights <https://arxiv.org/abs/2006.08217>`_, ICLR 2021, arXiv 2006.08217.

    .. note::
      The notes of `adamp` hold here too. The trace begins at zero, so `dampening` also acts
      on the first gradient.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_sgdp(
            momentum=momentum,
            dampening=dampening,
            eps=eps,
            delta=delta,
            wd_ratio=wd_ratio,
            weight_decay=weight_decay,
            nesterov=nesterov,
            ensemble_axes=ensemble_axes,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _check_projection(eps: Any, delta: Any, wd_ratio: Any, weight_decay: Any) -> None:
    check_range("eps", eps, 0.0, open_low=True)
    check_range("delta", delta, 0.0)
    check_range("wd_ratio", wd_ratio, 0.0)
    check_range("weight_decay", weight_decay, 0.0)


def _project(
    grad: jax.Array,
    step: jax.Array,
    param: jax.Array,
    eps: jax.typing.ArrayLike,
    delta: jax.typing.ArrayLike,
    wd_ratio: jax.typing.ArrayLike,
    axes: Any,
) -> tuple[jax.Array, jax.Array]:
    """Returns the step without its radial part, and the factor of the weight decay."""
    dtype = working_dtype(param)
    eps, delta, wd_ratio = (jnp.asarray(number, dtype) for number in (eps, delta, wd_ratio))
    member = tuple(range(static_integer("ensemble_axes", axes, 0), param.ndim))
    if len(member) < 2 or param.size == 0:
        return step, jnp.ones([], dtype)
    projected, done = step, jnp.asarray(False)
    for row in (member[:-1], member):  # The weights of an output channel, then of the layer.
        length = math.prod(param.shape[axis] for axis in row)
        row_sum = functools.partial(jnp.sum, axis=row, keepdims=True)
        floored = jnp.maximum(norm(grad, row), eps) * jnp.maximum(norm(param, row), eps)
        cosine = jnp.max(jnp.abs(row_sum(grad * param)) / floored, axis=member, keepdims=True)
        tangential = ~done & (cosine < delta / math.sqrt(length))
        unit = param / (norm(param, row) + eps)
        projected = jnp.where(tangential, step - unit * row_sum(unit * step), projected)
        done = done | tangential
    return projected, jnp.where(done, wd_ratio, 1)
