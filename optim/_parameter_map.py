"""Maps of parameters behind an optimizer, written as changes of its updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim._leaves import working_dtype


def mapped_update(
    update: jax.Array, param: jax.Array, function: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """The update that leads where a function takes the updated parameter.

    Entries that the function leaves as they are keep the update that they have, bit for bit. Others
    end where it takes them up to the rounding of a difference and a sum.

    Args:
        update: of one leaf.
        param: the leaf.
        function: from the updated leaf, in float32 or float64, to one of its shape and dtype.

    Returns:
        The update, in the dtype that it had.

    Examples:
        >>> print(mapped_update(jnp.array([1.0, 0.5]), jnp.ones(2), lambda p: jnp.minimum(p, 1.5)))
        [0.5 0.5]
    """
    dtype = working_dtype(param)
    old = param.astype(dtype)
    reached = old + update.astype(dtype)
    new = function(reached)
    return jnp.where(new == reached, update, (new - old).astype(update.dtype))


def initial_copy(leaf: Any) -> jax.Array:
    """A copy of a leaf that outlives the donation of the leaf's buffer; zeros for a shape alone.

    Args:
        leaf: array, or a shape with a dtype.

    Returns:
        The copy.

    Examples:
        >>> print(initial_copy(jnp.ones(2)), initial_copy(jax.ShapeDtypeStruct((2,), jnp.float32)))
        [1. 1.] [0. 0.]
    """
    return jnp.zeros_like(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.copy(leaf)
