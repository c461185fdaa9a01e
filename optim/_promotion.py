"""Lets optax's transformations run where JAX's strict dtype promotion is on."""

from typing import Any

import jax
import optax

from optim._checks import check_optimizer


def with_standard_promotion(
    transform: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation under JAX's standard dtype promotion, whatever the caller's setting.

    optax raises decay rates to the power of an integer step count, which
    `jax_numpy_dtype_promotion='strict'` refuses; `optax.adam` does not run there.

    Args:
        transform: any transformation.

    Returns:
        The same transformation, which also accepts extra arguments.

    Raises:
        ValueError: if it is none; the message calls it `inner`, as the wrappers do.

    Examples:
        >>> import jax, optax
        >>> adam = with_standard_promotion(optax.adam(0.1))
        >>> params = jax.numpy.ones(2)
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     updates, _ = adam.update(params, adam.init(params), params)
        >>> print(updates.round(3))
        [-0.1 -0.1]
    """
    check_optimizer("inner", transform)
    transform = optax.with_extra_args_support(transform)

    def init_fn(params: optax.Params) -> optax.OptState:
        with jax.numpy_dtype_promotion("standard"):
            return transform.init(params)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
