"""Gymnax environments behind the interface of `agents.environment`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from agents import gridworlds as gridworlds  # registers them
from agents._gymnax import gymnax, spaces
from agents._promotion import plain_types, strong, typed_like
from agents.environment import Box, Discrete, Environment, Info, State


def default_parameters(name: str) -> Any:
    """The parameters that Gymnax gives an environment, as a dataclass."""
    return gymnax.make(name)[1]


class GymnaxEnvironment(Environment):
    """A Gymnax environment, with its own time limit reported as truncation.

    It computes with numbers of 32 bits, also where `jax_enable_x64` is on.

    Args:
        name: any name that Gymnax knows with a discrete or box action space.
        arguments: of the constructor of Gymnax's environment.
        **parameters: replacements for fields of the environment's default parameters, e.g.
            `max_steps_in_episode=200`.
    """

    def __init__(
        self, name: str, arguments: Mapping[str, Any] | None = None, **parameters: Any
    ) -> None:
        with plain_types():
            self._environment, default = gymnax.make(name, **(arguments or {}))
        known = [field.name for field in dataclasses.fields(default)]
        if unknown := sorted(set(parameters) - set(known)):
            raise ValueError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}.")
        self._parameters = default.replace(**parameters)
        self.name = name
        with plain_types():
            observations = self._environment.observation_space(self._parameters)
            space = self._environment.action_space(self._parameters)
        self.observation_shape = tuple(observations.shape)
        if isinstance(space, spaces.Discrete):
            self.action_space = Discrete(int(space.n))
        else:
            self.action_space = Box(space.shape[0], float(space.low), float(space.high))
        self.max_episode_steps = int(self._parameters.max_steps_in_episode)

    def reset(self, key: jax.Array) -> tuple[jax.Array, State]:
        """See `Environment.reset`."""
        with plain_types():
            return strong(self._environment.reset_env(key, self._parameters))

    def step(
        self, key: jax.Array, state: State, action: jax.Array
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, jax.Array, Info]:
        """See `Environment.step`."""
        if isinstance(self.action_space, Box):
            action = jnp.clip(action, self.action_space.low, self.action_space.high)
            action = jnp.asarray(action, jnp.float32)
        else:
            action = jnp.asarray(action, jnp.int32)
        with plain_types():
            observation, next_state, reward, terminated, _ = self._environment.step_env(
                key, state, action, self._parameters
            )
            over_time = self._environment.is_truncated(next_state, self._parameters)
            next_state = typed_like(next_state, state)
            terminated = jnp.asarray(terminated, bool)
            truncated = jnp.logical_and(over_time, ~terminated)
            reward = jnp.asarray(reward, jnp.float32).reshape(())
            observation = strong(observation)
        info = {"final_observation": observation}
        return observation, next_state, reward, terminated, truncated, info
