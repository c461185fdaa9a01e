"""Penalties on the parameters, added to all that an optimizer is told of the loss."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def with_gradient(tree: Any, terms: Sequence[jax.Array | None]) -> Any:
    """Adds a penalty's gradient to that of the loss, in the dtypes of the latter.

    Args:
        tree: the gradient of the loss.
        terms: that of the penalty, for each leaf in flatten order, in the dtype to compute in; None
            where there is none.

    Returns:
        The sum.

    Examples:
        >>> print(with_gradient({"a": jnp.ones(2), "b": jnp.ones(1)}, [jnp.ones(2), None]))
        {'a': Array([2., 2.], dtype=float32), 'b': Array([1.], dtype=float32)}
    """
    leaves = [
        leaf if term is None else (leaf.astype(term.dtype) + term).astype(leaf.dtype)
        for leaf, term in zip(jax.tree.leaves(tree), terms, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def with_penalty(
    extra_args: dict[str, Any],
    params: Any,
    penalty: Callable[[Any], jax.Array],
    terms: Sequence[jax.Array | None],
    cause: str,
) -> dict[str, Any]:
    """Extra arguments of an optimizer's update for the loss with a penalty.

    Args:
        extra_args: those for the loss alone.
        params: the parameters.
        penalty: from parameters to the penalty.
        terms: its gradient at the parameters, as `with_gradient` takes it.
        cause: name of what asks for the penalty, for the message.

    Returns:
        All extra arguments; `value`, `grad`, `value_fn` and `obj_fn` are changed.

    Raises:
        ValueError: if one is given that cannot be changed with the loss.

    Examples:
        >>> penalty = lambda params: jnp.sum(params**2)
        >>> extra = {"value": jnp.float32(1), "reset": False}
        >>> with_penalty(extra, jnp.ones(2), penalty, [jnp.full(2, 2.0)], "l2")["value"]
        Array(3., dtype=float32)
    """

    def function(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def penalised(params: Any) -> Any:
            value = loss(params)
            return value + jnp.asarray(penalty(params), jnp.result_type(value))

        return penalised

    changes: dict[str, Callable[[Any], Any]] = {
        "value": lambda value: value + jnp.asarray(penalty(params), jnp.result_type(value)),
        "grad": lambda grad: with_gradient(grad, terms),
        "value_fn": function,
        "obj_fn": function,
    }
    given = {name: value for name, value in extra_args.items() if value is not None}
    for name in ("hvp", "previous_gradient"):  # taken where the parameters were, or of the loss
        if name in given:
            raise ValueError(f"{name} must be left out where {cause} is set; pass obj_fn instead.")
    return extra_args | {name: changes[name](given[name]) for name in changes if name in given}
