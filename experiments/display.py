"""Live progress of a comparison: a table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 15.0


@dataclasses.dataclass
class Progress:
    """Where one run stands."""

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


class Display:
    """Shows the progress of runs that are trained one after the other.

    Use it as a context manager and call `update` as often as you like.
    """

    def __init__(self, runs: Sequence[Progress], console: Console) -> None:
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

    def update(self, run: Progress, episode_returns: np.ndarray | None = None) -> None:
        """Shows the runs as they stand now.

        Args:
            run: the one that changed.
            episode_returns: its seeds' returns in the last stretch; NaN where there is none.
        """
        if episode_returns is not None and np.isfinite(episode_returns).any():
            run.episode_return = float(episode_returns[np.isfinite(episode_returns)].mean())
        if self._live:
            self._live.update(self._table())
            return
        now = time.monotonic()
        if run.state in ("compiling", "done") or now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(self._line(run), highlight=False, markup=False, soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Says something once, above the table."""
        self._console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)

    def seconds_left(self) -> float:
        """Estimate from the speed so far; NaN before there is one."""
        left = sum(run.steps - run.done for run in self._runs)
        new = sum(run.done - run.done_before for run in self._runs)
        return left / new * (time.monotonic() - self._start) if new else math.nan

    def _line(self, run: Progress) -> str:
        return (
            f"{run.environment} {run.optimizer}: {run.state}, {run.done:,} of {run.steps:,} steps, "
            f"{run.steps_per_second:,.0f} steps/s, return {_number(run.episode_return)}"
            f"{f', {run.diverged} diverged' if run.diverged else ''}, "
            f"{_duration(self.seconds_left())} left in all"
        )

    def _table(self) -> Table:
        table = Table(title=f"{_duration(self.seconds_left())} left", title_justify="left")
        table.add_column("environment")
        table.add_column("optimizer")
        for name in ("done", "steps/s", "return", "diverged"):
            table.add_column(name, justify="right")
        table.add_column("state")
        for run in self._runs:
            table.add_row(
                Text(run.environment),
                Text(run.optimizer),
                f"{100 * run.done / run.steps:.0f} %",
                f"{run.steps_per_second:,.0f}" if run.done else "",
                _number(run.episode_return),
                str(run.diverged) if run.diverged else "",
                run.state,
            )
        return table


def _number(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "time unknown"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
