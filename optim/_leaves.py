"""Arithmetic of single leaves and checks of what `update` is given."""

from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(dtype: jax.typing.DTypeLike) -> Any:
    """The dtype to compute in: ``dtype``, but at least float32.

    Example:
      >>> import jax.numpy as jnp
      >>> print(wide_dtype(jnp.bfloat16), wide_dtype(jnp.float32))
      float32 float32
    """
    return jnp.promote_types(dtype, jnp.float32)


def moving_average(average: jax.Array, value: jax.Array, decay: jax.typing.ArrayLike) -> jax.Array:
    """Moves an average towards a value, in float32 at least; keeps the average's dtype.

    Args:
      average: The average so far.
      value: What it moves towards, of the same shape.
      decay: Share of the old average that stays.

    Returns:
      The new average.

    Example:
      >>> import jax.numpy as jnp
      >>> print(moving_average(jnp.zeros(2), jnp.ones(2), 0.75))
      [0.25 0.25]
    """
    dtype = wide_dtype(average.dtype)
    decay = jnp.asarray(decay, dtype)
    moved = decay * average.astype(dtype) + (1 - decay) * value.astype(dtype)
    return moved.astype(average.dtype)


def bias_correction(
    decay: jax.typing.ArrayLike, count: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """The share of a moving average that is not its initial zero, after ``count`` steps.

    It errs as :func:`moving_average` does where ``1 - decay`` is rounded, so that a quotient of the
    two is exact to the last digits.

    Args:
      decay: Decay rate of the average.
      count: Number of steps, at least 1.
      dtype: Dtype of the result.

    Returns:
      ``1 - decay ** count``.

    Example:
      >>> import jax.numpy as jnp
      >>> print(bias_correction(0.5, jnp.array(2), jnp.float32))
      0.75
    """
    return 1 - jnp.asarray(decay, dtype) ** count.astype(dtype)


def as_key(key: jax.Array | int) -> jax.Array:
    """A key as it is; a seed, traced or not, as a raw key, which any tree operation can handle.

    Args:
      key: Key of either kind, or seed.

    Returns:
      The key.

    Example:
      >>> print(as_key(3))
      [0 3]
    """
    is_key = jnp.ndim(key) > 0 or jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key)
    return jnp.asarray(key) if is_key else jax.random.PRNGKey(key)


def check_params(optimizer: str, params: Any) -> None:
    """Refuses missing parameters.

    Args:
      optimizer: Name of the optimizer, for the message.
      params: What ``update`` got.

    Raises:
      ValueError: If ``params`` is None.
    """
    if params is None:
        raise ValueError(
            f"params must be the current parameters in {optimizer}'s update, got None."
        )


def missing(optimizer: str, argument: str, meaning: str) -> ValueError:
    """The error to raise where an extra argument is needed but was not passed.

    Args:
      optimizer: Name of the optimizer.
      argument: Name of the argument.
      meaning: What is to be passed, a word or two.

    Returns:
      The error.

    Example:
      >>> print(missing("aegd", "value", "the loss"))
      value must be the loss in aegd's update, got None: update(grads, state, params, value=...).
    """
    return ValueError(
        f"{argument} must be {meaning} in {optimizer}'s update, got None: "
        f"update(grads, state, params, {argument}=...)."
    )
