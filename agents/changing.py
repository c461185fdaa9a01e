"""Environments whose observations, actions or rewards change from phase to phase.

Each wraps a single environment and is the environment as it comes in the first phase. They are
cheap: a change is a row of a table, chosen by the learner's clock.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from agents.changes import phase_of, phase_table
from agents.environment import Discrete, Environment, Info, State
from agents.gymnax_environment import GymnaxEnvironment
from agents.wrappers import Wrapper

PERMUTED = ("none", "channels", "actions", "both")


class Changing(Wrapper):
    """What the wrappers in this module have in common: the phase that the clock is in.

    Args:
        environment: a single environment.
        phase_steps: length of a phase, in environment steps.
    """

    changes = True

    def __init__(self, environment: Environment, phase_steps: int) -> None:
        super().__init__(environment)
        self.phase_steps = self._steps = phase_steps
        self._phase: jax.Array = np.int32(0)  # type: ignore[assignment]  # no device at import

    def at(self, clock: jax.Array | int) -> Self:
        """See `Environment.at`."""
        moved = copy.copy(self)
        moved.environment = self.environment.at(clock)
        moved._phase = phase_of(clock, self._steps)
        return moved

    def reset(self, key: jax.Array) -> tuple[jax.Array, State]:
        """See `Environment.reset`."""
        observation, state = self.environment.reset(key)
        return self._seen(observation), state

    def step(
        self, key: jax.Array, state: State, action: jax.Array
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, jax.Array, Info]:
        """See `Environment.step`."""
        observation, state, reward, terminated, truncated, info = self.environment.step(
            key, state, self._meant(action)
        )
        observation = self._seen(observation)
        info = info | {"final_observation": self._seen(info["final_observation"])}
        return observation, state, reward, terminated, truncated, info

    def _seen(self, observation: jax.Array) -> jax.Array:
        return observation

    def _meant(self, action: jax.Array) -> jax.Array:
        return action


class FlippedActions(Changing):
    """Every second phase turns actions round: a becomes size - 1 - a, or -a in a box.

    On CartPole the force changes its sign, on Acrobot and Pendulum the torque.
    """

    def _meant(self, action: jax.Array) -> jax.Array:
        space = self.environment.action_space
        opposite = space.size - 1 - action if isinstance(space, Discrete) else -action
        return jnp.where(self._phase % 2 == 1, opposite, action)


class OffsetObservations(Changing):
    r"""Adds a constant to observations, :math:`\mathcal N(0, \sigma^2)` in each entry and phase.

    In the first phase it is 0.

    Args:
        environment: a single environment with float32 observations.
        phase_steps: length of a phase, in environment steps.
        scale: :math:`\sigma`.
        seed: of the table of offsets.

    References:
        Muppidi et al., Fast TRAC: A Parameter-Free Optimizer for Lifelong Reinforcement Learning,
        2024, `arXiv:2405.16642 <https://arxiv.org/abs/2405.16642>`_, whose scale is 2
    """

    resets_change = True

    def __init__(
        self, environment: Environment, phase_steps: int, scale: float, seed: int = 0
    ) -> None:
        super().__init__(environment, phase_steps)
        shape = environment.observation_shape
        table = phase_table(lambda rng: scale * rng.standard_normal(shape), np.zeros(shape), seed)
        self._table = table.astype(np.float32)

    def _seen(self, observation: jax.Array) -> jax.Array:
        return observation + jnp.asarray(self._table)[self._phase]


class PermutedChannels(Changing):
    """Permutes the last axis of observations; from phase to phase the permutation differs.

    Args:
        environment: a single environment.
        phase_steps: length of a phase, in environment steps.
        seed: of the table of permutations.
    """

    resets_change = True

    def __init__(self, environment: Environment, phase_steps: int, seed: int = 0) -> None:
        super().__init__(environment, phase_steps)
        self._table = _permutations(environment.observation_shape[-1], seed)

    def _seen(self, observation: jax.Array) -> jax.Array:
        order = jnp.asarray(self._table)[self._phase]
        return jnp.take(observation, order, axis=-1, mode="clip")


class PermutedActions(Changing):
    """Permutes discrete actions; from phase to phase the permutation differs.

    Args:
        environment: a single environment with discrete actions.
        phase_steps: length of a phase, in environment steps.
        seed: of the table of permutations.
    """

    def __init__(self, environment: Environment, phase_steps: int, seed: int = 0) -> None:
        super().__init__(environment, phase_steps)
        assert isinstance(environment.action_space, Discrete)
        self._table = _permutations(environment.action_space.size, seed + 1)

    def _meant(self, action: jax.Array) -> jax.Array:
        return jnp.asarray(self._table)[self._phase][action]


def _permutations(size: int, seed: int) -> Any:
    first = np.arange(size, dtype=np.int32)
    return phase_table(lambda rng: rng.permutation(first), first, seed)


class MovedRewards(GymnaxEnvironment):
    """A gridworld whose rewards move among its objects from phase to phase.

    In the first phase they are where `agents.gridworlds` has them.

    Args:
        name: of a gridworld.
        phase_steps: length of a phase, in environment steps.
        seed: of the table of rewards.
        **parameters: as in `GymnaxEnvironment`.
    """

    changes = True

    def __init__(self, name: str, phase_steps: int, seed: int = 0, **parameters: Any) -> None:
        super().__init__(name, **parameters)
        self.phase_steps = self._steps = phase_steps
        rewards = np.asarray(self._environment.rewards, np.float32)
        self._table = phase_table(lambda rng: rng.permutation(rewards), rewards, seed)

    def at(self, clock: jax.Array | int) -> Self:
        """See `Environment.at`."""
        moved = copy.copy(self)
        rewards = jnp.asarray(self._table)[phase_of(clock, self._steps)]
        moved._parameters = self._parameters.replace(rewards=rewards)
        return moved
