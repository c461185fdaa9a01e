"""Keeps the parameters for optimizers that need them, where a loop does not pass them."""

from typing import Any, NamedTuple

import jax
import optax

from optim._checks import check_optimizer
from optim._parameter_map import initial_copy
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


class KeepParamsState(NamedTuple):
    """State of `keep_params`."""

    params: optax.Params  # as they are after the last update
    inner_state: optax.OptState


@on_trained_leaves
def keep_params(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer that needs the parameters run in a loop that calls `update` without them.

    Many optimizers here look at the parameters, and a few loops, such as those of Brax, call
    `update(grads, state)`. The state then holds the parameters: `init` copies them, and each
    update is added to the copy as `optax.apply_updates` adds it to the loop's own.

    Args:
        inner: a whole optimizer, learning rate and clipping included.

    Returns:
        The optimizer. If `update` is given parameters after all, these count, and are kept. Extra
        arguments go to the inner optimizer.

    Raises:
        ValueError: if `inner` is no transformation.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optim
        >>> optimizer = keep_params(optim.adamo(1e-2, kappa=1.0))
        >>> params = {"kernel": 2.0 * jnp.eye(2)}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state)
        >>> params = optax.apply_updates(params, updates)
        >>> print(jnp.array_equal(state.params["kernel"], params["kernel"]))
        True

    .. note::
      It has to be the outermost transformation: what comes after it in a chain would change the
      updates that it has already added. A loop that changes parameters by other means, or applies
      only some of the updates, has to pass them.

    .. note::
      The copy costs as much memory as the parameters.
    """
    check_optimizer("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> KeepParamsState:
        return KeepParamsState(jax.tree.map(initial_copy, params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: KeepParamsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, KeepParamsState]:
        params = state.params if params is None else params
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        return updates, KeepParamsState(optax.apply_updates(params, updates), inner_state)

    return with_standard_promotion(optax.GradientTransformationExtraArgs(init_fn, update_fn))
