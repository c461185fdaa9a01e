"""Gymnasium's MuJoCo environments behind our own interface; they need the extra `offline`.

The simulation runs on the host, in MuJoCo's own C code. Its whole state travels through the
compiled program as bits, so that `step` is a pure function like any other environment's: it can be
vmapped, replayed and repeated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from agents.brax_environment import _without_warnings
from agents.environment import Box, Environment, Info
from rl_optim import how_to_install

_MOST_SIMULATORS = 8


class GymnasiumState(NamedTuple):
    """MuJoCo's state and the time in the episode."""

    physics: jax.Array  # shape=(2 n,), dtype=uint32: the bits of n float64 numbers
    step: jax.Array  # shape=(), dtype=int32: steps since the episode began


class GymnasiumEnvironment(Environment):
    """One of Gymnasium's MuJoCo environments, truncated after `max_episode_steps` steps.

    Actions are in [-1, 1] and are scaled to the environment's own bounds, `action_low` and
    `action_high`; NaN counts as 0. Observations and rewards are Gymnasium's, rounded to float32.

    Args:
        name: Gymnasium's, e.g. "Hopper-v5".
        max_episode_steps: time limit in environment steps; by default Gymnasium's.

    Raises:
        ImportError: if Gymnasium or what its MuJoCo environments need is missing.
    """

    def __init__(self, name: str, max_episode_steps: int | None = None) -> None:
        try:
            import gymnasium
            import gymnasium.envs.mujoco
        except ImportError as error:
            raise ImportError(
                f"{name} needs Gymnasium's MuJoCo environments ({error}): "
                f"{how_to_install('offline')}."
            ) from error
        self.name = name
        # On several devices, steps come in several threads. Simulators are made here because the
        # stacks of XLA's threads are too small for MuJoCo to read its models on.
        self._simulators: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with _without_warnings():
            for _ in range(min(os.cpu_count() or 1, _MOST_SIMULATORS)):
                simulator = gymnasium.make(name).unwrapped
                self._simulators.put(simulator)
        _log_warnings()
        spec = gymnasium.spec(name)
        limit = spec.max_episode_steps if max_episode_steps is None else max_episode_steps
        if limit is None:
            raise ValueError(f"max_episode_steps must be given for {name}, which has no limit.")
        self.max_episode_steps = int(limit)
        actions: Any = simulator.action_space
        self.observation_shape = tuple(simulator.observation_space.shape or ())
        self.action_low = np.asarray(actions.low, np.float32)
        self.action_high = np.asarray(actions.high, np.float32)
        self.action_space = Box(len(self.action_low), -1.0, 1.0)
        first = _reset(simulator, 0)
        self._reset_shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in first)
        self._step_shapes = (
            *self._reset_shapes,
            jax.ShapeDtypeStruct((), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.bool_),
        )

    def reset(self, key: jax.Array) -> tuple[jax.Array, GymnasiumState]:
        """See `Environment.reset`."""
        seed = jax.random.bits(key, dtype=jnp.uint32)
        observation, physics = jax.pure_callback(
            self._reset_all, self._reset_shapes, seed, vmap_method="broadcast_all"
        )
        return observation, GymnasiumState(physics, jnp.zeros((), jnp.int32))

    def step(
        self, key: jax.Array, state: GymnasiumState, action: jax.Array
    ) -> tuple[jax.Array, GymnasiumState, jax.Array, jax.Array, jax.Array, Info]:
        """See `Environment.step`; MuJoCo uses no randomness."""
        del key
        observation, physics, reward, terminated = jax.pure_callback(
            self._step_all,
            self._step_shapes,
            state.physics,
            jnp.asarray(jnp.clip(action, -1.0, 1.0), jnp.float32),
            vmap_method="broadcast_all",
        )
        step = state.step + 1
        truncated = jnp.logical_and(step >= self.max_episode_steps, ~terminated)
        info = {"final_observation": observation}
        return observation, GymnasiumState(physics, step), reward, terminated, truncated, info

    @contextlib.contextmanager
    def _simulator(self) -> Iterator[Any]:
        """A simulator that no other thread uses in the meantime."""
        simulator = self._simulators.get()
        try:
            yield simulator
        finally:
            self._simulators.put(simulator)

    def _reset_all(self, seed: Any) -> tuple[NDArray[Any], ...]:
        seeds = np.asarray(seed)
        with self._simulator() as simulator:
            return _stacked([_reset(simulator, int(one)) for one in seeds.ravel()], seeds.shape)

    def _step_all(self, physics: Any, action: Any) -> tuple[NDArray[Any], ...]:
        # MuJoCo, too, takes a control that is not finite for 0, but with a warning.
        physics, action = np.asarray(physics), np.nan_to_num(action)
        scaled = self.action_low + (action + 1.0) / 2.0 * (self.action_high - self.action_low)
        rows = zip(
            physics.reshape(-1, physics.shape[-1]),
            scaled.reshape(-1, scaled.shape[-1]),
            strict=True,
        )
        with self._simulator() as simulator:
            return _stacked([_step(simulator, *row) for row in rows], physics.shape[:-1])


def _log_warnings() -> None:
    """Hands MuJoCo's warnings to Python's logging.

    MuJoCo itself would write each, say of an unstable simulation, into a file in the present
    folder.
    """
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(logging.getLogger(__name__).warning)


def _reset(simulator: Any, seed: int) -> tuple[NDArray[Any], ...]:
    observation, _ = simulator.reset(seed=seed)
    return np.asarray(observation, np.float32), _physics(simulator)


def _step(
    simulator: Any, physics: NDArray[np.uint32], action: NDArray[np.float32]
) -> tuple[NDArray[Any], ...]:
    _restore(simulator, physics)
    observation, reward, terminated, _, _ = simulator.step(action)
    return (
        np.asarray(observation, np.float32),
        _physics(simulator),
        np.asarray(reward, np.float32),
        np.asarray(terminated, np.bool_),
    )


def _stacked(results: list[tuple[NDArray[Any], ...]], lead: tuple[int, ...]) -> Any:
    columns = (np.stack(column) for column in zip(*results, strict=True))
    return tuple(column.reshape((*lead, *column.shape[1:])) for column in columns)


def _physics(simulator: Any) -> NDArray[np.uint32]:
    """Everything that determines the next step, as bits: JAX would round float64 numbers.

    Positions of bodies and their centres are part of it: Gymnasium's rewards compare them before
    and after a step, and MuJoCo leaves them one substep behind.
    """
    import mujoco

    model, data = simulator.model, simulator.data
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return np.concatenate([state, data.xpos.ravel(), data.xipos.ravel()]).view(np.uint32)


def _restore(simulator: Any, physics: NDArray[np.uint32]) -> None:
    import mujoco

    model, data = simulator.model, simulator.data
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    numbers = np.ascontiguousarray(physics).view(np.float64)
    size = mujoco.mj_stateSize(model, kind)
    mujoco.mj_setState(model, data, numbers[:size], kind)
    data.xpos.flat[:] = numbers[size : size + data.xpos.size]
    data.xipos.flat[:] = numbers[size + data.xpos.size :]
