"""Gridworlds with objects that come and go, as Gymnax environments, registered by name.

Importing this module registers them, so that `gymnax.make("big_dense_long")` works too.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from agents._gymnax import environment, gymnax, spaces

# Rows down and columns to the right: stay, the four sides, the four corners.
MOVES = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))


class Layout(NamedTuple):
    """The settings in which gridworlds differ.

    Attributes:
        rows: cells from top to bottom within the walls.
        columns: cells from left to right within the walls.
        pairs: number of good objects, and of bad ones.
        respawn_probability: of an absent object, in each step.
        max_steps: after which an episode is truncated.
    """

    rows: int
    columns: int
    pairs: int
    respawn_probability: float
    max_steps: int


LAYOUTS = {
    "small_sparse_short": Layout(3, 8, 1, 0.05, 50),
    "small_sparse_long": Layout(8, 3, 1, 0.05, 500),
    "small_dense_short": Layout(4, 6, 1, 0.5, 50),
    "small_dense_long": Layout(6, 4, 1, 0.5, 500),
    "big_sparse_short": Layout(10, 12, 2, 0.05, 50),
    "big_sparse_long": Layout(12, 10, 2, 0.05, 500),
    "big_dense_short": Layout(9, 13, 2, 0.5, 50),
    "big_dense_long": Layout(13, 9, 2, 0.5, 500),
}


@struct.dataclass
class GridworldParams(environment.EnvParams):
    """Numbers that may be changed, and traced.

    Attributes:
        max_steps_in_episode: after which an episode is truncated.
        respawn_probability: of an absent object, in each step.
        termination_probability: that collecting a bad object ends the episode.
        rewards: of the objects, shape (objects,), float32; None for those of the gridworld.
    """

    max_steps_in_episode: int = 50
    respawn_probability: float = 0.05
    termination_probability: float = 0.5
    rewards: jax.Array | None = None

    def __post_init__(self) -> None:
        for name in ("respawn_probability", "termination_probability"):
            value = getattr(self, name)
            # Neither tracers nor what jax puts in their places have a value yet.
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1]; got {value!r}.")


@struct.dataclass
class GridworldState(environment.EnvState):
    """State of a gridworld; cells are (row, column), counted from 1 within the walls."""

    agent: jax.Array  # shape=(2,), dtype=int32
    objects: jax.Array  # shape=(objects, 2), dtype=int32: where each is, or was
    present: jax.Array  # shape=(objects,), dtype=bool
    time: jax.Array  # shape=(), dtype=int32


class Gridworld(environment.Environment[GridworldState, GridworldParams]):
    r"""A room in which good objects pay 1 and bad ones cost 1 and may end the episode.

    The agent takes one of nine moves, `MOVES`; a move into a wall does nothing. Every object in the
    cell that it then is in is collected: it pays :math:`r_i` and disappears, and the episode ends
    with probability :math:`p_i`. Every object that is absent, those just collected too, appears
    with probability q in a cell drawn uniformly, which may be the agent's or another object's;
    there it is collected in the next step at the earliest. Good objects, which come first, have
    :math:`r_i = 1, p_i = 0`, bad ones :math:`r_i = -1, p_i = 1/2`. An episode begins with the
    agent and all objects in different cells, drawn uniformly.

    Observations have shape (objects + 1, rows + 2, columns + 2), the walls counted: a plane for
    each object, in which its cell is 1 while it is present, and last a plane for the agent.
    Neither walls nor time are seen.

    Args:
        name: a key of `LAYOUTS`.

    References:
        Lan et al., Learning to Optimize for Reinforcement Learning, RLC 2024,
        `arXiv:2302.01470 <https://arxiv.org/abs/2302.01470>`_; after Oh et al., Discovering
        Reinforcement Learning Algorithms, 2020, `arXiv:2007.08794
        <https://arxiv.org/abs/2007.08794>`_

    .. note::
        A time limit truncates. In the authors' code it ends the episode like a bad object.

    Examples:
        >>> import gymnax, jax
        >>> gridworld, params = gymnax.make("small_dense_short")
        >>> observation, state = gridworld.reset(jax.random.key(0), params)
        >>> observation.shape, params.max_steps_in_episode
        ((3, 6, 8), 50)
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.layout = LAYOUTS[name]
        self.rewards = (1.0,) * self.layout.pairs + (-1.0,) * self.layout.pairs

    @property
    def default_params(self) -> GridworldParams:
        """The time limit and the probabilities of the layout."""
        return GridworldParams(
            max_steps_in_episode=self.layout.max_steps,
            respawn_probability=self.layout.respawn_probability,
        )

    @property
    def name(self) -> str:
        """The name it is registered by."""
        return self._name

    @property
    def num_actions(self) -> int:
        """Number of moves."""
        return len(MOVES)

    def action_space(self, params: GridworldParams | None = None) -> spaces.Discrete:
        """The moves."""
        del params
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: GridworldParams | None = None) -> spaces.Box:
        """Planes of zeros and ones."""
        del params
        shape = (len(self.rewards) + 1, self.layout.rows + 2, self.layout.columns + 2)
        return spaces.Box(0, 1, shape, dtype=jnp.float32)

    def reset_env(
        self, key: jax.Array, params: GridworldParams
    ) -> tuple[jax.Array, GridworldState]:
        """Puts the agent and all objects into different cells."""
        del params
        count = len(self.rewards) + 1
        cells = self._cell(_distinct(key, count, self.layout.rows * self.layout.columns))
        state = GridworldState(
            agent=cells[0],
            objects=cells[1:],
            present=jnp.ones((count - 1,), bool),
            time=jnp.zeros((), jnp.int32),
        )
        return self._observation(state), state

    def step_env(
        self,
        key: jax.Array,
        state: GridworldState,
        action: int | float | jax.Array,
        params: GridworldParams,
    ) -> tuple[jax.Array, GridworldState, jax.Array, jax.Array, dict[Any, Any]]:
        """Moves, collects, then lets objects appear."""
        end_key, respawn_key, cell_key = jax.random.split(key, 3)
        count = len(self.rewards)

        target = state.agent + jnp.asarray(MOVES, jnp.int32)[action]
        last = jnp.array([self.layout.rows, self.layout.columns], jnp.int32)
        agent = jnp.where(jnp.all((target >= 1) & (target <= last)), target, state.agent)

        collected = state.present & jnp.all(state.objects == agent[None], axis=1)
        given = self.rewards if params.rewards is None else params.rewards
        rewards = jnp.asarray(given, jnp.float32)
        reward = jnp.sum(jnp.where(collected, rewards, 0.0))
        unlucky = jax.random.bernoulli(end_key, params.termination_probability, (count,))
        terminated = jnp.any(collected & unlucky & (rewards < 0))

        absent = ~state.present | collected
        respawned = jax.random.bernoulli(respawn_key, params.respawn_probability, (count,)) & absent
        cells = self.layout.rows * self.layout.columns
        fresh = self._cell(jax.random.randint(cell_key, (count,), 0, cells, jnp.int32))
        state = GridworldState(
            agent=agent,
            objects=jnp.where(respawned[:, None], fresh, state.objects),
            present=~absent | respawned,
            time=state.time + 1,
        )
        info = {"discount": jnp.where(terminated, 0.0, 1.0)}
        return self._observation(state), state, reward, terminated, info

    def _cell(self, number: jax.Array) -> jax.Array:
        """Rows and columns, along the last axis, of cells that are numbered from 0."""
        return jnp.stack(jnp.divmod(number, self.layout.columns), axis=-1) + 1

    def _observation(self, state: GridworldState) -> jax.Array:
        # Products of rows and columns, one-hot: no scatter, which accelerators are slow at.
        places = jnp.concatenate([state.objects, state.agent[None]])
        seen = jnp.append(state.present, True)[:, None]
        rows = (places[:, :1] == jnp.arange(self.layout.rows + 2)[None]) & seen
        columns = places[:, 1:] == jnp.arange(self.layout.columns + 2)[None]
        return (rows[:, :, None] & columns[:, None, :]).astype(jnp.float32)


def _distinct(key: jax.Array, count: int, cells: int) -> jax.Array:
    """`count` different numbers below `cells`, every ordered choice equally likely."""
    chosen: list[jax.Array] = []
    for i, draw_key in enumerate(jax.random.split(key, count)):
        # A place among the cells that are left, counted past those that are taken.
        cell = jax.random.randint(draw_key, (), 0, cells - i, jnp.int32)
        taken = jnp.sort(jnp.stack(chosen)) if chosen else ()
        for other in taken:
            cell = cell + (cell >= other).astype(jnp.int32)
        chosen.append(cell)
    return jnp.stack(chosen)


for _name in LAYOUTS:
    if _name not in gymnax.registered_envs:
        gymnax.register(_name, functools.partial(Gridworld, _name))
