"""Generalised advantage estimation."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def generalized_advantages(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: float | jax.Array,
    trace_decay: float | jax.Array,
) -> jax.Array:
    r"""Advantages of a stretch of experience that may span several episodes.

    .. math::
        \delta_t = r_t + \gamma\,(1 - \text{terminated}_t)\, V(s'_t) - V(s_t), \qquad
        A_t = \delta_t + \gamma\lambda\,(1 - \text{done}_t)\, A_{t+1}

    where :math:`s'_t` is the state that step t led to, also where the environment was then reset.
    A terminated episode is worth nothing afterwards; a truncated one is worth the value of the
    state it stopped in; in neither do advantages flow over from the next episode.

    Args:
        rewards: shape (steps, ...), as all that follow.
        values: V(s_t).
        next_values: V(s'_t), evaluated at the final observation where an episode ended.
        terminated: whether step t ended the episode for good.
        truncated: whether step t ended it by a time limit.
        discount: gamma in [0, 1].
        trace_decay: lambda in [0, 1].

    Returns:
        Advantages, shaped like `rewards`. The value targets are advantages + values.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation, 2015, `arXiv:1506.02438 <https://arxiv.org/abs/1506.02438>`_

    Examples:
        One step that is truncated in a state worth 10, after which another episode begins:

        >>> import jax.numpy as jnp
        >>> from agents.advantages import generalized_advantages
        >>> yes, no = jnp.array([True]), jnp.array([False])
        >>> one, ten = jnp.array([1.0]), jnp.array([10.0])
        >>> float(generalized_advantages(one, one, ten, no, yes, 0.9, 0.95)[0])
        9.0
        >>> float(generalized_advantages(one, one, ten, yes, no, 0.9, 0.95)[0])
        0.0
    """
    done = jnp.logical_or(terminated, truncated)
    deltas = rewards + discount * jnp.where(terminated, 0.0, next_values) - values
    decays = jnp.where(done, 0.0, discount * trace_decay)

    def step(advantage: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, decay = x
        advantage = delta + decay * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(
        step, jnp.zeros_like(deltas[0]), (deltas, decays), reverse=True, unroll=16
    )
    return advantages
