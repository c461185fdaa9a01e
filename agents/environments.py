"""Environments by name, whichever library they come from."""

from __future__ import annotations

from typing import Any

from agents.environment import Environment

GYMNAX = (
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "Catch-bsuite",
)
GRIDWORLDS = (
    "small_sparse_short",
    "small_sparse_long",
    "small_dense_short",
    "small_dense_long",
    "big_sparse_short",
    "big_sparse_long",
    "big_dense_short",
    "big_dense_long",
)
BRAX = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "inverted_pendulum",
    "reacher",
    "walker2d",
)
GYMNASIUM = (
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
)


def environment_names() -> tuple[str, ...]:
    """Names that `make` accepts, except those in `GYMNASIUM`, which need the extra `offline`."""
    return GYMNAX + GRIDWORLDS + BRAX


def make(name: str, **options: Any) -> Environment:
    """Builds a single environment.

    Args:
        name: one of `environment_names()` or `GYMNASIUM`.
        **options: for Gymnax and the gridworlds, fields of the environment's parameters
            (`max_steps_in_episode=200`); for Brax, `backend` ('generalized', 'positional',
            'spring' or 'mjx') and `max_episode_steps`; for Gymnasium's MuJoCo tasks,
            `max_episode_steps`.

    Returns:
        The environment. It does not reset itself or count episodes: see `agents.wrappers`.

    Raises:
        ValueError: if the name or an option is unknown.
        ImportError: if the name is in `GYMNASIUM` and the extra `offline` is not installed.

    Examples:
        >>> import jax
        >>> from agents import environments
        >>> environment = environments.make("CartPole-v1")
        >>> observation, state = environment.reset(jax.random.key(0))
        >>> observation.shape, environment.action_space
        ((4,), Discrete(size=2))
    """
    # Each library takes seconds to import, so only the one that is asked for is.
    if name in GYMNAX + GRIDWORLDS:
        from agents.gymnax_environment import GymnaxEnvironment

        return GymnaxEnvironment(name, **options)
    if name in BRAX:
        from agents.brax_environment import BraxEnvironment

        if unknown := sorted(set(options) - {"backend", "max_episode_steps"}):
            raise ValueError(
                f"{name} has no option {unknown[0]!r}; it has backend, max_episode_steps."
            )
        return BraxEnvironment(name, **options)
    if name in GYMNASIUM:
        from agents.gymnasium_environment import GymnasiumEnvironment

        if unknown := sorted(set(options) - {"max_episode_steps"}):
            raise ValueError(f"{name} has no option {unknown[0]!r}; it has max_episode_steps.")
        return GymnasiumEnvironment(name, **options)
    raise ValueError(f"unknown environment {name!r}; choose from {', '.join(environment_names())}.")
