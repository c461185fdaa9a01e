"""Normal numbers that cost little beside an optimizer's update.

On a CPU `jax.random.normal` takes longer than the products of OPEN's networks, and ten times as
long as Adam's update. The generator here is the same Threefry, but written out, so that XLA keeps
it in registers, and both of the words that it gives are used.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim._leaves import as_key, fingerprint

# Rotations of Threefry-2x32, for rounds 1 to 4 and 5 to 8, and so on in turn.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))

# Coefficients of polynomials in w - 2.5 for w < 5, and in sqrt(w) - 3 beyond.
_CENTRAL = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_TAIL = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


def threefry(key: Any, counter: Any) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds.

    Args:
        key: two uint32 words.
        counter: two uint32 arrays, which broadcast against each other.

    Returns:
        Two uint32 arrays of random words.

    Examples:
        >>> zero = jnp.zeros((), jnp.uint32)
        >>> [hex(word) for word in threefry((zero, zero), (zero, zero))]
        ['0x6b200159', '0x99ba4efe']

    References:
        Salmon et al., `Parallel random numbers: as easy as 1, 2, 3
        <https://doi.org/10.1145/2063384.2063405>`_, 2011.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x = x + y
            y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
        x, y = x + keys[(i + 1) % 3], y + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


def noise_key(key: jax.Array | int, params: Any) -> jax.Array:
    """Two words to draw noise from, which depend on a key and on all parameters.

    Args:
        key: key of either kind, or seed; may be traced.
        params: pytree of real arrays. Leaves without values (`jax.ShapeDtypeStruct`) do not count.

    Returns:
        Array of shape (2,), dtype uint32.

    Examples:
        >>> print(jnp.any(noise_key(0, jnp.zeros(3)) != noise_key(0, jnp.ones(3))))
        True
    """
    words = jax.random.bits(as_key(key), (2,), jnp.uint32)
    return jnp.stack(threefry(words, (fingerprint(params), jnp.zeros((), jnp.uint32))))


def normals(key: jax.Array, step: jax.Array, count: int) -> jax.Array:
    """Standard normal numbers, other ones for each step.

    Args:
        key: what `noise_key` gives.
        step: scalar int32.
        count: how many, at least 1.

    Returns:
        Array of shape (count,), dtype float32.

    Examples:
        >>> draws = normals(noise_key(0, {}), jnp.int32(0), 100_000)
        >>> print(jnp.abs(draws.mean()) < 0.01, jnp.abs(draws.std() - 1) < 0.01)
        True True
    """
    index = jax.lax.iota(jnp.uint32, (count + 1) // 2)
    bits = jnp.concatenate(threefry(key, (index, jnp.asarray(step, jnp.uint32))))[:count]
    # The upper 23 bits as the fraction of a number in [1, 2), moved to (-1, 1), ends excluded.
    fraction = (bits >> np.uint32(9)) | np.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(fraction, jnp.float32) - 1
    return np.float32(2**0.5) * _inverse_erf(2 * unit - np.float32(1 - 2**-23))


def _inverse_erf(x: jax.Array) -> jax.Array:
    """Giles, Approximating the erfinv function, 2012; relative error below 4e-7.

    It differs from `jax.lax.erf_inv` in how it takes the logarithm, for half the time.
    """
    w = -jnp.log((1 - x) * (1 + x))
    central = w < 5
    w = jnp.where(central, w - 2.5, jnp.sqrt(jnp.maximum(w, 5)) - 3)
    result = jnp.where(central, np.float32(_CENTRAL[0]), np.float32(_TAIL[0]))
    for a, b in zip(_CENTRAL[1:], _TAIL[1:], strict=True):
        result = result * w + jnp.where(central, np.float32(a), np.float32(b))
    return result * x
