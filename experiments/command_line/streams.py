"""Standard output and standard error whose readers may go away."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

STANDARD_OUTPUT = "standard output"  # what errors call it


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Lets a command run to its end, and with its own status, whoever reads what it prints.

    Once the reader of standard output has gone, as that of `rl-optim list envs | head -1` has,
    nothing more is printed. No progress line or error is worth a run, so all that goes wrong with
    standard error is passed over.

    Raises:
        OSError: if standard output cannot be written for any other reason; named as its file.
    """
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(_lasting(sys.stdout, nowhere, STANDARD_OUTPUT)),
        contextlib.redirect_stderr(_lasting(sys.stderr, nowhere, None)),
    ):
        yield


def _lasting(stream: TextIO | None, nowhere: TextIO, name: str | None) -> TextIO:
    if stream is None:  # closed from the start
        return nowhere
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # of characters that a terminal does not have
    return cast(TextIO, _Lasting(stream, nowhere, name))


class _Lasting:
    """A stream that falls silent at the first error.

    Args:
        stream: what is written to.
        nowhere: what takes its place then.
        name: what errors call it, but for that of a reader who has gone; None for no errors.
    """

    def __init__(self, stream: TextIO, nowhere: TextIO, name: str | None) -> None:
        self._stream = stream
        self._nowhere = nowhere
        self._name = name

    def write(self, text: str) -> int:
        self._do(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._do(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _do(self, action: Callable[..., Any], *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError as error:
            # What is still in the buffer goes nowhere, then or when Python ends.
            os.dup2(self._nowhere.fileno(), self._stream.fileno())
            if self._name is not None and not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, self._name) from error
