"""Automatic resets, episode statistics, batching and normalisation, each as a wrapper.

The order that learners use, from the inside out:

    AutoReset -> EpisodeStatistics -> Batch -> NormalizeObservation -> NormalizeReward

The first two wrap a single environment, the last two a batch of them.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from agents.environment import Environment, Info, State
from agents.normalization import ObservationScaling

Step = tuple[jax.Array, State, jax.Array, jax.Array, jax.Array, Info]


class Wrapper(Environment):
    """Passes everything on to the environment that it wraps."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.name = environment.name
        self.observation_shape = environment.observation_shape
        self.action_space = environment.action_space
        self.max_episode_steps = environment.max_episode_steps
        self.phase_steps = environment.phase_steps
        self.changes = environment.changes or self.changes
        self.resets_change = environment.resets_change or self.resets_change

    def at(self, clock: jax.Array | int) -> Self:
        """See `Environment.at`."""
        if not self.environment.changes:
            return self
        moved = copy.copy(self)
        moved.environment = self.environment.at(clock)
        return moved


class AutoResetState(NamedTuple):
    """The environment's state and, where resets are cached, the start to return to."""

    inner: State
    first: Any  # what to reset to: see `AutoReset`; () when each reset is a fresh one


class AutoReset(Wrapper):
    """Starts a new episode in the step that ends one.

    `info["final_observation"]` keeps the last observation of the episode that ended: the one from
    whose value a learner bootstraps if the episode was truncated.

    Args:
        environment: a single environment.
        cached: return to this environment's first start instead of drawing a new one. Brax does so
            because its resets cost about as much as a physics step; with thousands of environments
            the starts still differ from each other. Where resets change with the clock, the key of
            the first start is kept, and the same start drawn again as it is by then.
    """

    def __init__(self, environment: Environment, cached: bool = False) -> None:
        super().__init__(environment)
        self._cached = cached

    def reset(self, key: jax.Array) -> tuple[jax.Array, AutoResetState]:
        """See `Environment.reset`."""
        observation, inner = self.environment.reset(key)
        first: Any = ()
        if self._cached:
            first = key if self.resets_change else (observation, inner)
        return observation, AutoResetState(inner, first)

    def step(self, key: jax.Array, state: AutoResetState, action: jax.Array) -> Step:
        """See `Environment.step`."""
        step_key, reset_key = jax.random.split(key)
        observation, inner, reward, terminated, truncated, info = self.environment.step(
            step_key, state.inner, action
        )
        if self._cached and not self.resets_change:
            first = state.first
        else:
            first = self.environment.reset(state.first if self._cached else reset_key)
        done = jnp.logical_or(terminated, truncated)
        observation, inner = jax.tree.map(
            lambda new, old: jnp.where(done, new, old), first, (observation, inner)
        )
        return observation, AutoResetState(inner, state.first), reward, terminated, truncated, info


class EpisodeStatisticsState(NamedTuple):
    """The environment's state, the present episode's sums and the last episode's return."""

    inner: State
    episode_return: jax.Array  # shape=(), dtype=float32
    episode_length: jax.Array  # shape=(), dtype=int32
    last_episode_return: jax.Array  # shape=(), dtype=float32


class EpisodeStatistics(Wrapper):
    """Reports on episodes, in `info`.

    `"episode_return"` and `"episode_length"` are of the episode up to and including this step, and
    so of the whole episode where `"done"` is true. `"last_episode_return"` is the return of the
    last episode that was completed, 0 before the first. Rewards are counted as the environment
    gives them, before any normalisation.
    """

    def reset(self, key: jax.Array) -> tuple[jax.Array, EpisodeStatisticsState]:
        """See `Environment.reset`."""
        observation, inner = self.environment.reset(key)
        return observation, EpisodeStatisticsState(
            inner, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
        )

    def step(self, key: jax.Array, state: EpisodeStatisticsState, action: jax.Array) -> Step:
        """See `Environment.step`."""
        observation, inner, reward, terminated, truncated, info = self.environment.step(
            key, state.inner, action
        )
        done = jnp.logical_or(terminated, truncated)
        episode_return = state.episode_return + reward
        episode_length = state.episode_length + 1
        last_episode_return = jnp.where(done, episode_return, state.last_episode_return)
        info = info | {
            "episode_return": episode_return,
            "episode_length": episode_length,
            "last_episode_return": last_episode_return,
            "done": done,
        }
        next_state = EpisodeStatisticsState(
            inner,
            jnp.where(done, jnp.zeros_like(episode_return), episode_return),
            jnp.where(done, jnp.zeros_like(episode_length), episode_length),
            last_episode_return,
        )
        return observation, next_state, reward, terminated, truncated, info


class Batch(Wrapper):
    """Runs `size` copies side by side; every array gains a leading axis of that size."""

    def __init__(self, environment: Environment, size: int) -> None:
        super().__init__(environment)
        self.size = size

    def reset(self, key: jax.Array) -> tuple[jax.Array, State]:
        """See `Environment.reset`."""
        return jax.vmap(self.environment.reset)(jax.random.split(key, self.size))

    def step(self, key: jax.Array, state: State, action: jax.Array) -> Step:
        """See `Environment.step`."""
        return jax.vmap(self.environment.step)(jax.random.split(key, self.size), state, action)


class RunningMoments(NamedTuple):
    """Mean and variance of all the samples seen, by Chan's parallel update."""

    weight: jax.Array  # shape=(), dtype=float32: number of samples
    mean: jax.Array  # shape of one sample, dtype=float32
    variance: jax.Array  # as mean

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> RunningMoments:
        """Mean 0 and variance 1, as if almost nothing had been seen."""
        dtype = jnp.float32
        return cls(jnp.full((), 1e-4, dtype), jnp.zeros(shape, dtype), jnp.ones(shape, dtype))

    def update(self, samples: jax.Array) -> RunningMoments:
        """The moments with further samples, of shape `(batch, *shape)`."""
        batch = samples.shape[0]
        mean = jnp.mean(samples, axis=0)
        delta = mean - self.mean
        weight = self.weight + batch
        squares = (
            self.variance * self.weight
            + jnp.var(samples, axis=0) * batch
            + jnp.square(delta) * (self.weight * batch / weight)
        )
        return RunningMoments(weight, self.mean + delta * (batch / weight), squares / weight)


class NormalizeObservationState(NamedTuple):
    """The batch's state and the observations' moments."""

    inner: State
    moments: RunningMoments


class NormalizeObservation(Wrapper):
    """Centres and scales observations by their running mean and standard deviation.

    `info["final_observation"]` is normalised with the same numbers as the observation.

    Args:
        environment: a batch of environments.
        epsilon: added to the variance.
    """

    def __init__(self, environment: Environment, epsilon: float = 1e-8) -> None:
        super().__init__(environment)
        self._epsilon = epsilon

    def _scaling(self, moments: RunningMoments) -> ObservationScaling:
        return ObservationScaling(moments.mean, jax.lax.rsqrt(moments.variance + self._epsilon))

    def reset(self, key: jax.Array) -> tuple[jax.Array, NormalizeObservationState]:
        """See `Environment.reset`."""
        observation, inner = self.environment.reset(key)
        moments = RunningMoments.zeros(self.observation_shape)
        moments = moments.update(observation.astype(jnp.float32))
        scaling = self._scaling(moments)
        return scaling(observation), NormalizeObservationState(inner, moments)

    def step(self, key: jax.Array, state: NormalizeObservationState, action: jax.Array) -> Step:
        """See `Environment.step`."""
        observation, inner, reward, terminated, truncated, info = self.environment.step(
            key, state.inner, action
        )
        moments = state.moments.update(observation.astype(jnp.float32))
        scaling = self._scaling(moments)
        info = info | {"final_observation": scaling(info["final_observation"])}
        next_state = NormalizeObservationState(inner, moments)
        return scaling(observation), next_state, reward, terminated, truncated, info

    def observation_normalizer(self, state: NormalizeObservationState) -> ObservationScaling:
        """See `Environment.observation_normalizer`."""
        return self._scaling(state.moments)


class NormalizeRewardState(NamedTuple):
    """The batch's state, each environment's running discounted return, and their moments."""

    inner: State
    discounted_return: jax.Array  # shape=(size,), dtype=float32
    moments: RunningMoments


class NormalizeReward(Wrapper):
    r"""Divides rewards by the standard deviation of the running discounted return.

    .. math:: G_t = r_t + \gamma\, (1 - d_{t-1})\, G_{t-1}, \qquad
              \tilde r_t = r_t / \sqrt{\operatorname{Var}[G] + \epsilon}

    Args:
        environment: a batch of environments, already under `NormalizeObservation` if both are used.
        discount: the learner's discount factor, a number or a traced scalar.
        epsilon: added to the variance.
    """

    def __init__(
        self, environment: Environment, discount: float | jax.Array, epsilon: float = 1e-8
    ) -> None:
        super().__init__(environment)
        self._discount = discount
        self._epsilon = epsilon

    def reset(self, key: jax.Array) -> tuple[jax.Array, NormalizeRewardState]:
        """See `Environment.reset`."""
        observation, inner = self.environment.reset(key)
        returns = jnp.zeros(observation.shape[:1], jnp.float32)
        return observation, NormalizeRewardState(inner, returns, RunningMoments.zeros(()))

    def step(self, key: jax.Array, state: NormalizeRewardState, action: jax.Array) -> Step:
        """See `Environment.step`."""
        observation, inner, reward, terminated, truncated, info = self.environment.step(
            key, state.inner, action
        )
        returns = state.discounted_return * self._discount + reward
        moments = state.moments.update(returns)
        done = jnp.logical_or(terminated, truncated)
        next_state = NormalizeRewardState(
            inner, jnp.where(done, jnp.zeros_like(returns), returns), moments
        )
        reward = reward * jax.lax.rsqrt(moments.variance + self._epsilon)
        return observation, next_state, reward, terminated, truncated, info

    def observation_normalizer(self, state: NormalizeRewardState) -> Any:
        """See `Environment.observation_normalizer`."""
        return self.environment.observation_normalizer(state.inner)
