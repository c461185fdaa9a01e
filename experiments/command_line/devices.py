"""Devices, memory and compiled programs of commands that compute."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from experiments.command_line.arguments import UsageError

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


def require_device() -> None:
    """Makes sure that jax has a device.

    Raises:
        UsageError: if it has none.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a GPU that is asked for
        platforms = os.environ.get("JAX_PLATFORMS")
        if not platforms:
            raise UsageError(f"jax found no device: {error}") from error
        or_install = " or install jax[cuda]" if "cuda" in platforms or "gpu" in platforms else ""
        raise UsageError(
            f"no device of the platform {platforms} was found; unset JAX_PLATFORMS{or_install}."
        ) from error


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
