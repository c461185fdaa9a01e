"""TVLARS: steps in proportion to the weights of each layer, on a curve that replaces a warm-up."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range, static_integer, suggestion
from optim._leaves import norm, working_dtype
from optim._paths import as_mask, match_tree
from optim._trained import on_trained_leaves

Variant = Literal["paper", "repo"]


class ScaleByTvlarsState(NamedTuple):
    """State of `scale_by_tvlars`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32


@on_trained_leaves
def scale_by_tvlars(
    trust_coefficient: jax.typing.ArrayLike = 0.001,
    decay: jax.typing.ArrayLike = 0.001,
    alpha: jax.typing.ArrayLike = 0.1,
    delay: jax.typing.ArrayLike = 0.0,
    floor: jax.typing.ArrayLike = 0.0,
    max_norm: jax.typing.ArrayLike = 10.0,
    variant: Variant = "paper",
    ensemble_axes: int | Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales each leaf as TVLARS does, without weight decay, momentum and learning rate.

    See `tvlars` for the equations and the notes.

    Args:
        trust_coefficient: length of a step relative to the weights, greater than 0.
        decay: steepness of the curve, at least 0.
        alpha: inverse of the curve's highest value, greater than 0.
        delay: step at which the exponential in the curve passes 1.
        floor: added to the curve, at least 0.
        max_norm: largest norm that is told from a larger one, greater than 0.
        variant: `"paper"`, or `"repo"` for the authors' code, which has no delay and no floor.
        ensemble_axes: number of leading axes that index the members of an ensemble.

    Returns:
        The transformation. `update` needs the parameters.

    Raises:
        ValueError: if an argument is outside its range; from `update`, if `params` is missing or
            `ensemble_axes` is traced or negative, or a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_tvlars(trust_coefficient=0.1, decay=0.0, alpha=1.0)
        >>> params = jnp.array([3.0, 4.0])
        >>> grads = jnp.array([0.0, 2.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates)  # A length of 5 times 0.1 times 1 / (1 + exp(0)).
        [0.   0.25]

    References:
        Do et al., `Revisiting LARS for Large Batch Training Generalization of Neural Networks
        <https://arxiv.org/abs/2309.14053>`_, 2023, arXiv 2309.14053.
    """
    check_range("trust_coefficient", trust_coefficient, 0.0, open_low=True)
    check_range("decay", decay, 0.0)
    check_range("alpha", alpha, 0.0, open_low=True)
    check_range("delay", delay, float("-inf"), open_low=True)
    check_range("floor", floor, 0.0)
    check_range("max_norm", max_norm, 0.0, open_low=True)
    variants = get_args(Variant)
    if variant not in variants:
        raise ValueError(
            f"variant must be one of {', '.join(variants)}, got {variant!r}; "
            f"{suggestion(str(variant), variants)}."
        )

    def init_fn(params: optax.Params) -> ScaleByTvlarsState:
        del params
        return ScaleByTvlarsState(jnp.zeros([], jnp.int32))

    def curve(step: jax.Array) -> jax.Array:
        if variant == "repo":
            return 1 / (0.1 + jnp.exp(jnp.asarray(decay, step.dtype) * step))
        slope, top, start, bottom = (
            jnp.asarray(number, step.dtype) for number in (decay, alpha, delay, floor)
        )
        return 1 / (top + jnp.exp(slope * (step - start))) + bottom

    def rescale(grad: Any, param: Any, axes: Any, *, count: jax.Array) -> Any:
        dtype = working_dtype(param)
        g, w, limit = grad.astype(dtype), param.astype(dtype), jnp.asarray(max_norm, dtype)
        member = tuple(range(static_integer("ensemble_axes", axes, 0), param.ndim))
        grad_norm, param_norm = (jnp.minimum(norm(leaf, member), limit) for leaf in (g, w))
        ratio = param_norm / jnp.where(grad_norm > 0, grad_norm, 1)
        ratio = jnp.asarray(trust_coefficient, dtype) * ratio * curve(count.astype(dtype))
        ratio = jnp.where((grad_norm > 0) & (param_norm > 0), ratio, 1)
        return (ratio * g).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByTvlarsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByTvlarsState]:
        del extra_args
        check_params("TVLARS", params)
        count = optax.safe_increment(state.count)
        axes = match_tree("ensemble_axes", 0 if ensemble_axes is None else ensemble_axes, updates)
        updates = jax.tree.map(functools.partial(rescale, count=count), updates, params, axes)
        return updates, ScaleByTvlarsState(count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def tvlars(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.9,
    weight_decay: jax.typing.ArrayLike = 5e-4,
    trust_coefficient: jax.typing.ArrayLike = 0.001,
    decay: jax.typing.ArrayLike = 0.001,
    alpha: jax.typing.ArrayLike = 0.1,
    delay: jax.typing.ArrayLike = 0.0,
    floor: jax.typing.ArrayLike = 0.0,
    max_norm: jax.typing.ArrayLike = 10.0,
    variant: Variant = "paper",
    ensemble_axes: int | Any | None = None,
    mask: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The TVLARS optimizer: LARS on a sigmoid curve in place of a warm-up.

    For each leaf, with :math:`t = 1, 2, \dots` and :math:`K` the largest norm,

    .. math::

      \begin{align*}
        g &\leftarrow g + \lambda_{wd}\, w \\
        \phi_t &= \frac{1}{\alpha + \exp(\lambda (t - d))} + \phi_{\min} \\
        \rho &= \eta\, \phi_t\, \frac{\min(\|w\|, K)}{\min(\|g\|, K)}
          \ \text{ if both norms are positive, else } 1 \\
        b &\leftarrow \mu b + \rho\, g, \qquad w \leftarrow w - \alpha_t\, b
      \end{align*}

    Args:
        learning_rate: step size, greater than 0, or a schedule. Steps have a length of about
            `learning_rate * trust_coefficient` times that of the weights: LARS's learning rates are
            around 1, not those of Adam.
        momentum: decay rate :math:`\mu` of the trace, in [0, 1).
        weight_decay: L2 penalty :math:`\lambda_{wd}`, at least 0. It counts in the norm of the
            gradient.
        trust_coefficient: length :math:`\eta` of a step relative to the weights, greater than 0.
        decay: steepness :math:`\lambda` of the curve, at least 0.
        alpha: inverse of the curve's highest value, greater than 0.
        delay: step :math:`d` at which the exponential in the curve passes 1.
        floor: what the curve falls to, :math:`\phi_{\min}`, at least 0. **With the default of 0
            training stops** some `10 / decay` steps after `delay`. 1 ends as LARS.
        max_norm: largest norm :math:`K` that is told from a larger one, greater than 0.
        variant: `"paper"`, or `"repo"` for the authors' code: its curve is
            :math:`1 / (0.1 + \exp(\lambda t))`, and `alpha`, `delay` and `floor` are ignored.
        ensemble_axes: number of leading axes that index the members of an ensemble (1 for critics
            under `flax.linen.vmap`), for all leaves or as a pytree that mirrors the parameters or
            is a prefix of them. Each member is a leaf of its own. `None` is 0.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if an argument is outside its range; from `update`, if `params` is missing or
            `ensemble_axes` is traced or negative, or a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = tvlars(learning_rate=10.0, delay=50.0, decay=0.1, floor=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum((p - 1) ** 2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params - 1)) < 0.2)
        True

    References:
        Do et al., `Revisiting LARS for Large Batch Training Generalization of Neural Networks
        <https://arxiv.org/abs/2309.14053>`_, 2023, arXiv 2309.14053.

    .. note::
      The defaults are those of the authors' code. The paper's delay and floor, which that code
      lacks, depend on the task; at their defaults of 0 both variants are the same curve. The norms
      are bounded as in the code in both variants.

    .. note::
      As in the authors' code, a leaf of zeros is updated with the gradient itself, about
      `1 / trust_coefficient` times more than others. flax's biases begin so. Give such leaves
      another optimizer with `optax.partition` where it matters.

    .. note::
      Norms are computed in float32 at least. Under `optax.inject_hyperparams`, name `mask`
      and `ensemble_axes` in `static_args` if they are a function or a number.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds all numbers to three digits:
      give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        scale_by_tvlars(
            trust_coefficient=trust_coefficient,
            decay=decay,
            alpha=alpha,
            delay=delay,
            floor=floor,
            max_norm=max_norm,
            variant=variant,
            ensemble_axes=ensemble_axes,
        ),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )
