"""Limits what an optimizer is told besides gradients and parameters."""

from collections.abc import Collection
from typing import Any

import optax

from optim._checks import check_optimizer


def with_only_extra_args(
    optimizer: optax.GradientTransformation, names: Collection[str]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that is passed some extra arguments, if they are there, and no others.

    Learners pass all that they have, and most optimizers ignore what they do not need. The line
    searches of `optax.lbfgs` and others hand on whatever they get to the function that they
    minimise, and fail.

    Args:
        optimizer: any transformation.
        names: of the arguments of its `update` that it is passed.

    Returns:
        The same transformation, which accepts any extra argument.

    Raises:
        ValueError: if `names` is a single text, or `optimizer` no transformation.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(params**2)
        >>> optimizer = with_only_extra_args(optax.lbfgs(), ("value", "grad", "value_fn"))
        >>> params = jnp.ones(2)
        >>> grads = 2 * params
        >>> extras = {"value": loss(params), "grad": grads, "value_fn": loss, "reset": False}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params, **extras)
        >>> print(loss(params + updates) < loss(params))
        True
    """
    if isinstance(names, str):
        raise ValueError(f"names must be several texts, e.g. ({names!r},), got {names!r}.")
    check_optimizer("optimizer", optimizer)
    optimizer = optax.with_extra_args_support(optimizer)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        passed = {name: value for name, value in extra_args.items() if name in names}
        return optimizer.update(updates, state, params, **passed)

    return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)
