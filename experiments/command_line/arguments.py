"""What commands have in common, and how their arguments are read."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from experiments.settings import describe, whole_number

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.

MOST_SEEDS = 10_000
LARGEST_SEED = 2**32 - 1

# An option that is either there or not; its help needs no default.
FLAG = tyro.conf.arg(help_behavior_hint="")


class UsageError(Exception):
    """An argument that cannot be read; tyro lets it through, which it does not with ValueError."""


@dataclasses.dataclass(frozen=True)
class Command(abc.ABC):
    """A command. What it takes are the fields of a dataclass, whose docstrings are the help.

    Attributes:
        computes: whether it computes with jax, which needs a device and XLA's settings.
        spoken: how options are called in errors that speak of Python's arguments, where a field's
            name does not say it.
    """

    computes: ClassVar[bool] = False
    spoken: ClassVar[Mapping[str, str]] = {}

    def check(self) -> None:  # noqa: B027 (most commands have nothing to check)
        """Says what is not allowed, before anything is loaded.

        Raises:
            ValueError: if something is missing or unknown, or a directory cannot be used.
        """

    def logs(self) -> Sequence[Path]:
        """Where its runs log, if it can go on with `--resume` once something is there."""
        return ()

    @abc.abstractmethod
    def run(self) -> None:
        """Does what the command is for.

        Raises:
            ValueError: if anything that is asked for is unknown or not allowed.
            OSError: if something cannot be read or written.
            MemoryError: if something does not fit into memory.
        """


def option(metavar: str, default: str = "") -> object:
    """How an option's value is shown in the help, and in words what it is by default."""
    return tyro.conf.arg(
        metavar=metavar, help_behavior_hint=f"(default: {default})" if default else ""
    )


def count(
    option: str, most: float = float("inf"), least: int = 1
) -> PrimitiveConstructorSpec[int | None]:
    """Reads a whole number that may be written as in 1e6, from `least` to `most`."""
    limits = f"at least {least}" if most == float("inf") else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = whole_number(text)
        except (ValueError, OverflowError):
            value = least - 1
        if not least <= value <= most:
            raise UsageError(f"{option} must be a whole number, {limits}; got {text!r}.")
        return value

    return read_by(read, option.removeprefix("--").upper())


def seed_numbers(option: str) -> PrimitiveConstructorSpec[tuple[int, ...] | None]:
    """Reads which seeds: how many, a range, a list or a mixture of the two. They come sorted."""

    def read(text: str) -> tuple[int, ...]:
        try:
            ranges = _ranges(text)
        except (ValueError, OverflowError):
            raise UsageError(
                f"{option} must be a number from 1 to {MOST_SEEDS}, a range such as 3-6 or a list "
                f"such as 0,2,5; got {text!r}."
            ) from None
        for first, last in ranges:
            if first > last:
                raise UsageError(f"{option} must name ranges from low to high; got {text!r}.")
            if last > LARGEST_SEED:
                raise UsageError(f"{option} must name seeds up to {LARGEST_SEED}; got {last}.")
        if sum(last - first + 1 for first, last in ranges) > MOST_SEEDS:
            raise UsageError(f"{option} must name at most {MOST_SEEDS} seeds; got {text!r}.")
        seeds = sorted(seed for first, last in ranges for seed in range(first, last + 1))
        for seed, following in itertools.pairwise(seeds):
            if seed == following:
                raise UsageError(f"{option} must name each seed once; got {seed} twice.")
        return tuple(seeds)

    return read_by(read, "SEEDS")


def _ranges(text: str) -> list[tuple[int, int]]:
    """First and last of each range.

    Raises:
        ValueError: if there is anything else in the text.
    """
    parts = text.split(",")
    if len(parts) == 1 and "-" not in text:  # a number alone says how many
        number = whole_number(text)
        if number < 1:
            raise ValueError(text)
        return [(0, number - 1)]
    ends = [part.partition("-") for part in parts]
    return [(whole_number(first), whole_number(last if to else first)) for first, to, last in ends]


def written_seeds(seeds: Sequence[int]) -> str:
    """Seeds as `--seeds` names them.

    Examples:
        >>> written_seeds([4, 5, 8]), written_seeds([7])
        ('4-5,8', '7-7')
    """
    # A number alone would say how many.
    return f"{seeds[0]}-{seeds[0]}" if len(seeds) == 1 else describe("seeds", list(seeds))


def other_seeds(seeds: Sequence[int]) -> list[int]:
    """As many seeds, of which none is among those that are given.

    Examples:
        >>> other_seeds([0, 2, 3])
        [1, 4, 5]
    """
    others = (seed for seed in itertools.count() if seed not in seeds)
    return list(itertools.islice(others, len(seeds)))


def check_floor(floor: float | None) -> None:
    """Refuses a `--floor` from which nothing can be measured.

    Raises:
        ValueError: if it is not finite.
    """
    if floor is not None and not math.isfinite(floor):
        raise ValueError(f"--floor must be a finite number; got {floor}.")


def read_by(read: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Reads an option's one value with a function, which raises UsageError."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def joined(words: Sequence[str]) -> str:
    """Words as in a sentence: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
