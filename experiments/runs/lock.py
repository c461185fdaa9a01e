"""Locks run directories, so that one process at a time writes a run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # the file's name; it stays, and says nothing by itself
_ATTEMPTS = 3  # somebody may be looking, which takes no time


def lock(path: Path) -> Callable[[], None]:
    """Locks a directory, until the function that is returned is called or the process ends.

    Raises:
        ValueError: if another process has locked it.
        OSError: if the lock's file cannot be made.
    """
    if fcntl is None:
        return lambda: None
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    for attempt in range(_ATTEMPTS):
        if _taken(descriptor, fcntl.LOCK_EX):
            return lambda: os.close(descriptor)
        if attempt + 1 < _ATTEMPTS:
            time.sleep(0.02)
    os.close(descriptor)
    raise _held(path)


def check_unlocked(path: Path) -> None:
    """Makes sure that no process has locked a directory, or what is no directory.

    Raises:
        ValueError: if one has.
    """
    if fcntl is None:
        return
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except OSError:  # there is none
        return
    with contextlib.closing(os.fdopen(descriptor)):
        if not _taken(descriptor, fcntl.LOCK_SH):
            raise _held(path)


def _taken(descriptor: int, kind: int) -> bool:
    """Takes a lock, unless another process holds it. Some file systems have none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _held(path: Path) -> ValueError:
    return ValueError(
        f"{path} is being written by another process; wait for it, or choose another --out."
    )
