"""Grids of settings: what `rl-optim sweep --over` says, and which of them go on."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence

from experiments.online.presets import Arm
from experiments.settings import Settings, unknown

# No jax at import: whether the directories are free is said before it is loaded.

Values = tuple[str, ...]  # one for each key of a grid


@dataclasses.dataclass(frozen=True)
class Axis:
    """A key and the values that it takes, as the user wrote them."""

    key: str
    values: Values


def parse_axes(texts: Iterable[str]) -> tuple[Axis, ...]:
    """Reads `KEY=VALUE,VALUE,...` texts.

    Raises:
        ValueError: if a text has another form, a key or a value of one is given twice, or there are
            fewer than two settings.

    Examples:
        >>> parse_axes(["learning_rate=1e-3,3e-3"])
        (Axis(key='learning_rate', values=('1e-3', '3e-3')),)
    """
    axes: list[Axis] = []
    for text in texts:
        key, _, tail = text.partition("=")
        values = tuple(value.strip() for value in tail.split(","))
        if not (key.strip() and all(values)):
            raise ValueError(f"--over must have the form KEY=VALUE,VALUE,...; got {text!r}.")
        axis = Axis(key.strip(), values)
        if axis.key in (other.key for other in axes):
            raise ValueError(f"--over must name each key once; got {axis.key!r} twice.")
        seen: dict[object, str] = {}
        for value in values:
            if (first := seen.setdefault(_number_or_word(value), value)) is not value:
                raise ValueError(
                    f"--over must give each value of {axis.key!r} once; got {first} and {value}."
                )
        axes.append(axis)
    if (count := math.prod(len(axis.values) for axis in axes)) < 2 or not axes:
        raise ValueError(f"--over must make at least two settings; got {count if axes else 0}.")
    return tuple(axes)


def _number_or_word(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text.lower()


def grid(axes: Sequence[Axis]) -> list[Values]:
    """Every combination of values; the last key changes first."""
    return list(itertools.product(*(axis.values for axis in axes)))


def named(axes: Sequence[Axis], values: Values) -> str:
    """What a combination is called: `key=value,key=value`."""
    return ",".join(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))


def arms(optimizer: str, axes: Sequence[Axis], fixed: Sequence[str]) -> dict[Values, Arm]:
    """What is trained at each combination of values.

    Args:
        optimizer: `NAME[@WEIGHTS][:key=value,...]`.
        axes: of the grid. A key is an option of the optimizer or a setting; `optimizer.KEY` and
            `set.KEY` say which.
        fixed: the settings that all have, `key=value`.

    Raises:
        ValueError: if a key is unknown, could be both, or is given a value elsewhere as well.
    """
    import optim

    spec = optim.OptimizerSpec.parse(optimizer)
    known = {
        "optimizer": optim.option_names(spec.name),
        "set": list(typing.get_type_hints(Settings)),
    }
    given = {
        "optimizer": [key for key, _ in spec.options],
        "set": [text.partition("=")[0] for text in fixed],
    }
    places: list[tuple[str, str]] = []
    for axis in axes:
        place, name = _place(axis.key, known)
        if name in given[place]:
            raise ValueError(f"{name!r} is given twice, by --over and by --{place}.")
        if (place, name) in places:
            raise ValueError(f"--over must name each key once; got {name!r} twice.")
        places.append((place, name))

    def arm(values: Values) -> Arm:
        options, settings = list(spec.options), []
        for (place, name), value in zip(places, values, strict=True):
            if place == "set":
                settings.append(f"{name}={value}")
            else:  # the syntax of values is the optimizers'
                options += optim.OptimizerSpec.parse(f"{spec.name}:{name}={value}").options
        text = str(dataclasses.replace(spec, options=tuple(options)))
        label = f"{text} {','.join(settings)}" if settings else None
        return Arm(label, text, tuple(settings))

    return {values: arm(values) for values in grid(axes)}


def _place(key: str, known: Mapping[str, Collection[str]]) -> tuple[str, str]:
    """Whether a key is of the optimizer or of the settings, and its name there."""
    group, dot, name = key.rpartition(".")
    if dot:
        choices = [f"{place}.{name}" for place, names in known.items() for name in names]
        if key not in choices:
            raise unknown("key of --over", key, choices)
        return group, name
    places = [place for place, names in known.items() if key in names]
    if len(places) > 1:
        raise ValueError(
            f"key {key!r} of --over is an option of the optimizer and a setting; write "
            f"optimizer.{key} or set.{key}."
        )
    if not places:
        raise unknown("key of --over", key, [name for names in known.values() for name in names])
    return places[0], key


def lengths(steps: int, settings: int, keep: int) -> list[int]:
    r"""Steps up to which each round of successive halving trains its settings.

    .. math:: R = \lceil \log_k n \rceil, \qquad
        t_i = \lceil T / k^{R - i} \rceil, \quad i = 1, \dots, R

    for n settings, of which each round leaves one in k, and T steps: every round costs about as
    much, and the last one compares up to k settings at full length.

    Args:
        steps: T.
        settings: n, more than `keep`.
        keep: k, at least 2.

    Examples:
        >>> lengths(100_000, 8, 2)
        [25000, 50000, 100000]
    """
    rounds = next(r for r in itertools.count(1) if keep**r >= settings)
    return [-(-steps // keep**later) for later in reversed(range(rounds))]


def kept(scores: Sequence[float], keep: int) -> list[int]:
    """Which settings go on after a round of successive halving: the best one in `keep`, rounded up.

    Args:
        scores: of the settings in the round. NaN counts as the worst, of equal ones the first goes
            on.
        keep: at least 2.

    Returns:
        Their places, in order.

    Examples:
        >>> kept([1.0, 4.0, 2.0, 3.0, 0.0], 2)
        [1, 2, 3]
    """
    order = sorted(
        range(len(scores)),
        key=lambda i: math.inf if math.isnan(scores[i]) else -scores[i],
    )
    return sorted(order[: -(-len(scores) // keep)])
