"""What the perceptrons of STAR and VeLO look at: moving averages as of Adam and Adafactor.

Averages of several decay rates lie along the first axis.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim._leaves import working_dtype


class Accumulators(NamedTuple):
    """Moving averages of a leaf, in float32, or float64 where the leaf is.

    In a leaf's largest two axes, `rows` lacks the larger one and `columns` the smaller one;
    leaves with fewer than two axes have `diagonal` instead, and the others are empty.
    """

    momentum: jax.Array  # (rates, *leaf.shape), of the gradient
    square: jax.Array  # leaf.shape, of its square, as the following
    rows: jax.Array  # (rates, *leaf.shape without the largest axis), or (0,)
    columns: jax.Array  # (rates, *leaf.shape without the second largest axis), or (0,)
    diagonal: jax.Array  # (rates, *leaf.shape), or (0,)


def zeros(param: Any, rates: int = 3) -> Accumulators:
    """Those of a leaf before its first gradient.

    Examples:
        >>> zeros(jnp.ones((4, 2))).rows.shape
        (3, 2)
    """
    # Made of the leaf, not of its shape, so that they are sharded like it.
    square = jnp.zeros_like(param, dtype=working_dtype(param))
    none = jnp.zeros((0,), square.dtype)
    repeated = lambda x: jnp.stack([x] * rates)  # noqa: E731
    if square.ndim < 2:
        return Accumulators(repeated(square), square, none, none, repeated(square))
    smaller, larger = largest_axes(square.shape)
    return Accumulators(
        repeated(square),
        square,
        repeated(jnp.sum(square, axis=larger)),
        repeated(jnp.sum(square, axis=smaller)),
        none,
    )


def largest_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """The second largest axis and the largest; of equal ones, the last is the largest.

    Examples:
        >>> largest_axes((3, 5, 4))
        (2, 1)
    """
    second, first = np.argsort(shape, kind="stable")[-2:]
    return int(second), int(first)


def mean(x: jax.Array, axes: int | tuple[int, ...]) -> jax.Array:
    """The mean with its axes kept; 0 of nothing.

    Examples:
        >>> print(mean(jnp.arange(4.0).reshape(2, 2), 1))
        [[0.5]
         [2.5]]
    """
    axes = axes if isinstance(axes, tuple) else (axes,)
    count = max(int(np.prod([x.shape[axis] for axis in axes])), 1)
    return jnp.sum(x, axis=axes, keepdims=True) / count


def inverse_root(x: jax.Array) -> jax.Array:
    """One over the root, of 1e-9 at least.

    Examples:
        >>> print(inverse_root(jnp.array([4.0, 0.25])))
        [0.5 2. ]
    """
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def accumulate(
    g: jax.Array,
    old: Accumulators,
    momentum_decays: jax.Array,
    square_decay: jax.Array,
    factored_decays: jax.Array,
) -> Accumulators:
    """The averages after a gradient.

    Args:
        g: the gradient, in their dtype.
        old: the averages before.
        momentum_decays: shape (rates,).
        square_decay: scalar.
        factored_decays: shape (rates,).

    Returns:
        The new averages.

    Examples:
        >>> decays = jnp.array([0.9, 0.99, 0.999])
        >>> new = accumulate(jnp.ones(2), zeros(jnp.ones(2)), decays, decays[2], decays)
        >>> [round(float(x), 4) for x in new.momentum[:, 0]]
        [0.1, 0.01, 0.001]
    """
    momentum, square, rows, columns, diagonal = old
    decay = _beside(momentum_decays, g.ndim)
    momentum = decay * momentum + (1 - decay) * g[None]
    square = square_decay * square + (1 - square_decay) * g**2
    # As much as float32 can still hold keeps the averages off 0.
    g2 = (g**2 + 1e-30)[None]
    if g.ndim < 2:
        decay = _beside(factored_decays, g.ndim)
        diagonal = decay * diagonal + (1 - decay) * g2
    else:
        decay = _beside(factored_decays, g.ndim - 1)
        smaller, larger = (axis + 1 for axis in largest_axes(g.shape))
        rows = decay * rows + (1 - decay) * jnp.squeeze(mean(g2, larger), larger)
        columns = decay * columns + (1 - decay) * jnp.squeeze(mean(g2, smaller), smaller)
    return Accumulators(momentum, square, rows, columns, diagonal)


def _beside(decays: jax.Array, ndim: int) -> jax.Array:
    """Shaped to be multiplied with arrays of shape (rates, *leaf.shape)."""
    return decays.reshape((-1,) + (1,) * ndim)
