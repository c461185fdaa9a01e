"""How a run ends before its time: why it is stopped, and what it does when it is told to end.

A process that is told to end (SIGTERM; SIGHUP, unless that is ignored, as under nohup) first saves
the state of the run that it logs. Whoever starts runs puts them within `listening`; a loop that
logs points puts itself within `deferred` and calls `raise_if_requested` where its state is saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_TOGETHER = 0.1  # seconds; closing a terminal sends its signal twice at once

_requested: int | None = None  # the signal
_deferred = False


class Stopped(RuntimeError):  # noqa: N818 (it says how a run ended)
    """A run that cannot go on, or makes no sense to; what was reached before is kept."""


class Terminated(KeyboardInterrupt):
    """The process was told to end. What was logged is saved.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def request_stop(number: int = signal.SIGTERM) -> None:
    """Lets the run that is being logged end with its next point."""
    global _requested
    _requested = number


def stop_requested() -> bool:
    """Whether the run that is being logged is to end."""
    return _requested is not None


def raise_if_requested() -> None:
    """Ends what is to end; nothing of it may be left to save.

    Raises:
        Terminated: if a stop was requested. The request is over then.
    """
    global _requested
    if _requested is not None:
        number, _requested = _requested, None
        raise Terminated(number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it, to be told to end is to end with the next `raise_if_requested`, at its end too."""
    global _deferred
    raise_if_requested()
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    raise_if_requested()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within it, the first signal to end is seen to; a second one ends the process at once.

    Raises:
        Terminated: when a signal comes, unless that is `deferred`.
    """
    global _requested
    if threading.current_thread() is not threading.main_thread():
        yield  # others can handle no signals
        return
    _requested = None
    numbers = [
        number
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None))
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, _handle) for number in numbers}
    # The interpreter runs handlers between two of its instructions, and does not get to any while
    # a program is compiled or computes. Numbers of signals are written to this pipe at once.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    writer_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader, numbers), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(writer_before)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not one of Python's
        os.close(writer)
        listener.join()
        _requested = None


def _handle(number: int, frame: FrameType | None) -> None:
    request_stop(number)
    if not _deferred:
        raise_if_requested()


def _listen(reader: int, numbers: list[int]) -> None:
    """Ends the process with the second signal of these numbers."""
    first: float | None = None
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            if byte[0] not in numbers:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first > _TOGETHER:
                os._exit(128 + byte[0])
