"""What commands have in common, and how their arguments are read."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from experiments.settings import whole_number

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.

MOST_SEEDS = 10_000


class UsageError(Exception):
    """An argument that cannot be read; tyro lets it through, which it does not with ValueError."""


@dataclasses.dataclass(frozen=True)
class Command(abc.ABC):
    """A command. What it takes are the fields of a dataclass, whose docstrings are the help.

    Attributes:
        resumes: whether a command that was interrupted can go on with `--resume`.
        computes: whether it trains, so that XLA's settings matter.
    """

    resumes: ClassVar[bool] = False
    computes: ClassVar[bool] = False

    def check(self) -> None:  # noqa: B027 (most commands have nothing to check)
        """Says what is not allowed, before anything is loaded.

        Raises:
            ValueError: if something is missing or unknown, or a directory cannot be used.
        """

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
