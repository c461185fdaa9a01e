"""Arithmetic of leaves and of trees of moments, which are kept in float32 at least."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Its square, and sums of millions of these, are finite in float32.
_LARGEST = 1e15


def working_dtype(leaf: Any) -> Any:
    """The dtype in which moments are kept and steps are computed: float32, or float64 for float64.

    In bfloat16 an average with a decay rate of 0.999 would stand still: what is added to it
    vanishes in the rounding.

    Args:
        leaf: anything with a real floating-point dtype.

    Returns:
        The dtype.

    Raises:
        ValueError: if the leaf is complex.

    Examples:
        >>> print(jnp.dtype(working_dtype(jnp.ones(2, jnp.bfloat16))))
        float32
    """
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise ValueError(
            f"params must be real, got dtype {leaf.dtype}; wrap the optimizer in "
            "optax.contrib.split_real_and_imaginary."
        )
    return jnp.float32 if leaf.dtype.itemsize < 4 else leaf.dtype


def widest_dtype(tree: Any) -> Any:
    """The working dtype of what is computed from all leaves at once.

    Args:
        tree: pytree of real leaves, which may be empty.

    Returns:
        The dtype of the widest leaf, at least float32.

    Examples:
        >>> print(jnp.dtype(widest_dtype({})))
        float32
    """
    dtypes = [working_dtype(leaf) for leaf in jax.tree.leaves(tree)]
    return max(dtypes, key=lambda dtype: jnp.dtype(dtype).itemsize, default=jnp.float32)


def working_zeros(params: optax.Params) -> Any:
    """Zeros like the parameters, in the working dtype.

    Args:
        params: pytree of real leaves.

    Returns:
        A pytree that mirrors `params`.

    Examples:
        >>> print(working_zeros({"bias": jnp.ones(2, jnp.bfloat16)})["bias"].dtype)
        float32
    """
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=working_dtype(leaf)), params)


def average(rate: Any, old: Any, new: Any) -> Any:
    """Moving average of each leaf, in the dtype of the old one.

    Args:
        rate: decay rate.
        old: pytree of averages, in the working dtype.
        new: pytree of the values to add, of any floating-point dtype.

    Returns:
        `rate * old + (1 - rate) * new`.

    Examples:
        >>> print(average(0.75, {"bias": jnp.zeros(2)}, {"bias": jnp.ones(2)}))
        {'bias': Array([0.25, 0.25], dtype=float32)}
    """

    def leaf_average(old_leaf: jax.Array, new_leaf: jax.Array) -> jax.Array:
        decay = jnp.asarray(rate, old_leaf.dtype)
        return decay * old_leaf + (1 - decay) * new_leaf.astype(old_leaf.dtype)

    return jax.tree.map(leaf_average, old, new)


def average_of_squares(rate: Any, old: Any, new: Any) -> Any:
    """Like `average`, of the squares of the new values.

    Args:
        rate: decay rate.
        old: pytree of averages, in the working dtype.
        new: pytree of the values whose squares to add.

    Returns:
        `rate * old + (1 - rate) * new**2`.

    Examples:
        >>> print(average_of_squares(0.75, jnp.zeros(()), jnp.full((), 2.0)))
        1.0
    """
    # Cast first: squares of float16 overflow early.
    squares = jax.tree.map(lambda o, n: jnp.square(n.astype(o.dtype)), old, new)
    return average(rate, old, squares)


def bounded(grad: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The gradient, small enough for a sum of squares of its entries.

    Args:
        grad: array.
        dtype: dtype of the result, float32 at least.

    Returns:
        It with its entries held within 1e15 either way; what is not finite shows.

    Examples:
        >>> print(bounded(jnp.array([2.0, -1e30, jnp.inf]), jnp.float32))
        [ 2.e+00 -1.e+15     inf]
    """
    grad = grad.astype(dtype)
    return jnp.where(jnp.isfinite(grad), jnp.clip(grad, -_LARGEST, _LARGEST), grad)


def bias_correction(
    decay: jax.typing.ArrayLike, count: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """The share of a moving average that is not its initial zero, after `count` steps.

    It errs as `average` does where `1 - decay` is rounded, so that a quotient of the
    two is exact to the last digits.

    Args:
        decay: decay rate of the average.
        count: number of steps, at least 1.
        dtype: dtype of the result.

    Returns:
        `1 - decay ** count`.

    Examples:
        >>> print(bias_correction(0.5, jnp.array(2), jnp.float32))
        0.75
    """
    return 1 - jnp.asarray(decay, dtype) ** count.astype(dtype)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root with a derivative of zero at zero, where the root's own is infinite.

    Args:
        x: numbers of at least 0.

    Returns:
        The roots.

    Examples:
        >>> print(jax.grad(safe_sqrt)(0.0), jax.grad(safe_sqrt)(4.0))
        0.0 0.25
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))


def norm(x: jax.Array, axis: tuple[int, ...] | None = None) -> jax.Array:
    """Euclidean norm with a derivative of zero at zero. The reduced axes are kept, of length 1.

    Args:
        x: array.
        axis: axes to reduce, all if None.

    Returns:
        The norms.

    Examples:
        >>> print(norm(jnp.array([[3.0, 4.0]])))
        [[5.]]
    """
    return safe_sqrt(jnp.sum(x * x, axis=axis, keepdims=True))


@jax.custom_jvp
def largest(x: jax.Array) -> jax.Array:
    """The largest entry, with a derivative that is finite in compiled code too.

    The derivative of `jnp.max` is shared by all entries that equal the maximum. Where XLA computes
    the entries once more for that, with other rounding, none does, and it divides by 0. Here it is
    that of the first of the largest.

    Args:
        x: array with an entry at least.

    Returns:
        Scalar.

    Examples:
        >>> print(largest(jnp.array([3.0, -4.0])), jax.grad(largest)(jnp.array([3.0, -4.0])))
        3.0 [1. 0.]
    """
    return jnp.max(x)


@largest.defjvp
def _largest_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    return largest(x), tangent.ravel()[jnp.argmax(x)]


def inner_product(tree: Any, other: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The inner product of two trees as vectors.

    Args:
        tree: pytree of arrays.
        other: pytree of the same shapes.
        dtype: dtype to compute in.

    Returns:
        A scalar of that dtype.

    Examples:
        >>> print(inner_product({"a": jnp.ones(2)}, {"a": jnp.full(2, 3.0)}, jnp.float32))
        6.0
    """
    products = jax.tree.map(lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype)), tree, other)
    return sum(jax.tree.leaves(products), start=jnp.zeros([], dtype))


def at_count(number: optax.ScalarOrSchedule, count: Any) -> jax.typing.ArrayLike:
    """The value of a number or schedule at a step, counted from 0 as optax does.

    Args:
        number: number, tracer or schedule.
        count: number of steps taken before.

    Returns:
        The value.

    Examples:
        >>> at_count(0.1, 0), at_count(lambda count: 2 * count, 3)
        (0.1, 6)
    """
    return number(count) if callable(number) else number


def as_key(key: jax.Array | int) -> jax.Array:
    """A key as it is; a seed, traced or not, as a raw key, which any tree operation can handle.

    Args:
        key: key of either kind, or seed.

    Returns:
        The key.

    Examples:
        >>> print(as_key(3))
        [0 3]
    """
    is_key = jnp.ndim(key) > 0 or jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key)
    return jnp.asarray(key) if is_key else jax.random.PRNGKey(key)


def fingerprint(params: Any) -> jax.Array:
    """A number that depends on all parameters, by which seeds under `vmap` can be told apart.

    Args:
        params: any pytree. Only arrays of real or complex numbers count, the latter with their real
            parts; leaves without values (`jax.ShapeDtypeStruct`) do not.

    Returns:
        A scalar, dtype uint32.

    Examples:
        >>> print(fingerprint(jnp.zeros(3)) != fingerprint(jnp.ones(3)))
        True
    """

    def digest(leaves: list[Any]) -> jax.Array:
        total = jnp.zeros((), jnp.uint32)
        for leaf in leaves:
            real = jnp.ravel(leaf.real).astype(jnp.float32)
            bits = jax.lax.bitcast_convert_type(real, jnp.uint32)
            odd = 2 * jax.lax.iota(jnp.uint32, bits.size) + np.uint32(1)
            total = total * np.uint32(0x9E3779B1) + jnp.sum(bits * odd, dtype=jnp.uint32)
        return total

    arrays = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array | np.ndarray)]
    leaves = [leaf for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # With shardings in the types, what is summed over may be sharded: leave that to XLA.
    if jax.sharding.get_abstract_mesh().explicit_axes:
        digest = jax.sharding.auto_axes(digest, out_sharding=jax.P())
    return digest(leaves)


def key_of_seed(key: jax.Array | int, params: Any) -> jax.Array:
    """A key that depends on a key and on all parameters.

    An optimizer is built before the seeds of a `vmap` are known to it. Those that start from
    different parameters draw different numbers with it, those that start from the same the same.

    Args:
        key: key of either kind, or seed; may be traced.
        params: the initial parameters, see `fingerprint`.

    Returns:
        A key of the same kind, a raw one for a seed.

    Examples:
        >>> print(jnp.any(key_of_seed(0, jnp.zeros(3)) != key_of_seed(0, jnp.ones(3))))
        True
    """
    return jax.random.fold_in(as_key(key), fingerprint(params))
