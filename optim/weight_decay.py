"""Weight decay around any optimizer: the options `l2` and `decoupled_decay` of every spec."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_optimizer, check_params, check_range
from optim._leaves import widest_dtype, working_dtype
from optim._penalty import with_gradient, with_penalty
from optim._trained import on_trained_leaves


class WeightDecayState(NamedTuple):
    """State of `with_weight_decay`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    inner_state: optax.OptState


def with_weight_decay(
    optimizer: optax.GradientTransformation,
    l2: float = 0.0,
    decoupled_decay: float = 0.0,
    learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds weight decay to an optimizer, coupled, decoupled or both.

    `l2` is a penalty on the loss f: the optimizer is given that of
    :math:`f(\theta) + \tfrac{\lambda}{2} \|\theta\|^2`, before its moments. `decoupled_decay` moves
    the parameters beside the optimizer's update u, by the learning rate :math:`\alpha` of the same
    update:

    .. math::

      g \leftarrow g + \lambda\, \theta, \qquad
      \theta \leftarrow \theta + u(g) - \alpha\, \delta\, \theta

    Args:
        optimizer: any transformation, whose updates are added to the parameters.
        l2: :math:`\lambda`, in [0, inf). The extra arguments `value`, `grad`, `value_fn` and
            `obj_fn` are changed as the gradient is.
        decoupled_decay: :math:`\delta`, in [0, inf).
        learning_rate: :math:`\alpha`, a number, tracer or schedule; 1 for optimizers without one.

    Returns:
        The optimizer; with neither it is the one that was given. `update` needs the parameters.

    Raises:
        ValueError: if `optimizer` is none, or a number is outside its range; from `update`, if
            `params` is missing, or with `l2` an extra argument is given that cannot be changed with
            the loss.

    Examples:
        >>> optimizer = with_weight_decay(optax.sgd(0.1), l2=0.5, decoupled_decay=1.0,
        ...                               learning_rate=0.1)
        >>> params = jnp.ones(1)
        >>> updates, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
        >>> print(updates)
        [-0.25]

    References:
        Loshchilov and Hutter, `Decoupled Weight Decay Regularization
        <https://arxiv.org/abs/1711.05101>`_, ICLR 2019, arXiv 1711.05101.
    """
    check_optimizer("optimizer", optimizer)
    check_range("l2", l2, 0.0)
    check_range("decoupled_decay", decoupled_decay, 0.0)
    if not (l2 or decoupled_decay):
        return optax.with_extra_args_support(optimizer)
    return _with_weight_decay(optimizer, l2, decoupled_decay, learning_rate)


# What specs may hold for any optimizer: parameters of `with_weight_decay`.
DECAY_OPTIONS: Mapping[str, inspect.Parameter] = {
    name: inspect.signature(with_weight_decay).parameters[name]
    for name in ("l2", "decoupled_decay")
}


def split_decay(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tells an optimizer's own options from those of its weight decay.

    Args:
        options: all of them.

    Returns:
        Its own, and arguments of `with_weight_decay`.

    Examples:
        >>> split_decay({"b1": 0.9, "l2": 1e-4})
        ({'b1': 0.9}, {'l2': 0.0001})
    """
    own = {name: value for name, value in options.items() if name not in DECAY_OPTIONS}
    return own, {name: value for name, value in options.items() if name in DECAY_OPTIONS}


@on_trained_leaves
def _with_weight_decay(
    optimizer: optax.GradientTransformation,
    l2: float,
    decoupled_decay: float,
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """See `with_weight_decay`."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init_fn(params: optax.Params) -> WeightDecayState:
        return WeightDecayState(jnp.zeros([], jnp.int32), optimizer.init(params))

    def update_fn(
        updates: optax.Updates,
        state: WeightDecayState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, WeightDecayState]:
        check_params("weight decay", params)
        if l2:
            terms = _scaled(params, l2)
            updates = with_gradient(updates, terms)
            extra_args = with_penalty(
                extra_args, params, lambda params: _penalty(params, l2), terms, "l2"
            )
        updates, inner_state = optimizer.update(updates, state.inner_state, params, **extra_args)
        if decoupled_decay:
            rate: Any = learning_rate(state.count) if callable(learning_rate) else learning_rate
            updates = with_gradient(updates, _scaled(params, -rate * decoupled_decay))
        return updates, WeightDecayState(optax.safe_increment(state.count), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _scaled(params: Any, factor: Any) -> list[jax.Array]:
    """The parameters times a factor, in flatten order."""
    dtypes = [working_dtype(leaf) for leaf in jax.tree.leaves(params)]
    return [
        jnp.asarray(factor, dtype) * leaf.astype(dtype)
        for leaf, dtype in zip(jax.tree.leaves(params), dtypes, strict=True)
    ]


def _penalty(params: Any, l2: float) -> Any:
    dtype = widest_dtype(params)
    leaves = [leaf.astype(dtype) for leaf in jax.tree.leaves(params)]
    return 0.5 * l2 * sum(jnp.sum(jnp.square(leaf)) for leaf in leaves)
