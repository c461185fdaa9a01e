"""Brax environments behind the interface of `agents.environment`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents._promotion import plain_types, strong, typed_like
from agents.environment import Box, Environment, Info

BACKENDS = ("generalized", "positional", "spring", "mjx")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences the warnings that Brax and MuJoCo give whenever they are loaded.

    Brax announces that it is unmaintained; MuJoCo warns of a model in an old format, and also
    writes that to a file in the current folder.
    """
    import mujoco

    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(previous)


class BraxState(NamedTuple):
    """A Brax state and the time in the episode."""

    brax: Any
    step: jax.Array  # shape=(), dtype=int32: steps since the episode began


class BraxEnvironment(Environment):
    """A Brax environment, truncated after `max_episode_steps` steps.

    It computes with numbers of 32 bits, also where `jax_enable_x64` is on.

    Args:
        name: one that Brax has, e.g. "ant".
        backend: physics pipeline, one of `BACKENDS`. Returns differ between pipelines by factors,
            so a result means little without it; 'positional' is what OPEN's authors used.
        max_episode_steps: time limit in environment steps.
    """

    def __init__(
        self, name: str, backend: str = "positional", max_episode_steps: int = 1000
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
        with _without_warnings():
            from brax import envs

            with plain_types():
                self._environment = envs.get_environment(name, backend=backend)
        self.name = name
        self.backend = backend
        with plain_types():
            shapes = jax.eval_shape(self._environment.reset, jax.random.key(0))
        self.observation_shape = tuple(shapes.obs.shape)
        self.action_space = Box(int(self._environment.action_size), -1.0, 1.0)
        self.max_episode_steps = max_episode_steps

    def reset(self, key: jax.Array) -> tuple[jax.Array, BraxState]:
        """See `Environment.reset`."""
        with plain_types():
            state = strong(self._environment.reset(key))
        return state.obs, BraxState(state, jnp.zeros((), jnp.int32))

    def step(
        self, key: jax.Array, state: BraxState, action: jax.Array
    ) -> tuple[jax.Array, BraxState, jax.Array, jax.Array, jax.Array, Info]:
        """See `Environment.step`; Brax's dynamics use no randomness."""
        del key
        action = jnp.asarray(jnp.clip(action, -1.0, 1.0), jnp.float32)
        # Brax writes its metrics into the state that it is given: give it a copy.
        copy = jax.tree.map(lambda x: x, state.brax)
        with plain_types():
            brax_state = typed_like(self._environment.step(copy, action), state.brax)
        step = state.step + 1
        terminated = brax_state.done > 0.5
        truncated = jnp.logical_and(step >= self.max_episode_steps, ~terminated)
        info = {"final_observation": brax_state.obs}
        next_state = BraxState(brax_state, step)
        return brax_state.obs, next_state, brax_state.reward, terminated, truncated, info
