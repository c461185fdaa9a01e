"""Compiled programs that a process keeps, and how it gets rid of them.

JAX keeps every program that it has compiled, and each holds several of the memory maps of which
Linux allows a process 65,530 (`vm.max_map_count`). Beyond them, XLA ends in a segmentation fault
while it compiles. A run of another optimizer adds some 1,200.
"""

from __future__ import annotations

from pathlib import Path

import jax

_MAPS = Path("/proc/self/maps")  # one line each; only Linux has it
_MANY = 20_000  # a run adds less than 5,000


def memory_maps() -> int:
    """Those of this process; 0 where the system does not tell."""
    return _MAPS.read_bytes().count(b"\n") if _MAPS.is_file() else 0


def forget_if_many(many: int = _MANY) -> None:
    """Drops all compiled programs if the process has more memory maps than `many`.

    What is still used is compiled again when it is next called.
    """
    if memory_maps() > many:
        jax.clear_caches()
