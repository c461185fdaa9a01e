"""Settings of a training run, and how they are changed from the command line."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

# No jax at import: the command line reads numbers with `whole_number`.


def unknown(what: str, given: str, choices: Iterable[str]) -> ValueError:
    """The error for a name that is not among the choices, which says what may have been meant."""
    import optim

    return ValueError(f"unknown {what} {given!r}; {optim.suggestion(given, choices)}.")


def optimizer_option(key: str) -> str | None:
    """The option of common optimizers that a key may have been meant for; None if it is like none.

    Examples:
        >>> optimizer_option("lr"), optimizer_option("num_envs")
        ('learning_rate', None)
    """
    import optim

    known = {option for name in ("adamw", "sgd") for option in optim.option_names(name)}
    return optim.near(key, known)


LEARNERS = ("ppo", "a2c")
# Settings that runs of earlier versions lack, and what these did.
LATER = {"value_clip": None, "reward_scale": 1.0, "restart": False}

_MOST = 2**20  # of anything that is counted; far more than fits into any memory


def _require(name: str, value: Any, allowed: str, ok: bool) -> None:
    if not ok:
        raise ValueError(f"setting {name!r} must be {allowed}; got {value!r}.")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `--set key=value` changes: PPO's settings and what surrounds the optimizer.

    The defaults are the published ones for MinAtar. Fields that `agents.ppo.PPOConfig` also has
    mean what they mean there.

    Attributes:
        max_grad_norm: the gradients of actor and critic are each clipped to this global norm;
            inf for no clipping.
        anneal: whether the learning rate falls linearly, once an iteration, from its full value
            in the first iteration towards 0 after the last; with `restart`, after each phase.
        learner: ppo or a2c, which has 1 epoch of 1 minibatch and clips neither ratio nor value; see
            `agents.a2c`.
        restart: whether the agent starts from scratch wherever its environment changes; see
            `agents.restarts`.
    """

    num_envs: int = 64
    num_steps: int = 128
    epochs: int = 4
    minibatches: int = 8
    discount: float = 0.99
    trace_decay: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    widths: tuple[int, ...] = (64, 64)
    nonlinearity: str = "relu"
    normalize_observations: bool = False
    normalize_rewards: bool = False
    cached_resets: bool = False
    max_grad_norm: float = 0.5
    anneal: bool = True
    value_clip: float | None = None
    reward_scale: float = 1.0
    learner: str = "ppo"
    restart: bool = False

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_steps", "epochs", "minibatches"):
            value = getattr(self, name)
            _require(name, value, f"in [1, {_MOST}]", 1 <= value <= _MOST)
        for name in ("discount", "trace_decay"):
            value = getattr(self, name)
            _require(name, value, "in [0, 1]", 0 <= value <= 1)
        for name in ("clip", "max_grad_norm"):
            _require(name, getattr(self, name), "in (0, inf]", 0 < getattr(self, name) <= math.inf)
        ok = self.value_clip is None or 0 < self.value_clip <= math.inf
        _require("value_clip", self.value_clip, "in (0, inf], or none", ok)
        scale = self.reward_scale
        _require("reward_scale", scale, "in (0, inf)", 0 < scale < math.inf)
        _require("learner", self.learner, " or ".join(LEARNERS), self.learner in LEARNERS)
        for name in ("entropy_weight", "value_weight"):
            _require(name, getattr(self, name), "in [0, inf)", 0 <= getattr(self, name) < math.inf)
        widths = "x".join(map(str, self.widths))
        _require("widths", widths, f"in [1, {_MOST}]", all(1 <= w <= _MOST for w in self.widths))
        _require(
            "nonlinearity", self.nonlinearity, "relu or tanh", self.nonlinearity in ("relu", "tanh")
        )
        rollout = self.num_envs * self.num_steps
        # Samples of a rollout and updates on it are counted in int32.
        for one, other in (("num_steps", "num_envs"), ("epochs", "minibatches")):
            most = (2**31 - 1) // getattr(self, other)
            allowed = f"in [1, {most}] where {other} is {getattr(self, other)}"
            _require(one, getattr(self, one), allowed, getattr(self, one) <= most)
        _require(
            "minibatches",
            self.minibatches,
            f"a divisor of num_envs * num_steps = {rollout}",
            rollout % self.minibatches == 0,
        )
        if self.learner == "a2c":
            names = ("epochs", "minibatches", "clip", "value_clip")
            # A clip at its default was not set, as in `agents.a2c.a2c_config`.
            kept = [name for name in names if name != "clip" or self.clip != Settings.clip]
            _check_a2c({name: getattr(self, name) for name in kept})

    def config(self) -> dict[str, Any]:
        """What `config.json` says, as JSON may hold it: infinity is the text inf.

        The learner has a key of its own there, and the clip of A2C, which has none, is null.
        """
        values = dataclasses.asdict(self) | {"widths": list(self.widths)}
        values = {key: "inf" if value == math.inf else value for key, value in values.items()}
        if values.pop("learner") == "a2c":
            values["clip"] = None
        return values


def _check_a2c(settings: Mapping[str, Any]) -> None:
    from agents.a2c import check_a2c  # jax comes with it

    check_a2c(settings)


def change_settings(settings: Settings, assignments: Iterable[str]) -> Settings:
    """Applies `key=value` texts to settings.

    For A2C, what is not among them takes A2C's values.

    Raises:
        ValueError: if a key is unknown, or a value does not fit or would be ignored by A2C.
    """
    types_of = typing.get_type_hints(Settings)
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"a setting must have the form key=value; got {assignment!r}.")
        if key not in types_of:
            raise _no_setting(key, text, types_of)
        changes[key] = parse_value(key, text, types_of[key])
    if changes.get("learner", settings.learner) == "a2c":
        _check_a2c(changes)
        changes = {"epochs": 1, "minibatches": 1, "clip": math.inf} | changes
    return dataclasses.replace(settings, **changes)


def _no_setting(key: str, text: str, choices: Iterable[str]) -> ValueError:
    import optim

    option = optimizer_option(key)
    if option is None or (option != key and optim.near(key, choices) is not None):
        return unknown("setting", key, choices)
    return ValueError(
        f"{key!r} is no setting but an option of optimizers: OPTIMIZER:{option}={text}."
    )


def whole_number(text: str) -> int:
    """Reads a whole number, which may be written as in 1e6.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> whole_number("1e6"), whole_number("9007199254740993")
        (1000000, 9007199254740993)
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def parse_value(key: str, text: str, wanted: Any) -> Any:
    """Reads a setting's value.

    Args:
        key: the setting's name, for the error.
        text: the value.
        wanted: bool, int, float or str, or one of them or None, which is written `none`; anything
            else stands for whole numbers joined by x.

    Raises:
        ValueError: if the text does not fit.
    """
    return _read(f"setting {key!r}", text, wanted)


def _read(what: str, text: str, wanted: Any) -> Any:
    """See `parse_value`."""
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if type(None) in kinds and text.lower() == "none":
        return None
    try:
        if bool in kinds:
            return {"true": True, "false": False}[text.lower()]
        if int in kinds and tuple[int, ...] in kinds and "," in text:
            return tuple(whole_number(part) for part in text.split(","))
        if int in kinds:
            return whole_number(text)
        if float in kinds:
            return float(text)
        if str in kinds:
            return text
        return tuple(int(part) for part in text.split("x"))
    except (ValueError, KeyError, OverflowError):
        names = {bool: "true or false", int: "a whole number", float: "a number"}
        names |= {type(None): "none"}
        commas = "several joined by commas, e.g. 4,8"
        others = commas if int in kinds else "whole numbers joined by x, e.g. 64x64"
        allowed = " or ".join(names.get(kind, others) for kind in kinds)
        raise ValueError(f"{what} must be {allowed}; got {text!r}.") from None


def describe(key: str, value: Any) -> str:
    """How a value of `config.json` is written on the command line.

    Args:
        key: its name there; numbers under `seeds` are written as ranges.
        value: as JSON holds it.

    Examples:
        >>> describe("seeds", [0, 1, 2, 3, 8]), describe("settings.widths", [64, 32])
        ('0-3,8', '64x32')
        >>> describe("settings.anneal", True), describe("subset_seed", None)
        ('true', 'none')
        >>> describe("pipeline.window", [4, 8])
        '4,8'
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if not (isinstance(value, list) and all(isinstance(part, int) for part in value)):
        return str(value)
    if key != "seeds":
        return ("," if key.endswith(".window") else "x").join(map(str, value))
    ranges: list[list[int]] = []
    for seed in value:
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ",".join(f"{a[0]}-{a[-1]}" if len(a) > 1 else str(a[0]) for a in ranges)


def read_options(option: str, fields: Any, assignments: Iterable[str]) -> dict[str, Any]:
    """Reads what an option such as `--pipeline key=value ...` sets.

    Args:
        option: its name, for the errors.
        fields: a dataclass, whose fields may be set. They hold bool, int, float or str, or None,
            which is written `none`, or an int or several, which are written `4,8`.
        assignments: texts, `key=value`.

    Raises:
        ValueError: if a key is unknown or a value is not allowed.
    """
    kinds = typing.get_type_hints(fields)
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"a setting of {option} must have the form key=value; got {assignment!r}."
            )
        if key not in kinds:
            raise unknown(f"setting of {option}", key, kinds)
        values[key] = _read(f"setting {key!r} of {option}", text, kinds[key])
    return values
