"""MinAtar games one after the other, for learners that must go on learning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from agents.changes import phase_of
from agents.environment import Discrete, Environment, Info
from agents.gymnax_environment import GymnaxEnvironment

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


class SequenceState(NamedTuple):
    """The game that is played, the states of all of them and the last observation."""

    game: jax.Array  # shape=(), dtype=int32
    games: tuple[Any, ...]  # only the present game's means anything
    observation: jax.Array  # shape=(10, 10, channels), dtype=float32


class GameSequence(Environment):
    """MinAtar games in turns, one each phase, and from the first again after the last.

    All have the six actions of MinAtar (none, left, up, right, down, fire), of which a game may
    ignore some, and observations padded with empty channels to those of the game with the most. An
    episode that a change of games finds unfinished is truncated without a further reward.

    Args:
        games: names out of `GAMES`, in their order; the same may come again.
        phase_steps: length of a phase, in environment steps.
    """

    changes = True
    resets_change = True

    def __init__(self, games: Sequence[str], phase_steps: int) -> None:
        for game in games:
            if game not in GAMES:
                raise ValueError(f"games must be among {', '.join(GAMES)}; got {game!r}.")
        self._games = [
            GymnaxEnvironment(f"{game}-MinAtar", arguments={"use_minimal_action_set": False})
            for game in games
        ]
        self._game: jax.Array = np.int32(0)  # type: ignore[assignment]  # no device at import
        self.name = "Sequence-MinAtar"
        self.phase_steps = self._steps = phase_steps
        shapes = [game.observation_shape for game in self._games]
        self.observation_shape = (*shapes[0][:-1], max(shape[-1] for shape in shapes))
        self.action_space = Discrete(6)
        self.max_episode_steps = max(game.max_episode_steps for game in self._games)

    def at(self, clock: jax.Array | int) -> Self:
        """See `Environment.at`."""
        moved = copy.copy(self)
        moved._game = phase_of(clock, self._steps) % len(self._games)
        return moved

    def reset(self, key: jax.Array) -> tuple[jax.Array, SequenceState]:
        """See `Environment.reset`."""

        def start(index: int) -> Callable[[], tuple[jax.Array, Any]]:
            def branch() -> tuple[jax.Array, Any]:
                observation, state = self._games[index].reset(key)
                return self._padded(observation), self._with(self._nothing(key), index, state)

            return branch

        observation, games = jax.lax.switch(
            self._game, [start(index) for index in range(len(self._games))]
        )
        return observation, SequenceState(jnp.asarray(self._game, jnp.int32), games, observation)

    def step(
        self, key: jax.Array, state: SequenceState, action: jax.Array
    ) -> tuple[jax.Array, SequenceState, jax.Array, jax.Array, jax.Array, Info]:
        """See `Environment.step`."""

        def play(index: int) -> Callable[[], tuple[jax.Array, Any, jax.Array, Any, Any]]:
            def branch() -> tuple[jax.Array, Any, jax.Array, Any, Any]:
                observation, game, reward, terminated, truncated, _ = self._games[index].step(
                    key, state.games[index], action
                )
                games = self._with(state.games, index, game)
                return self._padded(observation), games, reward, terminated, truncated

            return branch

        observation, games, reward, terminated, truncated = jax.lax.switch(
            self._game, [play(index) for index in range(len(self._games))]
        )
        is_cut = state.game != self._game
        observation = jnp.where(is_cut, state.observation, observation)
        reward = jnp.where(is_cut, 0.0, reward)
        terminated = terminated & ~is_cut
        truncated = truncated | is_cut
        info = {"final_observation": observation}
        next_state = SequenceState(state.game, games, observation)
        return observation, next_state, reward, terminated, truncated, info

    def _padded(self, observation: jax.Array) -> jax.Array:
        missing = self.observation_shape[-1] - observation.shape[-1]
        return jnp.pad(observation, ((0, 0), (0, 0), (0, missing)))

    def _nothing(self, key: jax.Array) -> tuple[Any, ...]:
        shapes = [jax.eval_shape(game.reset, key)[1] for game in self._games]
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tuple(shapes))

    @staticmethod
    def _with(games: tuple[Any, ...], index: int, game: Any) -> tuple[Any, ...]:
        return (*games[:index], game, *games[index + 1 :])
