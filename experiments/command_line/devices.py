"""Devices, memory and compiled programs of commands that train."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# No jax at import: XLA's settings have to be made before it starts.


def prepare_xla() -> None:
    """Offers a CPU's cores as devices, one thread each, unless the user has set XLA_FLAGS.

    Seeds are spread over devices; two cores with half the seeds each train about 1.5 times as fast
    as one program that spreads its matrix products over both.
    """
    if "XLA_FLAGS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        os.environ["XLA_FLAGS"] = (
            f"--xla_force_host_platform_device_count={cores} --xla_cpu_multi_thread_eigen=false"
        )


def keep_compiled_programs() -> None:
    """Turns on jax's persistent compilation cache, in the user's cache folder."""
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-optim"
    jax.config.update("jax_compilation_cache_dir", str(cache))


@contextlib.contextmanager
def memory_for(what: str, lower: str) -> Iterator[None]:
    """Says in one sentence what does not fit into memory, and what may be lowered.

    Raises:
        MemoryError: in the place of jax's error.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"{what} does not fit into memory; lower {lower}") from error
