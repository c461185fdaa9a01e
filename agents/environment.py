"""The interface that all environments have."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Self

import jax

State = Any
Info = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0, 1, ..., `size` - 1, as int32 scalars."""

    size: int


@dataclasses.dataclass(frozen=True)
class Box:
    """Actions in [`low`, `high`] in each of `size` dimensions, as float32 vectors."""

    size: int
    low: float
    high: float


class Environment(abc.ABC):
    """One environment: pure functions of a key, a state and an action.

    A subclass steps a single environment and does not reset it; `agents.wrappers` adds automatic
    resets, episode statistics, batching and normalisation behind the same two methods.

    Attributes:
        name: the name it is made by, e.g. `"Breakout-MinAtar"`.
        observation_shape: shape of one observation.
        action_space: `Discrete` or `Box`.
        max_episode_steps: number of steps after which an episode is truncated.
        phase_steps: environment steps of a learner after which the task changes, again and again;
            None if it does not change in phases.
        changes: whether anything depends on the learner's clock, see `at`.
        resets_change: whether `reset` does.
    """

    name: str
    observation_shape: tuple[int, ...]
    action_space: Discrete | Box
    max_episode_steps: int
    phase_steps: int | None = None
    changes: bool = False
    resets_change: bool = False

    def at(self, clock: jax.Array | int) -> Self:
        """The environment as it is at a time, if it changes while a learner learns.

        Args:
            clock: environment steps that the learner has done so far, all its copies of the
                environment counted; an int32 scalar, which may be traced.

        Returns:
            An environment with states of the same form, to go on from any of them; itself if it
            does not change. An environment that was never told the time is as it is at 0.
        """
        del clock
        return self

    @abc.abstractmethod
    def reset(self, key: jax.Array) -> tuple[jax.Array, State]:
        """Starts an episode and returns its first observation and state."""

    @abc.abstractmethod
    def step(
        self, key: jax.Array, state: State, action: jax.Array
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, jax.Array, Info]:
        """Takes one step.

        Args:
            key: a key for this step's randomness.
            state: the state that `reset` or the previous `step` returned.
            action: int32 of shape () for `Discrete`, float32 of shape (size,) for `Box`; a box
                action outside its bounds is clipped.

        Returns:
            `(observation, state, reward, terminated, truncated, info)`: reward is a float32
            scalar, terminated and truncated are bool scalars that are never both true, and
            `info["final_observation"]` is the observation that this step led to. Under
            `AutoReset` it still is, while `observation` is already the next episode's first.
        """

    def observation_normalizer(self, state: State) -> Any:
        """What turns raw observations into those that learners see.

        It is a function and a pytree, which holds the statistics in `state`; None leaves
        observations as they are.
        """
        del state

    def normalize_observation(self, state: State, observation: jax.Array) -> jax.Array:
        """Applies the statistics held in `state` to a raw observation."""
        normalizer = self.observation_normalizer(state)
        return observation if normalizer is None else normalizer(observation)
