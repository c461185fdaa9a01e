"""Grids of settings: what `--over` of the command line says, and what each key of it is of."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from experiments.runs.paths import unique_names
from experiments.settings import unknown

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


def folders(axes: Sequence[Axis]) -> dict[Values, str]:
    """A folder's name for every combination of values.

    Raises:
        ValueError: if two would share one.

    Examples:
        >>> folders(parse_axes(["eps=1e-8,1e-5"]))
        {('1e-8',): 'eps=1e-8', ('1e-5',): 'eps=1e-5'}
    """
    names = {values: named(axes, values) for values in grid(axes)}
    unique = unique_names(names.values())
    return {values: unique[name] for values, name in names.items()}


Place = tuple[str, str]  # of which option a key is, without dashes, and its name there


def places(
    axes: Sequence[Axis],
    known: Mapping[str, Collection[str]],
    given: Mapping[str, Collection[str]],
    words: Mapping[str, Place] | None = None,
) -> list[Place]:
    """What each key of a grid is of: `PLACE.KEY` says it, a key that only one has needs no place.

    Args:
        axes: of the grid.
        known: the keys that each place knows.
        given: the keys that have a value there already.
        words: keys that have a word of their own, and where they are.

    Raises:
        ValueError: if a key is unknown, could be several, or is given a value elsewhere as well.

    Examples:
        >>> axes = parse_axes(["eps=1e-8,1e-5", "set.clip=0.1,0.2"])
        >>> places(axes, {"optimizer": ["eps", "clip"], "set": ["clip"]}, {})
        [('optimizer', 'eps'), ('set', 'clip')]
    """
    found: list[Place] = []
    for axis in axes:
        place, name = _place(axis.key, known, words or {})
        if name in given.get(place, ()):
            raise ValueError(f"{name!r} is given twice, by --over and by --{place}.")
        if (place, name) in found:
            raise ValueError(f"--over must name each key once; got {name!r} twice.")
        found.append((place, name))
    return found


def _place(key: str, known: Mapping[str, Collection[str]], words: Mapping[str, Place]) -> Place:
    if key in words:
        return words[key]
    group, dot, name = key.rpartition(".")
    if dot:
        choices = [f"{place}.{name}" for place, names in known.items() for name in names]
        if key not in choices:
            raise unknown("key of --over", key, choices)
        return group, name
    having = [place for place, names in known.items() if key in names]
    if len(having) > 1:
        raise ValueError(
            f"key {key!r} of --over could be of {' or '.join(f'--{place}' for place in having)}; "
            f"write {' or '.join(f'{place}.{key}' for place in having)}."
        )
    if not having:
        choices = [*words, *(name for names in known.values() for name in names)]
        raise unknown("key of --over", key, choices)
    return having[0], key
