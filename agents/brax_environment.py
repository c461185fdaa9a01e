"""Brax environments behind the interface of `agents.environment`."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from agents._promotion import plain_types, strong, typed_like
from agents.changes import Schedule
from agents.environment import Box, Environment, Info
from rl_optim import require_extra

require_extra("agents", "brax")

BACKENDS = ("generalized", "positional", "spring", "mjx")
ON_FEET = ("ant", "halfcheetah", "hopper", "humanoid", "walker2d")  # they touch a floor
_LINE_SEARCHES = 2  # for each iteration of MJX's solver


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

    Its ground friction and the strength of its actuators may change with the learner's clock. It
    computes with numbers of 32 bits, also where `jax_enable_x64` is on.

    Args:
        name: one that Brax has, e.g. "ant".
        backend: physics pipeline, one of `BACKENDS`. Returns differ between pipelines by factors,
            so a result means little without it; 'positional' is what OPEN's authors used.
        max_episode_steps: time limit in environment steps.
        friction: sliding friction of all surfaces, the floor's as well (a contact has the larger
            of its two); torsional and rolling friction stay. None for the model's.
        wear: strength of each actuator, in parts of the model's; it multiplies the gear. None for
            the model's.
        solver_iterations: of MJX's constraint solver, with twice as many line searches. None for
            the model's own, which on Ant is 1. That is too few for friction to mean anything, so
            that it is 4 where friction is given.

    Raises:
        ValueError: if the backend is unknown, friction is given where nothing walks on a floor, or
            solver iterations on another backend than MJX.
    """

    def __init__(
        self,
        name: str,
        backend: str = "positional",
        max_episode_steps: int = 1000,
        *,
        friction: Schedule | None = None,
        wear: Schedule | None = None,
        solver_iterations: int | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
        with _without_warnings():
            from brax import envs

            with plain_types():
                self._environment = envs.get_environment(name, backend=backend)
        if friction is not None and name not in ON_FEET:
            raise ValueError(f"{name} has no option 'friction': nothing in it walks on a floor.")
        if solver_iterations is not None and backend != "mjx":
            raise ValueError(f"option 'solver_iterations' is for backend mjx; got {backend!r}.")
        self.name = name
        self.backend = backend
        self._friction, self._wear = friction, wear
        if backend == "mjx" and (solver_iterations or friction):
            iterations = solver_iterations or 4
            self._environment.sys = self._environment.sys.tree_replace(
                {"opt.iterations": iterations, "opt.ls_iterations": _LINE_SEARCHES * iterations}
            )
        self._model = self._environment.sys
        self._environment.sys = self._changed(0)
        self.changes = any(
            schedule is not None and not schedule.is_constant for schedule in (friction, wear)
        )
        for schedule in (friction, wear):
            if schedule is not None and schedule.kind == "phases":
                self.phase_steps = schedule.steps
        with plain_types():
            shapes = jax.eval_shape(self._environment.reset, jax.random.key(0))
        self.observation_shape = tuple(shapes.obs.shape)
        self.action_space = Box(int(self._environment.action_size), -1.0, 1.0)
        self.max_episode_steps = max_episode_steps

    def at(self, clock: jax.Array | int) -> Self:
        """See `Environment.at`."""
        if not self.changes:
            return self
        moved = copy.copy(self)
        moved._environment = copy.copy(self._environment)  # Brax reads the model from its `sys`
        with plain_types():
            moved._environment.sys = self._changed(clock)
        return moved

    def _changed(self, clock: jax.Array | int) -> Any:
        """Brax's model at a time."""
        model = self._model
        if self._friction is not None:
            sliding = self._friction.value(clock)
            model = model.replace(geom_friction=model.geom_friction.at[:, 0].set(sliding))
        if self._wear is None:
            return model
        strength = self._wear.worn(clock, model.act_size())
        if self.backend == "mjx":
            return model.replace(actuator_gear=model.actuator_gear * strength[:, None])
        actuator = model.actuator
        return model.replace(actuator=actuator.replace(gear=actuator.gear * strength))

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
