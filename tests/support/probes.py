"""Environments so small that the right values and policies are known.

Each comes with discrete and with continuous actions. They are as strict about what they return as
`agents.environment.Environment` asks, so that they also serve as examples of an environment
written from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from quick import quick_jit as quick_jit

from agents.environment import Box, Discrete, Environment


class ProbeState(NamedTuple):
    time: jax.Array  # shape=(), dtype=int32: steps since the episode began
    sign: jax.Array  # shape=(), dtype=float32: -1 or 1, drawn at the reset


class Probe(Environment):
    """Observes `observe(state)`; a subclass says what a step pays and whether it ends."""

    max_episode_steps = 1
    observation_shape = (1,)

    def __init__(self, continuous: bool = False) -> None:
        self.continuous = continuous
        self.name = f"{type(self).__name__}-{'continuous' if continuous else 'discrete'}"
        self.action_space = Box(1, -2.0, 2.0) if continuous else Discrete(2)

    def observe(self, state: ProbeState) -> jax.Array:
        del state
        return jnp.zeros((1,))

    def pay(self, state: ProbeState, action: jax.Array) -> jax.Array:
        """The reward of `action`, an int32 or float32 scalar, in `state`."""
        raise NotImplementedError

    def ends(self, key: jax.Array, state: ProbeState) -> tuple[jax.Array, jax.Array]:
        """Whether the step that led to `state` is (terminated, truncated)."""
        del key
        return state.time >= self.max_episode_steps, jnp.zeros((), bool)

    def reset(self, key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = ProbeState(jnp.zeros((), jnp.int32), sign)
        return self.observe(state), state

    def step(self, key, state, action):
        if self.continuous:
            action = jnp.clip(action[0], self.action_space.low, self.action_space.high)
        reward = self.pay(state, action)
        state = state._replace(time=state.time + 1)
        terminated, truncated = self.ends(key, state)
        observation = self.observe(state)
        info = {"final_observation": observation}
        return observation, state, reward, terminated, truncated, info


class ConstantReward(Probe):
    """One step that pays 1: the value is 1."""

    def pay(self, state, action):
        return jnp.ones(())


class ObservationReward(Probe):
    """One step that pays the observation, -1 or 1: the value is the observation."""

    def observe(self, state):
        return state.sign[None]

    def pay(self, state, action):
        return state.sign


class TwoSteps(Probe):
    """Observes -1, then 1, and pays 1 at the end: values are the discount and 1."""

    max_episode_steps = 2

    def observe(self, state):
        return jnp.where(state.time == 0, -1.0, 1.0)[None]

    def pay(self, state, action):
        return jnp.where(state.time == 1, 1.0, 0.0)


class ActionReward(Probe):
    """One step. Action 1 pays 1 and action 0 -1; a continuous one pays -(action - 1/2)^2."""

    def pay(self, state, action):
        if self.continuous:
            return -jnp.square(action - 0.5)
        return jnp.where(action == 1, 1.0, -1.0)


class ObservationAction(Probe):
    """One step. At observation 1 the best action is 1 (or 1/2), at -1 it is 0 (or -1/2)."""

    def observe(self, state):
        return state.sign[None]

    def pay(self, state, action):
        if self.continuous:
            return -jnp.square(action - 0.5 * state.sign)
        return jnp.where((action == 1) == (state.sign > 0), 1.0, -1.0)


class Endless(Probe):
    """Pays 1 in every step, always looks the same, and is cut off after `limit` steps.

    Truncated, its value is that of a world without end, 1 / (1 - discount). Terminated, a step
    with k to go is worth (1 - discount^k) / (1 - discount); as nothing tells the time, a critic
    that is fitted to whole returns learns their mean over k = 1, ..., limit.
    """

    def __init__(self, continuous: bool = False, limit: int = 5, terminates: bool = False) -> None:
        super().__init__(continuous)
        self.max_episode_steps = limit
        self.terminates = terminates

    def pay(self, state, action):
        return jnp.ones(())

    def ends(self, key, state):
        over = state.time >= self.max_episode_steps
        never = jnp.zeros((), bool)
        return (over, never) if self.terminates else (never, over)


class CutShort(Probe):
    """Observes -1, then 1, pays 1 at the end; three times in four it is cut off at the 1.

    The first observation is worth the discount, as in `TwoSteps`, but that is known only to who
    looks at the observation the episode was cut off at. With discount 0.8, one who bootstraps from
    the next episode's first observation finds 0.2 / (1 - 0.6) = 0.5, and one who takes the cut for
    an end 0.2.
    """

    max_episode_steps = 2

    def observe(self, state):
        return jnp.where(state.time == 0, -1.0, 1.0)[None]

    def pay(self, state, action):
        return jnp.where(state.time == 1, 1.0, 0.0)

    def ends(self, key, state):
        cut = jnp.logical_and(state.time == 1, jax.random.bernoulli(key, 0.75))
        return state.time >= 2, cut


class OneOf(Probe):
    """The probe of number `index`, which may be traced: one program trains many of them."""

    def __init__(self, options: Sequence[Probe], index: int | jax.Array) -> None:
        super().__init__(options[0].continuous)
        self.options = options
        self.index = index

    def choose(self, method, *arguments):
        branches = [getattr(option, method) for option in self.options]
        return jax.lax.switch(self.index, branches, *arguments)

    def observe(self, state):
        return self.choose("observe", state)

    def pay(self, state, action):
        return self.choose("pay", state, action)

    def ends(self, key, state):
        return self.choose("ends", key, state)


class CountdownState(NamedTuple):
    start: jax.Array  # shape=(), dtype=float32
    length: jax.Array  # shape=(), dtype=int32
    time: jax.Array  # shape=(), dtype=int32


class Countdown(Environment):
    """Episodes of 1 to 5 steps from a random start; odd ones terminate, even ones are truncated.

    Observes (start + time, 10 * time), pays start + time^2. The action does nothing.
    """

    name = "Countdown"
    observation_shape = (2,)
    action_space = Discrete(2)
    max_episode_steps = 5

    def observe(self, state):
        time = state.time.astype(jnp.float32)
        return jnp.stack([state.start + time, 10.0 * time])

    def reset(self, key):
        start_key, length_key = jax.random.split(key)
        state = CountdownState(
            jax.random.uniform(start_key),
            jax.random.randint(length_key, (), 1, 6),
            jnp.zeros((), jnp.int32),
        )
        return self.observe(state), state

    def step(self, key, state, action):
        reward = state.start + jnp.square(state.time.astype(jnp.float32))
        state = state._replace(time=state.time + 1)
        over, odd = state.time >= state.length, state.length % 2 == 1
        observation = self.observe(state)
        info = {"final_observation": observation}
        return observation, state, reward, over & odd, over & ~odd, info


class TapeState(NamedTuple):
    observations: jax.Array  # shape=(steps + 1, 2), dtype=float32
    actions: jax.Array  # shape=(steps,) or (steps, 2)
    time: jax.Array  # shape=(), dtype=int32


class Tape(Environment):
    """Plays observations drawn at the reset and keeps the actions: a rollout to look at after.

    It never ends. The reward is the first number of the observation times (action + 1), the
    continuous action being summed.
    """

    observation_shape = (2,)

    def __init__(self, continuous: bool = False, steps: int = 8) -> None:
        self.name = "Tape"
        self.continuous = continuous
        self.action_space = Box(2, -10.0, 10.0) if continuous else Discrete(3)
        self.max_episode_steps = steps + 1

    def reset(self, key):
        steps = self.max_episode_steps - 1
        observations = jax.random.normal(key, (steps + 1, 2))
        actions = jnp.zeros((steps, 2)) if self.continuous else jnp.zeros((steps,), jnp.int32)
        return observations[0], TapeState(observations, actions, jnp.zeros((), jnp.int32))

    def step(self, key, state, action):
        amount = jnp.sum(action) if self.continuous else action.astype(jnp.float32)
        reward = state.observations[state.time, 0] * (amount + 1.0)
        state = TapeState(
            state.observations, state.actions.at[state.time].set(action), state.time + 1
        )
        observation = state.observations[state.time]
        never = jnp.zeros((), bool)
        return observation, state, reward, never, never, {"final_observation": observation}


class PowersOfTwo(Environment):
    """Observes 2^(time modulo `period`), so that a sum of distinct observations names them."""

    name = "PowersOfTwo"
    observation_shape = (1,)
    action_space = Discrete(2)

    def __init__(self, period: int) -> None:
        self.max_episode_steps = self.period = period

    def observe(self, time):
        return jnp.exp2((time % self.period).astype(jnp.float32))[None]

    def reset(self, key):
        time = jnp.zeros((), jnp.int32)
        return self.observe(time), time

    def step(self, key, state, action):
        observation, never = self.observe(state + 1), jnp.zeros((), bool)
        info = {"final_observation": observation}
        return observation, state + 1, jnp.zeros(()), never, never, info
