"""AdaHessian: Adam with the diagonal of the Hessian in place of the gradient's square."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range, missing
from optim._leaves import (
    average,
    average_of_squares,
    bias_correction,
    key_of_seed,
    safe_sqrt,
    working_zeros,
)
from optim._paths import as_mask
from optim._trained import on_trained_leaves


class ScaleByAdaHessianState(NamedTuple):
    """State of `scale_by_adahessian`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    key: jax.Array  # shape=(2,), dtype=uint32; or a key of the kind that was given
    mu: optax.Updates  # like params, at least float32: average gradient
    nu: optax.Updates  # like mu: average square of the Hessian's diagonal


@on_trained_leaves
def scale_by_adahessian(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-4,
    hessian_power: jax.typing.ArrayLike = 1.0,
    spatial_averaging: bool = True,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates as AdaHessian does, without weight decay and learning rate.

    See `adahessian` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator, at least 0.
        hessian_power: exponent of the root of the second moment, at least 0.
        spatial_averaging: whether the diagonal is averaged over the spatial axes of convolutions.
        key: key or seed of the random probes; `init` mixes it with the initial parameters.

    Returns:
        The transformation. `update` needs the parameters, and `obj_fn` or `hvp`.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing,
            `obj_fn` and `hvp` are both missing, or a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> loss = lambda params: 2.0 * jnp.sum(params**2)
        >>> params = jnp.array([1.0, -3.0])
        >>> direction = scale_by_adahessian(eps=0.0)
        >>> grads, state = jax.grad(loss)(params), direction.init(params)
        >>> print(direction.update(grads, state, params, obj_fn=loss)[0].round(1))
        [ 1. -3.]

    References:
        Yao et al., `ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning
        <https://arxiv.org/abs/2006.00719>`_, AAAI 2021, arXiv 2006.00719.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("hessian_power", hessian_power, 0.0)

    def init_fn(params: optax.Params) -> ScaleByAdaHessianState:
        mu, nu = working_zeros(params), working_zeros(params)
        return ScaleByAdaHessianState(
            count=jnp.zeros([], jnp.int32), key=key_of_seed(key, params), mu=mu, nu=nu
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdaHessianState,
        params: optax.Params | None = None,
        *,
        obj_fn: Callable[[optax.Params], jax.Array] | None = None,
        hvp: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdaHessianState]:
        del extra_args
        check_params("adahessian", params)
        new_key, probe_key = jax.random.split(state.key)
        if hvp is None:
            if obj_fn is None:
                raise missing("adahessian", "obj_fn", "the loss as a function of the parameters")
            probe = _rademacher_like(probe_key, params)
            _, hvp = jax.jvp(jax.grad(obj_fn), (params,), (probe,))
        count = optax.safe_increment(state.count)

        def diagonal(v: jax.Array, product: jax.Array) -> jax.Array:
            return _diagonal(product.astype(v.dtype), spatial_averaging)

        def direction(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            dtype = m.dtype
            root = safe_sqrt(v / bias_correction(b2, count, dtype))
            denominator = _power(root, jnp.asarray(hessian_power, dtype)) + jnp.asarray(eps, dtype)
            return (m / bias_correction(b1, count, dtype) / denominator).astype(g.dtype)

        mu = average(b1, state.mu, updates)
        nu = average_of_squares(b2, state.nu, jax.tree.map(diagonal, state.nu, hvp))
        updates = jax.tree.map(direction, updates, mu, nu)
        return updates, ScaleByAdaHessianState(count, new_key, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def adahessian(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-4,
    hessian_power: jax.typing.ArrayLike = 1.0,
    weight_decay: jax.typing.ArrayLike = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    spatial_averaging: bool = True,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""The AdaHessian optimizer: Adam's step with the curvature as its scale.

    For the gradient :math:`g` and the Hessian :math:`H` of one loss, and a vector :math:`z` of
    independent random signs, drawn anew in every step,

    .. math::

      \begin{align*}
        D &= |H z| \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, D^2 \\
        \theta &\leftarrow \theta - \alpha \left(
          \frac{m / (1 - \beta_1^t)}{\big(\sqrt{v / (1 - \beta_2^t)}\big)^k + \varepsilon}
          + \lambda \theta \right)
      \end{align*}

    :math:`z \odot H z` estimates the diagonal of the Hessian without bias, and
    :math:`|z \odot H z| = |H z|`. In the kernels of convolutions, :math:`D` is replaced by its mean
    over the window.

    `update` takes the Hessian from one of two extra arguments. `obj_fn` is optax's convention
    (as in `optax.contrib.sophia`): a function from parameters to the loss on the batch from
    which the gradient comes, a scalar; the product costs about two more gradients. `hvp` is the
    product itself, a pytree like the parameters, computed by the caller for a probe of random
    signs; the signs themselves are not needed. `hvp` comes first where both are given.

    The authors' learning rate is 0.15, hundreds of times that of Adam.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator, at least 0.
        hessian_power: exponent :math:`k` of the root of the second moment, at least 0. The authors
            use values in [0, 1]; 1 is a step of Newton's method, 0 is momentum.
        weight_decay: strength of the decoupled weight decay, at least 0.
        weight_decay_mask: booleans that select the decayed leaves: a pytree that mirrors the
            parameters or is a prefix of them, or a function from parameters to one. `None` selects
            all.
        spatial_averaging: whether the diagonal is averaged over the window of convolutions: over
            the axes 0 and 1 of leaves with four axes, which are kernels of flax, (height, width,
            inputs, outputs). Must not be traced.
        key: key or seed of the random probes; `init` mixes it with the initial parameters.

    Returns:
        The optimizer. `update` needs the parameters, and `obj_fn` or `hvp`; it ignores other
        extra arguments.

    Raises:
        ValueError: if a number is outside its range; from `update`, if `params` is missing,
            `obj_fn` and `hvp` are both missing, or a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(jnp.array([1.0, 100.0]) * params**2)
        >>> optimizer = adahessian(learning_rate=0.15)
        >>> params = jnp.array([1.0, 1.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params, obj_fn=loss)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(2))
        [0.37 0.37]

    References:
        Yao et al., `ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning
        <https://arxiv.org/abs/2006.00719>`_, AAAI 2021, arXiv 2006.00719.

    .. note::
      The authors' code averages over the last two axes, where PyTorch keeps a kernel's window.
      Leaves with three or more than four axes are left alone: a third axis may belong to an
      ensemble as well as to a convolution.

    .. note::
      The probes depend on `key`, the step and the parameters given to `init`: seeds that start
      from different parameters draw different signs, under `jax.vmap` too.

    .. note::
      Clipping that comes first in a chain changes the gradient but not the curvature. In losses
      with `stop_gradient` the Hessian is that of the surrogate, and where units of a network are
      piecewise linear it misses the kinks. Under `optax.masked` or `optax.partition`
      the parameters have holes that `obj_fn` does not expect: pass `hvp` there, with
      `mask_compatible_extra_args=True`.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_adahessian(
            b1=b1,
            b2=b2,
            eps=eps,
            hessian_power=hessian_power,
            spatial_averaging=spatial_averaging,
            key=key,
        ),
        optax.add_decayed_weights(weight_decay, as_mask("weight_decay_mask", weight_decay_mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _rademacher_like(key: jax.Array, params: optax.Params) -> optax.Params:
    """Independent random signs for every entry of every leaf."""
    leaves = jax.tree.leaves(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    explicit = bool(jax.sharding.get_abstract_mesh().explicit_axes)

    def signs(key: jax.Array, leaf: jax.Array) -> jax.Array:
        sign = jax.random.rademacher(key, leaf.shape, leaf.dtype)
        # With shardings in the types, a tangent has to be sharded as its primal is.
        return jax.sharding.reshard(sign, jax.typeof(leaf).sharding) if explicit else sign

    drawn = [signs(keys[i], leaf) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(jax.tree.structure(params), drawn)


def _power(root: jax.Array, power: jax.Array) -> jax.Array:
    """The power with a derivative of zero at zero, where its own may be infinite."""
    is_zero = root == 0
    at_zero = jnp.where(power > 0, 0, jnp.ones_like(root))
    return jnp.where(is_zero, at_zero, jnp.where(is_zero, 1, root) ** power)


def _diagonal(product: jax.Array, spatial_averaging: bool) -> jax.Array:
    """The size of the Hessian's diagonal as estimated from its product with random signs."""
    size = jnp.abs(product)
    if not spatial_averaging or product.ndim != 4:
        return size
    return jnp.broadcast_to(jnp.mean(size, axis=(0, 1), keepdims=True), size.shape)
