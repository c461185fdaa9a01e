"""Environments by name, whichever library they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.changes import KINDS, Schedule, parse_span
from agents.environment import Environment

_MINATAR = (
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
)
_CLASSIC = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
)
GYMNAX = (*_MINATAR, *_CLASSIC, "Catch-bsuite")
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


SEQUENCE = "Sequence-MinAtar"

# Options that make a task change, with the values that change nothing.
_IN_PHASES: dict[str, Any] = {"phase": None, "table": 0}
_ACTIONS = {"flip": False, "offset": 0.0}
_PERMUTED = {"permute": "none"}
_PHYSICS = {"friction": None, "wear": None, "change": "phases"}


def change_options(name: str) -> dict[str, Any]:
    """The options of an environment that make it change with the learner's clock.

    Args:
        name: an environment's.

    Returns:
        The values that each has where it is not given; those change nothing.

    Examples:
        >>> change_options("CartPole-v1")
        {'flip': False, 'offset': 0.0, 'phase': None, 'table': 0}
    """
    if name == SEQUENCE:
        return {"games": "SpaceInvaders+Asterix+Seaquest", "phase": 1_500_000}
    if name in _CLASSIC:
        return _ACTIONS | _IN_PHASES
    if name in _MINATAR:
        return _PERMUTED | _IN_PHASES
    if name in GRIDWORLDS:
        return {"move": False} | _IN_PHASES
    if name in BRAX:
        physics = dict(_PHYSICS)
        if name in ("reacher", "inverted_pendulum"):  # no feet
            del physics["friction"]
        return physics | _IN_PHASES
    return {}


def environment_names() -> tuple[str, ...]:
    """Names that `make` accepts, except those in `GYMNASIUM`, which need the extra `offline`."""
    return (*GYMNAX, SEQUENCE, *GRIDWORLDS, *BRAX)


def make(name: str, **options: Any) -> Environment:
    """Builds a single environment.

    Args:
        name: one of `environment_names()` or `GYMNASIUM`.
        **options: for Gymnax and the gridworlds, fields of the environment's parameters
            (`max_steps_in_episode=200`); for Brax, `backend` ('generalized', 'positional',
            'spring' or 'mjx'), `max_episode_steps` and, with 'mjx', `solver_iterations`; for
            Gymnasium's MuJoCo tasks, `max_episode_steps`. Also those of `change_options`, which
            make the task change with the learner's clock, see `Environment.at`:

            - `phase`: environment steps of a phase, which all that follows needs. `table`: seed of
              what is drawn for the phases (0).
            - `flip=True` (classic control): actions are turned round in every second phase.
              `offset=2.0`: standard deviation of a constant that is added to observations.
            - `permute="channels"`, `"actions"` or `"both"` (MinAtar).
            - `games="Breakout+Asterix"` (Sequence-MinAtar): which follow each other.
            - `move=True` (gridworlds): rewards move among the objects.
            - `friction=(0.02, 2.0)` (Brax, on feet) and `wear=(0.3, 1.0)` (Brax): between which
              sliding friction and the actuators' strengths are drawn, log-uniformly; or with
              `change="linear"` from the first to the second within one `phase`, with
              `change="sinusoidal"` back and forth. One number needs no phase. See
              `agents.changes.Schedule`.

            The first phase is the task as it comes, but for friction and wear, which are drawn
            there too.

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
    changes = _changes(name, options)
    others = {key: value for key, value in options.items() if key not in changes}
    if name == SEQUENCE:
        from agents.game_sequence import GameSequence

        if others:
            raise ValueError(f"{name} has no option {min(others)!r}; it has {', '.join(changes)}.")
        return GameSequence(str(changes["games"]).split("+"), changes["phase"])
    if name in GYMNAX + GRIDWORLDS:
        return _gymnax(name, changes, others)
    if name in BRAX:
        from agents.brax_environment import BraxEnvironment

        known = {"backend", "max_episode_steps", "solver_iterations"}
        if unknown := sorted(set(others) - known):
            names = ", ".join([*sorted(known), *changes])
            raise ValueError(f"{name} has no option {unknown[0]!r}; it has {names}.")
        schedules: dict[str, Any] = {
            key: Schedule(
                parse_span(key, changes[key]),
                changes["phase"] or 1,
                changes["change"] if changes["phase"] else "linear",  # of one number: no phases
                changes["table"] + number,
            )
            for number, key in enumerate(("friction", "wear"))
            if changes.get(key) is not None
        }
        return BraxEnvironment(name, **others, **schedules)
    if name in GYMNASIUM:
        from agents.gymnasium_environment import GymnasiumEnvironment

        if unknown := sorted(set(options) - {"max_episode_steps"}):
            raise ValueError(f"{name} has no option {unknown[0]!r}; it has max_episode_steps.")
        return GymnasiumEnvironment(name, **options)
    raise ValueError(f"unknown environment {name!r}; choose from {', '.join(environment_names())}.")


def _changes(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that make a task change, all of them, if they are allowed."""
    defaults = change_options(name)
    changes = defaults | {key: value for key, value in options.items() if key in defaults}
    if changes.get("change", KINDS[0]) not in KINDS:
        raise ValueError(
            f"option 'change' must be one of {', '.join(KINDS)}; got {changes['change']!r}."
        )
    phase = changes.get("phase")
    if phase is not None and not 1 <= phase < 2**31:
        raise ValueError(f"option 'phase' must be in [1, 2147483647]; got {phase!r}.")
    kinds = [key for key in defaults if key not in ("phase", "table", "change")]
    given = [key for key in kinds if changes[key] != defaults[key]]
    if given and phase is None:
        spans = [parse_span(key, changes[key]) for key in given if key in ("friction", "wear")]
        if not spans or any(low != high for low, high in spans):
            raise ValueError(f"option {given[0]!r} of {name} needs a phase, in environment steps.")
    if phase is not None and not any(key in options for key in kinds) and name != SEQUENCE:
        raise ValueError(f"option 'phase' of {name} needs a change: {' or '.join(kinds)}.")
    return changes


def _gymnax(name: str, changes: Mapping[str, Any], parameters: Mapping[str, Any]) -> Environment:
    from agents import changing
    from agents.gymnax_environment import GymnaxEnvironment

    phase, seed = changes.get("phase"), changes.get("table", 0)
    if phase is None:
        return GymnaxEnvironment(name, **parameters)
    if changes.get("move"):
        return changing.MovedRewards(name, phase, seed, **parameters)
    environment: Environment = GymnaxEnvironment(name, **parameters)
    permuted = changes.get("permute", "none")
    if permuted not in changing.PERMUTED:
        raise ValueError(
            f"option 'permute' must be one of {', '.join(changing.PERMUTED)}; got {permuted!r}."
        )
    if permuted in ("channels", "both"):
        environment = changing.PermutedChannels(environment, phase, seed)
    if permuted in ("actions", "both"):
        environment = changing.PermutedActions(environment, phase, seed)
    if changes.get("offset"):
        environment = changing.OffsetObservations(environment, phase, changes["offset"], seed)
    if changes.get("flip"):
        environment = changing.FlippedActions(environment, phase)
    # Also where the change is of size zero: what is compared with it changes in these phases.
    environment.phase_steps = phase
    return environment
