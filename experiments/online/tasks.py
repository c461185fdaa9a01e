"""Tasks: an environment, and the settings that PPO is published with on it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import optim
from agents import environments
from agents.changes import parse_span, span_text
from agents.environment import Discrete, Environment
from experiments.settings import Settings, unknown
from optim.importing import imported, is_imported, made, parameters_of
from optim.spec import check_options, parse_options


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment with its settings.

    Attributes:
        settings: how PPO is run on it.
        learning_rate: for optimizers that are given none.
        tuned: options per optimizer name that a bare name is filled up with.
        published_return: of tuned Adam, by OPEN's authors: after 1e7 environment steps on MinAtar;
            on Ant after 5e7, on the positional pipeline.
        published: whether the settings are published ones, or only chosen in their likeness.
    """

    settings: Settings
    learning_rate: float
    tuned: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    published_return: float | None = None
    published: bool = True

    def normaliser(self, options: Mapping[str, Any]) -> float | None:
        """What returns are divided by so that they compare between tasks, if anything is published.

        Args:
            options: of the environment, as `parse_environment` gives them.

        Returns:
            The published return. It was reached in the environment as it comes, on Brax's
            positional pipeline; None with any other options.

        Examples:
            >>> TASKS["ant"].normaliser({"backend": "positional"})
            6517.31
            >>> TASKS["ant"].normaliser({"backend": "spring"}) is None
            True
        """
        changed = {key: value for key, value in options.items() if key != "backend"}
        is_published = not changed and options.get("backend", "positional") == "positional"
        return self.published_return if is_published else None


_MINATAR = Settings()
_BRAX = Settings(
    num_envs=2048,
    num_steps=10,
    minibatches=32,
    entropy_weight=0.0,
    nonlinearity="tanh",
    normalize_observations=True,
    normalize_rewards=True,
    cached_resets=True,
)
_CLASSIC = Settings(num_envs=4, minibatches=4, nonlinearity="tanh")
_GRIDWORLD = Settings(num_steps=20, minibatches=4, discount=0.995, widths=(32,))
_PENDULUM = dataclasses.replace(
    _CLASSIC,
    num_envs=16,
    entropy_weight=0.0,
    normalize_observations=True,
    normalize_rewards=True,
)

FAMILIES = {
    "MinAtar": _MINATAR,
    "classic control": _CLASSIC,
    "with continuous actions": _PENDULUM,
    "gridworlds": _GRIDWORLD,
    "Brax": _BRAX,
}


def _adam(**options: float) -> dict[str, dict[str, float]]:
    tuned = options | {"eps": 1e-5}
    return {"adam": tuned, "adam_gnt": tuned}  # which is Adam, with a count for each entry


# Learning rates and Adam's decay rates: tuned by OPEN's authors, as published with their later
# code, in which Adam's eps is 1e-5. Returns: theirs too, beside OPEN's own code (Goldie et al.,
# 2024, arXiv 2407.07082); Ant's is the mean of each environment's last return over 16 runs, after
# the 5e7 steps of that code's configuration. Their later code has the same number beside 3e7 steps,
# and beside other Brax tasks, which therefore have none here.
TASKS: dict[str, Task] = {
    "Asterix-MinAtar": Task(_MINATAR, 3e-3, _adam(b2=0.999), 15.04),
    "Breakout-MinAtar": Task(_MINATAR, 1e-2, _adam(b2=0.99), 50.08),
    "Freeway-MinAtar": Task(_MINATAR, 1e-3, _adam(b2=0.99), 61.84),
    "SpaceInvaders-MinAtar": Task(_MINATAR, 7e-3, _adam(b2=0.99), 167.09),
    "Seaquest-MinAtar": Task(_MINATAR, 3e-3, published=False),
    environments.SEQUENCE: Task(_MINATAR, 3e-3, published=False),
    "CartPole-v1": Task(_CLASSIC, 1e-3),
    "Acrobot-v1": Task(_CLASSIC, 1e-3, published=False),
    "MountainCar-v0": Task(_CLASSIC, 1e-3, published=False),
    "MountainCarContinuous-v0": Task(_PENDULUM, 1e-3, published=False),
    "Pendulum-v1": Task(_PENDULUM, 1e-3, published=False),
    "Catch-bsuite": Task(_CLASSIC, 1e-3, published=False),
    **{name: Task(_GRIDWORLD, 1e-3, published=False) for name in environments.GRIDWORLDS},
    "ant": Task(_BRAX, 3e-4, _adam(b1=0.99, b2=0.99), 6517.31),
    "humanoid": Task(_BRAX, 3e-4, _adam(b1=0.9, b2=0.999)),
    "walker2d": Task(_BRAX, 1e-3, _adam(b1=0.9, b2=0.999)),
    "hopper": Task(_BRAX, 8e-4, _adam(b1=0.9, b2=0.999)),
    "halfcheetah": Task(_BRAX, 3e-4, published=False),
    "reacher": Task(_BRAX, 3e-4, published=False),
    "inverted_pendulum": Task(_BRAX, 3e-4, published=False),
}


_COUNTS = ("phase", "table", "max_episode_steps", "max_steps_in_episode", "solver_iterations")
_SPANS = ("friction", "wear")


def parse_environment(text: str) -> tuple[str, dict[str, Any]]:
    """Splits `NAME[:key=value,...]`, e.g. `ant:backend=spring`, into a name and options.

    The name of a user's own environment is `MODULE:NAME`.
    """
    name, colon, tail = text.partition(":")
    if name not in TASKS:
        own = re.fullmatch(r"([\w.]+:\w+)(?:(:)(.*))?", text, re.DOTALL)
        if name in environments.GYMNASIUM:
            raise ValueError(
                f"environment {name!r} is Gymnasium's, which rl-optim offline and collect take; "
                "agents are trained on Brax's tasks, with other physics, and Gymnax's: rl-optim "
                "list envs."
            )
        if own is None or not is_imported(own[1]):
            raise unknown("environment", name, TASKS)
        name, colon, tail = own[1], own[2] or "", own[3] or ""
    if colon and not tail:
        raise ValueError(f"environment must have the form NAME[:key=value,...], got {text!r}.")
    # The syntax after the colon is the optimizers'.
    given = parse_options("environment", tail) if colon else ()
    return name, {key: _canonical(key, value) for key, value in given}


def _canonical(key: str, value: Any) -> Any:
    """One spelling of each value, so that a task has one name; what is not allowed stays."""
    if key in _COUNTS and isinstance(value, float) and value.is_integer():
        return int(value)  # written as in 2e4
    if key == "permute" and value is None:  # a word here
        return "none"
    if key in _SPANS:
        with contextlib.suppress(ValueError):
            return span_text(parse_span(key, value))
    return value


def task_of(text: str) -> Task:
    """The task that an environment's text names.

    A user's own has the settings of classic control, for its kind of actions.

    Raises:
        ValueError: see `make_environment`.
    """
    name, _ = parse_environment(text)
    if name in TASKS:
        return TASKS[name]
    is_discrete = isinstance(make_environment(text).action_space, Discrete)
    return Task(_CLASSIC if is_discrete else _PENDULUM, 1e-3, published=False)


@functools.cache
def make_environment(text: str) -> Environment:
    """Builds the environment that `NAME[:key=value,...]` names, once.

    Raises:
        ValueError: if the name or an option is unknown, or a value is not allowed.
    """
    name, options = parse_environment(text)
    if name not in TASKS:
        return _own_environment(name, options)
    defaults = _default_options(name)
    for key, value in options.items():
        if key not in defaults:
            hint = optim.suggestion(key, defaults)
            raise ValueError(f"{name!r} has no option {key!r}; {hint}.")
        _check_option(name, key, value, defaults[key])
    return environments.make(name, **options)


def _own_environment(name: str, options: Mapping[str, Any]) -> Environment:
    """What a user's `MODULE:NAME` makes."""
    parameters = parameters_of(imported("environment", name))
    check_options(optim.OptimizerSpec(name, None, tuple(options.items())), parameters)
    environment = made("environment", name, Environment, options)
    needed = ("name", "observation_shape", "action_space", "max_episode_steps")
    if missing := [key for key in needed if not hasattr(environment, key)]:
        raise ValueError(
            f"environment {name!r} must have {', '.join(needed)}; got no {missing[0]}."
        )
    return environment


def _default_options(name: str) -> dict[str, Any]:
    """The options of an environment that a text can set."""
    changes = environments.change_options(name)
    if name == environments.SEQUENCE:
        return changes
    if name in environments.BRAX:
        brax = {"backend": "positional", "max_episode_steps": 1000, "solver_iterations": 1}
        return brax | changes
    # As in agents.environments, a library is imported when it is needed.
    from agents.gymnax_environment import default_parameters

    values = vars(default_parameters(name))
    numbers = {key: v for key, v in values.items() if isinstance(v, bool | int | float)}
    return numbers | changes


def _check_option(name: str, key: str, value: Any, default: Any) -> None:
    """Refuses a value of another kind than the default."""
    option = f"option {key!r} of {name!r}"
    if key == "backend":
        from agents.brax_environment import BACKENDS

        if value not in BACKENDS:
            raise unknown("backend", str(value), BACKENDS)
    elif key in _SPANS:
        parse_span(key, value)
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{option} must be a word, as {default!r} is; got {value!r}.")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{option} must be true or false; got {value!r}.")
    elif isinstance(default, int) or key == "phase":
        # Gymnax's and Brax's counts are all of steps; their times and sizes are floats.
        least = 0 if key == "table" else 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise ValueError(f"{option} must be a whole number, at least {least}; got {value!r}.")
    elif isinstance(value, bool | str) or value is None or not math.isfinite(value):
        raise ValueError(f"{option} must be a finite number; got {value!r}.")
    elif key == "offset" and value < 0:
        raise ValueError(f"{option} must be at least 0; got {value!r}.")


def resolve_optimizer(text: str | optim.OptimizerSpec, task: Task) -> optim.OptimizerSpec:
    """Fills up an optimizer's spec with what is tuned for it on the task.

    Args:
        text: the spec or its text, e.g. `"adam"` or `"adam:learning_rate=3e-4"`.
        task: the task, which gives a learning rate and perhaps more.

    Returns:
        The spec with a learning rate. What the text says comes first; a text that names its own
        learning rate gets nothing from the task, nor does one that sets its own steps. An optimizer
        that wraps another gets what is tuned for that other.
    """
    spec = optim.OptimizerSpec.parse(text) if isinstance(text, str) else text
    if spec.learning_rate is not None or optim.sets_own_steps(spec):
        return spec
    options = {"learning_rate": task.learning_rate} | dict(
        task.tuned.get(optim.base_name(spec), {})
    )
    return dataclasses.replace(spec, options=tuple((options | dict(spec.options)).items()))
