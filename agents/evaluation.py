"""Returns of a fixed policy on fresh episodes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from agents.environment import Environment
from agents.learner import Policy


def evaluate(
    environment: Environment, policy: Policy, key: jax.Array, episodes: int
) -> tuple[jax.Array, jax.Array]:
    """Plays one episode in each of `episodes` environments with the policy's actions.

    Whether these are samples or the likeliest actions is up to the policy: those of PPO's
    `policy(state)` are samples and those of `policy(state, greedy=True)` the likeliest, the offline
    learners' are deterministic.

    Args:
        environment: a single environment, as `agents.environments.make` gives it.
        policy: `act(key, observation)`, as a learner's `policy(state)` gives it.
        key: a key for the episodes' starts, their steps and the policy.
        episodes: how many.

    Returns:
        The episodes' undiscounted returns (float32) and lengths (int32), each of shape
        (episodes,). Ends by truncation count as ends.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from agents import environments
        >>> from agents.evaluation import evaluate
        >>> always_left = lambda key, observation: jnp.zeros(observation.shape[:1], jnp.int32)
        >>> returns, lengths = evaluate(
        ...     environments.make("CartPole-v1"), always_left, jax.random.key(0), episodes=3
        ... )
        >>> bool(jnp.array_equal(returns, lengths.astype(returns.dtype)) and lengths.max() < 12)
        True
    """
    key, reset_key = jax.random.split(key)
    observation, state = jax.vmap(environment.reset)(jax.random.split(reset_key, episodes))

    def running(carry: Any) -> jax.Array:
        return ~jnp.all(carry[-1])

    def step(carry: Any) -> Any:
        key, observation, state, episode_return, length, done = carry
        key, action_key, step_key = jax.random.split(key, 3)
        observation, state, reward, terminated, truncated, _ = jax.vmap(environment.step)(
            jax.random.split(step_key, episodes), state, policy(action_key, observation)
        )
        episode_return = jnp.where(done, episode_return, episode_return + reward)
        length = jnp.where(done, length, length + 1)
        return key, observation, state, episode_return, length, done | terminated | truncated

    start = (
        key,
        observation,
        state,
        jnp.zeros((episodes,), jnp.float32),
        jnp.zeros((episodes,), jnp.int32),
        jnp.zeros((episodes,), bool),
    )
    *_, episode_return, length, _ = jax.lax.while_loop(running, step, start)
    return episode_return, length
