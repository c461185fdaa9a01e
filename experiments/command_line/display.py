"""Live progress of runs: a table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.command_line.progress import Progress
from experiments.runs.stopping import Stopped

_SECONDS_BETWEEN_LINES = 15.0
_COMPILING = logging.getLogger("meta.population")  # it says what takes long to be compiled


class Callbacks(NamedTuple):
    """What a run calls to be shown."""

    start: Callable[[int], None]  # with what had been done before
    point: Callable[[Any], None]  # with what is known after a logged point


class _Compiling(logging.Handler):
    """Hands on what is compiled."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._say(record.getMessage())


class Display:
    """Shows the progress of runs that are trained one after the other.

    Use it as a context manager and call `update` as often as you like.
    """

    def __init__(self, runs: Sequence[Progress], console: Console) -> None:
        self._runs = runs
        self._console = console
        self._start = time.monotonic()
        self._last_line = -math.inf
        self._last_state: tuple[int, str] | None = None  # of the last line: which run, and how
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

    @contextlib.contextmanager
    def shown(self, run: Progress) -> Iterator[Callbacks]:
        """Shows a run from its start to its end."""

        def start(done: int) -> None:
            run.begin(done)
            self.update(run)

        def point(point: Any) -> None:
            run.take(point)
            self.update(run)

        try:
            with self._hearing(run):
                yield Callbacks(start, point)
        except Stopped:
            run.state = "stopped"
            self.update(run)
            raise
        run.state = "done"
        self.update(run)

    @contextlib.contextmanager
    def _hearing(self, run: Progress) -> Iterator[None]:
        """Shows as a run's state what is compiled for it, and since when."""
        handler, level = _Compiling(lambda what: self._compiles(run, what)), _COMPILING.level
        _COMPILING.addHandler(handler)
        _COMPILING.setLevel(logging.INFO)
        try:
            yield
        finally:
            _COMPILING.setLevel(level)
            _COMPILING.removeHandler(handler)

    def _compiles(self, run: Progress, what: str) -> None:
        run.state = f"compiling {what}"
        self.update(run)

    def update(self, run: Progress) -> None:
        """Shows the runs as they stand now; `run` is the one that changed."""
        if self._live:
            self._live.update(self._table())
            return
        now = time.monotonic()
        state = (id(run), run.state)
        if state != self._last_state or now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line, self._last_state = now, state
            line = f"{run.line()}, {self._time_left()}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Says something once, above the table."""
        self._console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)

    def seconds_left(self) -> float:
        """Estimate from the speed so far; NaN before there is one."""
        left = sum(run.steps - run.done for run in self._runs)
        new = sum(run.done - run.done_before for run in self._runs)
        return left / new * (time.monotonic() - self._start) if new else math.nan

    def _time_left(self) -> str:
        of_what = " (all runs)" if len(self._runs) > 1 else ""
        seconds = self.seconds_left()
        return "ETA unknown" if math.isnan(seconds) else f"ETA {_duration(seconds)}{of_what}"

    def _table(self) -> Table:
        table = Table(title=self._time_left(), title_justify="left")
        columns = self._runs[0].columns
        for i, name in enumerate(columns):
            is_text = i < 2 or i == len(columns) - 1
            table.add_column(name, justify="left" if is_text else "right")
        for run in self._runs:
            table.add_row(*map(Text, run.cells()))
        return table


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
