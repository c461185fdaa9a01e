"""Live progress of runs: a table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 15.0
_FADE = 0.9  # in each meta-iteration, of what is shown of those before


@dataclasses.dataclass
class Progress:
    """Where one run stands."""

    columns: ClassVar[Sequence[str]] = (
        *("environment", "optimizer", "done", "steps/s", "return", "diverged", "state"),
    )

    environment: str
    optimizer: str
    steps: int  # environment steps, all seeds together
    done: int = 0
    done_before: int = 0  # by the process that this one continues
    seconds: float = 0.0
    episode_return: float = math.nan
    diverged: int = 0
    state: str = "waiting"  # or "compiling", "training", "evaluating", "done"

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of wall time, compilation included."""
        return self.done / self.seconds if self.seconds else 0.0

    def cells(self) -> list[str]:
        """What the table says, by column."""
        return [
            self.environment,
            self.optimizer,
            f"{100 * self.done / self.steps:.0f} %",
            f"{self.steps_per_second:,.0f}" if self.done else "",
            _number(self.episode_return),
            str(self.diverged) if self.diverged else "",
            self.state,
        ]

    def line(self) -> str:
        """What a line says where there is no table."""
        return (
            f"{self.environment} {self.optimizer}: {self.state}, {self.done:,} of {self.steps:,} "
            f"steps, {self.steps_per_second:,.0f} steps/s, return {_number(self.episode_return)}"
            f"{f', {self.diverged} diverged' if self.diverged else ''}"
        )


@dataclasses.dataclass
class MetaProgress:
    """Where meta-training stands."""

    columns: ClassVar[Sequence[str]] = (
        *("optimizer", "strategy", "generation", "mean fitness", "best fitness", "failed"),
        *("evaluation", "state"),
    )

    optimizer: str
    strategy: str
    steps: int  # generations
    done: int = 0
    done_before: int = 0  # by the process that this one continues
    fitness_mean: float = math.nan
    fitness_best: float = math.nan
    failed: int = 0
    evaluation: float = math.nan  # of the mean, the last there was
    state: str = "waiting"  # or "compiling", "training", "done"

    def cells(self) -> list[str]:
        """What the table says, by column."""
        return [
            self.optimizer,
            self.strategy,
            f"{self.done} of {self.steps}",
            _number(self.fitness_mean),
            _number(self.fitness_best),
            str(self.failed) if self.failed else "",
            _number(self.evaluation),
            self.state,
        ]

    def line(self) -> str:
        """What a line says where there is no table."""
        return (
            f"{self.optimizer} {self.strategy}: {self.state}, generation {self.done} of "
            f"{self.steps}, mean fitness {_number(self.fitness_mean)}, best "
            f"{_number(self.fitness_best)}{f', {self.failed} failed' if self.failed else ''}, "
            f"evaluation of the mean {_number(self.evaluation)}"
        )

    def take(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes in what the trainer says of a generation."""
        self.fitness_mean = float(metrics["fitness_mean"])
        self.fitness_best = float(metrics["fitness_best"])
        self.failed = int(metrics["failed"])


@dataclasses.dataclass
class PipelineProgress:
    """Where pipeline training, or imitation, stands."""

    columns: ClassVar[Sequence[str]] = (
        *("optimizer", "method", "meta-iteration", "meta-loss", "gradient", "return by age"),
        *("skipped", "evaluation", "state"),
    )

    optimizer: str
    steps: int  # meta-iterations
    method: str = "pipeline"
    done: int = 0
    done_before: int = 0  # by the process that this one continues
    meta_loss: float = math.nan
    gradient_norm: float = math.nan
    return_sums: np.ndarray | None = None  # (tasks, bins), older ones fade away
    episodes: np.ndarray | None = None
    skipped: int = 0
    evaluation: float = math.nan  # of the meta-parameters, the last there was
    state: str = "waiting"  # or "compiling", "training", "stopped", "done"

    def take(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes in what the trainer says of a meta-iteration."""
        self.meta_loss = float(metrics["meta_loss"])
        self.gradient_norm = float(metrics["gradient_norm"])
        self.skipped = int(metrics["skipped"])
        if "episodes_by_age" not in metrics:
            return
        episodes = np.asarray(metrics["episodes_by_age"], np.float64)
        sums = np.where(episodes > 0, metrics["return_by_age"], 0.0) * episodes
        if self.episodes is not None and self.return_sums is not None:
            episodes, sums = episodes + _FADE * self.episodes, sums + _FADE * self.return_sums
        self.episodes, self.return_sums = episodes, sums

    def by_age(self) -> str:
        """Returns of newborn to old agents, each the mean over tasks, in at most four numbers."""
        if self.episodes is None or self.return_sums is None:
            return _number(math.nan)
        groups = min(4, self.episodes.shape[1])
        numbers = []
        for part in np.array_split(np.arange(self.episodes.shape[1]), groups):
            count = self.episodes[:, part].sum(axis=1)
            mean = self.return_sums[:, part].sum(axis=1)[count > 0] / count[count > 0]
            numbers.append(f"{mean.mean():.3g}" if mean.size else _number(math.nan))
        return " ".join(numbers)

    def cells(self) -> list[str]:
        """What the table says, by column."""
        return [
            self.optimizer,
            self.method,
            f"{self.done} of {self.steps}",
            _number(self.meta_loss),
            _number(self.gradient_norm),
            self.by_age(),
            str(self.skipped) if self.skipped else "",
            _number(self.evaluation),
            self.state,
        ]

    def line(self) -> str:
        """What a line says where there is no table."""
        return (
            f"{self.optimizer} {self.method}: {self.state}, meta-iteration {self.done} of "
            f"{self.steps}, meta-loss {_number(self.meta_loss)}, "
            f"gradient norm {_number(self.gradient_norm)}, return by age {self.by_age()}"
            f"{f', {self.skipped} skipped' if self.skipped else ''}, "
            f"evaluation {_number(self.evaluation)}"
        )


@dataclasses.dataclass
class OfflineProgress:
    """Where one offline run stands."""

    columns: ClassVar[Sequence[str]] = (
        *("data set", "critic optimizer", "done", "steps/s", "return", "mean |Q|", "collapsed"),
        "state",
    )

    dataset: str
    optimizer: str
    steps: int  # updates of the critic, all seeds together
    done: int = 0
    done_before: int = 0  # by the process that this one continues
    seconds: float = 0.0
    episode_return: float = math.nan  # the last there was, mean over seeds
    mean_abs_q: float = math.nan  # median over seeds
    collapsed: int = 0
    state: str = "waiting"  # or "compiling", "training", "evaluating", "done"

    @property
    def steps_per_second(self) -> float:
        """Updates of the critic per second of wall time, compilation included."""
        return self.done / self.seconds if self.seconds else 0.0

    def cells(self) -> list[str]:
        """What the table says, by column."""
        return [
            self.dataset,
            self.optimizer,
            f"{100 * self.done / self.steps:.0f} %",
            f"{self.steps_per_second:,.0f}" if self.done else "",
            _number(self.episode_return),
            _number(self.mean_abs_q),
            str(self.collapsed) if self.collapsed else "",
            self.state,
        ]

    def line(self) -> str:
        """What a line says where there is no table."""
        return (
            f"{self.dataset} {self.optimizer}: {self.state}, {self.done:,} of {self.steps:,} "
            f"steps, {self.steps_per_second:,.0f} steps/s, return {_number(self.episode_return)}, "
            f"mean |Q| {_number(self.mean_abs_q)}"
            f"{f', {self.collapsed} collapsed' if self.collapsed else ''}"
        )


AnyProgress = Progress | MetaProgress | PipelineProgress | OfflineProgress


class Display:
    """Shows the progress of runs that are trained one after the other.

    Use it as a context manager and call `update` as often as you like.
    """

    def __init__(self, runs: Sequence[AnyProgress], console: Console) -> None:
        self._runs = runs
        self._console = console
        self._start = time.monotonic()
        self._last_line = -math.inf
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, run: AnyProgress, episode_returns: np.ndarray | None = None) -> None:
        """Shows the runs as they stand now.

        Args:
            run: the one that changed.
            episode_returns: its seeds' returns in the last stretch; NaN where there is none.
        """
        if isinstance(run, Progress | OfflineProgress) and episode_returns is not None:
            known = episode_returns[np.isfinite(episode_returns)]
            run.episode_return = float(known.mean()) if known.size else run.episode_return
        if self._live:
            self._live.update(self._table())
            return
        now = time.monotonic()
        if (
            run.state in ("compiling", "stopped", "done")
            or now - self._last_line > _SECONDS_BETWEEN_LINES
        ):
            self._last_line = now
            line = f"{run.line()}, {_duration(self.seconds_left())} left in all"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Says something once, above the table."""
        self._console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)

    def seconds_left(self) -> float:
        """Estimate from the speed so far; NaN before there is one."""
        left = sum(run.steps - run.done for run in self._runs)
        new = sum(run.done - run.done_before for run in self._runs)
        return left / new * (time.monotonic() - self._start) if new else math.nan

    def _table(self) -> Table:
        table = Table(title=f"{_duration(self.seconds_left())} left", title_justify="left")
        columns = self._runs[0].columns
        for i, name in enumerate(columns):
            is_text = i < 2 or i == len(columns) - 1
            table.add_column(name, justify="left" if is_text else "right")
        for run in self._runs:
            table.add_row(*map(Text, run.cells()))
        return table


def _number(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "time unknown"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
