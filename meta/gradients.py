"""What meta-gradients of several agents and tasks say about each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


def spread(x: Any) -> jax.Array:
    """Sum of the squared distances of entries along the first axis from their mean.

    Divided by their number less one, it is the trace of their sample covariance.

    Args:
        x: pytree of arrays of shape (entries, ...).

    Returns:
        A scalar; 0, without rounding, if all entries are equal.

    Examples:
        >>> import jax.numpy as jnp
        >>> from meta.gradients import spread
        >>> print(spread({"a": jnp.array([1.0, 3.0]), "b": jnp.array([[0.0], [0.0]])}))
        2.0
    """

    def of(leaf: jax.Array) -> jax.Array:
        leaf -= leaf[:1]
        return jnp.sum(jnp.square(leaf - jnp.mean(leaf, axis=0, keepdims=True)))

    return sum(map(of, jax.tree.leaves(x)), start=jnp.zeros(()))


def signal_to_noise(norm: jax.Array, variance: jax.Array) -> jax.Array:
    r"""Power of the true gradient over that of the noise in an estimate of it.

    For an estimate g, such as the mean :math:`\bar g` of n independent gradients with the sample
    covariance S,

    .. math::
        \mathrm{SNR} = \frac{|g|^2 - v}{v}, \qquad v = \frac{\operatorname{tr} S}{n}.

    As :math:`E|\bar g|^2 = |E \bar g|^2 + \operatorname{tr}(\operatorname{Cov} g_i) / n`,
    numerator and denominator are both without bias. A value of 1 says that signal and noise are
    equally strong; one about 0, or below it by chance, that there is no signal to be seen.

    Args:
        norm: of g.
        variance: v, the summed variance of the entries of g.

    Returns:
        The ratio, at least -1; inf without noise, NaN where both are 0 or one is not finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from meta.gradients import signal_to_noise
        >>> print(signal_to_noise(jnp.array([2.0, 2.0, 0.0]), jnp.array([1.0, 0.0, 0.0])))
        [ 3. inf nan]
    """
    power = jnp.square(norm)
    known = jnp.isfinite(power) & jnp.isfinite(variance)
    return jnp.where(known, power / variance - 1.0, jnp.nan)


def cosines(gradients: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
    r"""Cosines between the gradients of several tasks.

    For each pair of tasks,

    .. math:: c_{kl} = \frac{g_k \cdot g_l}{|g_k|\,|g_l|} .

    Args:
        gradients: two pytrees or more, of the same structure.

    Returns:
        The mean over all pairs, and the least. Pairs in which a gradient is 0 or not finite are
        left out; NaN if there is no other.

    Examples:
        >>> import jax.numpy as jnp
        >>> from meta.gradients import cosines
        >>> mean, least = cosines([jnp.array([2.0, 0.0]), jnp.array([-1.0, 0.0]), jnp.zeros(2)])
        >>> float(mean), float(least)
        (-1.0, -1.0)
    """
    norms = [optax.tree.norm(gradient) for gradient in gradients]
    norms = [jnp.where(jnp.isfinite(norm), norm, jnp.nan) for norm in norms]
    units = [
        jax.tree.map(lambda x, n=norm: x / n, gradient)
        for gradient, norm in zip(gradients, norms, strict=True)
    ]
    pairs = [
        sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), *pair)), start=jnp.zeros(()))
        for pair in itertools.combinations(units, 2)
    ]
    every = jnp.clip(jnp.stack(pairs), -1.0, 1.0)  # rounding may lead beyond
    return jnp.nanmean(every), jnp.nanmin(every)
