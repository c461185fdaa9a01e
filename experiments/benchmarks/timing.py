"""Timing that can be compared from one change to the next."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times functions in turn, so that a drift of the machine's speed meets all of them alike.

    Args:
        functions: each returns arrays, which are waited for. One call comes first, uncounted.
        repeats: rounds.

    Returns:
        Seconds of each call, in order.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over rounds of a function's time relative to the baseline's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds, baseline, strict=True))


def circumstances() -> dict[str, str]:
    """What the figures depend on: machine, its load before the benchmark, and versions."""
    device = jax.devices()[0]
    return {
        "device": f"{device.device_kind} x {len(jax.devices())}",
        "cores": str(os.cpu_count()),
        "load_1min": f"{os.getloadavg()[0]:.2f}",
        "platform": platform.machine(),
        "jax": jax.__version__,
    }


def write(path: Path, rows: Sequence[Mapping[str, Any]], show: bool = True) -> None:
    """Writes rows as CSV, making the folder, and prints them unless told not to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows if show else ():
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    print(f"Written: {path}")
