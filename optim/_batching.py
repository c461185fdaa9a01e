"""Lets `vmap` update one member after the other, where side by side is slow or not safe."""

from collections.abc import Callable
from typing import Any

import jax


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which `vmap` calls for one member after the other.

    Side by side, both branches of each condition would be computed for all members, and batched
    decompositions or triangular solves of two programs at once can wait for each other for ever on
    a CPU.

    Args:
        function: of pytrees of arrays. What it closes over may be mapped too.

    Returns:
        The function, with derivatives of both modes.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> half = in_turn(lambda x: jax.lax.cond(x[0] > 1, lambda: x / 2, lambda: x))
        >>> print(jax.vmap(half)(jnp.array([[1.0, 4.0], [2.0, 4.0]])))
        [[1. 4.]
         [1. 2.]]
    """

    def call(*arguments: Any) -> Any:
        # With shardings in the types, those of the results would not be the function's own.
        if jax.sharding.get_abstract_mesh().explicit_axes:
            return function(*arguments)
        # It imports Pallas, which takes longer than all of `optim`, and few optimizers come here.
        from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

        # What is mapped must be an argument, also what the function closes over.
        closed, result = jax.make_jaxpr(function, return_shape=True)(*arguments)

        def explicit(constants: list[Any], *leaves: Any) -> list[Any]:
            return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(*leaves)

        # `sequential_vmap` has no reverse mode, the function has.
        sequential = jax.custom_jvp(jax.custom_batching.sequential_vmap(explicit))
        sequential.defjvp(lambda primals, tangents: jax.jvp(explicit, primals, tangents))
        leaves = sequential(closed.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return call
