"""Where numbers of a run go while it goes on, beside its directory: `--log NAME ...`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from experiments.settings import unknown

if TYPE_CHECKING:
    from experiments.meta_training.training import Generation
    from experiments.runs.training import Point

# No NumPy at import, as nowhere in what reads arguments.

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_PLACE = ("point", "step", "seed")  # columns that say what a row is of


class Logger(Protocol):
    """Something that takes numbers."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Takes finite numbers by name."""

    def close(self) -> None:
        """Writes what is left to write."""


def check_loggers(names: Sequence[str]) -> None:
    """Makes sure that numbers can be logged there.

    Raises:
        ValueError: if a name is unknown or given twice, or its package is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise unknown("logger", name, PACKAGES)
        if names.count(name) > 1:
            raise ValueError(f"--log names {name!r} twice.")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ValueError(
                f"--log {name} needs {PACKAGES[name]}, which is not installed: pip install "
                f"'rl-optim[{name}]'."
            )


class Loggers:
    """The loggers of one run, opened with the first numbers; none of a run that was finished.

    Use it as a context manager.

    Args:
        names: of `PACKAGES`.
        path: the run's directory.
        title: what the run is called.
        config: what its `config.json` says.
    """

    def __init__(
        self, names: Sequence[str], path: Path, title: str, config: Mapping[str, Any]
    ) -> None:
        self._names = names
        self._run = path, title, config
        self._done = 0
        self._open: list[Logger] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._open:
            logger.close()

    def begin(self, done: int) -> None:
        """Notes how many steps the run had before; what was logged up to there stays."""
        self._done = done

    def point(self, point: Point) -> None:
        """Logs a point of training."""
        self._log(point.step, numbers_of_point(point))

    def generation(self, generation: Generation) -> None:
        """Logs a generation of meta-training."""
        self._log(generation.number + 1, numbers_of_generation(generation))

    def _log(self, step: int, numbers: Mapping[str, float]) -> None:
        if not self._open:
            self._open = [_LOGGERS[name](*self._run, self._done) for name in self._names]
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for logger in self._open:
            logger.log(step, finite)


def numbers_of_point(point: Point) -> dict[str, float]:
    """Means over seeds of what a logged point has, and each seed's return; NaN where none has it.

    Examples:
        >>> from experiments.runs.training import Point
        >>> rows = [{"point": 0, "step": 8, "seed": 4, "episode_return": "1.5", "loss": ""},
        ...         {"point": 0, "step": 8, "seed": 7, "episode_return": "2.5", "loss": "0.5"}]
        >>> found = numbers_of_point(Point(0, 8, 1.0, rows))
        >>> found["episode_return"], found["loss"], found["episode_return/seed_7"]
        (2.0, 0.5, 2.5)
    """
    found = {"seconds": point.seconds}
    for name in point.rows[0]:
        if name not in _PLACE:
            known = [x for x in point.column(name).tolist() if math.isfinite(x)]
            found[name] = math.fsum(known) / len(known) if known else math.nan
    returns = point.column("episode_return")
    seeds = (row["seed"] for row in point.rows)
    return found | {
        f"episode_return/seed_{s}": float(x) for s, x in zip(seeds, returns, strict=True)
    }


def numbers_of_generation(generation: Generation) -> dict[str, float]:
    """What a generation has, arrays with the places of their entries, `name_0`."""
    import numpy as np

    found = {"seconds": generation.seconds, "evaluation": generation.evaluation}
    for name, values in generation.metrics.items():
        for place, value in np.ndenumerate(values):
            found["_".join([name, *map(str, place)])] = float(value)
    return found


def both(*functions: Callable[[Any], None]) -> Callable[[Any], None]:
    """A function that calls several with its argument, one after the other."""

    def call(argument: Any) -> None:
        for function in functions:
            function(argument)

    return call


def _tensorboard(path: Path, title: str, config: Mapping[str, Any], done: int) -> Logger:
    from experiments.command_line.log_tensorboard import TensorBoard

    return TensorBoard(path / "tensorboard", done)


def _wandb(path: Path, title: str, config: Mapping[str, Any], done: int) -> Logger:
    from experiments.command_line.log_wandb import WeightsAndBiases

    return WeightsAndBiases(path, title, config, done)


_LOGGERS: Mapping[str, Callable[..., Logger]] = {"tensorboard": _tensorboard, "wandb": _wandb}
