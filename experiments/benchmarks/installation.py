"""What an installation costs: the wheel's size, and seconds until Python or the command is there.

    python -m experiments.benchmarks.installation --wheel WHEEL [--out installation.csv]

`make wheel` makes the wheel, in `dist/`. Each start is a new process, timed from outside. One start
of each comes first, uncounted, after which files are in memory and compiled; then they take turns.
Run it beside nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.benchmarks import timing

# What Python is given. The first two are what nothing can be faster than.
STARTS: Mapping[str, Sequence[str]] = {
    "python": ("-c", "pass"),
    "import jax, optax": ("-c", "import jax, optax"),
    "import optim": ("-c", "import optim"),
    "rl-optim --help": ("-m", "rl_optim", "--help"),
    "rl-optim list optimizers": ("-m", "rl_optim", "list", "optimizers"),
}


def main() -> None:
    """Runs the benchmark.

    Raises:
        subprocess.CalledProcessError: if a start fails.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True, help="the built wheel")
    parser.add_argument("--out", type=Path, default=Path("installation.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1.")
    circumstances = timing.circumstances()
    rows = [row | circumstances for row in [*_sizes(arguments.wheel), *_times(arguments.repeats)]]
    timing.write(arguments.out, rows)


def _sizes(wheel: Path) -> list[dict[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        unpacked = sum(file.file_size for file in archive.infolist())
    sizes = {"wheel": wheel.stat().st_size, "wheel, unpacked": unpacked}
    return [_row(name, "MB", [size / 1e6], 3) for name, size in sizes.items()]


def _times(repeats: int) -> list[dict[str, str]]:
    def start(arguments: Sequence[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    functions = {name: lambda given=given: start(given) for name, given in STARTS.items()}
    seconds = timing.interleaved(functions, repeats)
    return [_row(name, "s", found, 2) for name, found in seconds.items()]


def _row(name: str, unit: str, values: Sequence[float], digits: int) -> dict[str, str]:
    """Median and ends, as text."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"what": name, "unit": unit} | {key: f"{x:.{digits}f}" for key, x in found.items()}


if __name__ == "__main__":
    main()
