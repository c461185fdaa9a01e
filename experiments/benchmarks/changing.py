"""What a changing task costs, beside the same task standing still.

    python -m experiments.benchmarks.changing [--out changing.csv] [--repeats 7]

PPO with Adam and each task's settings, two seeds, on as many devices as the command line would
use. A stretch of iterations of the changing task alternates with one of the stationary task;
`ratio` is the median over rounds of the changing one's time over the stationary one's. The sequence
of games stands beside its first game with all six actions and empty channels, alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from experiments.command_line.main import prepare_xla
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, parse_environment
from experiments.online.training import compiled

SEEDS = 2
PHASE = 10**6
PAIRS = {  # iterations, changing, stationary
    f"CartPole-v1:flip=true,offset=2,phase={PHASE}": (60, "CartPole-v1"),
    f"Breakout-MinAtar:permute=both,phase={PHASE}": (4, "Breakout-MinAtar"),
    f"Sequence-MinAtar:games=Seaquest+Breakout,phase={PHASE}": (
        4,
        f"Sequence-MinAtar:games=Seaquest,phase={PHASE}",
    ),
    f"small_dense_short:move=true,phase={PHASE}": (60, "small_dense_short"),
    f"ant:backend=spring,friction=0.02..2,wear=0.3..1,phase={PHASE}": (1, "ant:backend=spring"),
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("changing.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default: 7)")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1.")
    prepare_xla()  # before the first use of a device
    circumstances = timing.circumstances()
    rows = []
    for changing, (iterations, stationary) in PAIRS.items():
        seconds = timing.interleaved(
            {name: _stretch(name, iterations) for name in (changing, stationary)},
            arguments.repeats,
        )
        row = {
            "task": changing,
            "beside": stationary,
            "seeds": SEEDS,
            "iterations": iterations,
            "rounds": arguments.repeats,
            "seconds": f"{statistics.median(seconds[changing]):.3f}",
            "seconds_beside": f"{statistics.median(seconds[stationary]):.3f}",
            "ratio": f"{timing.median_ratio(seconds[changing], seconds[stationary]):.3f}",
        } | circumstances
        rows.append(row)
        print(f"{changing}: {row['ratio']}", flush=True)
    timing.write(arguments.out, rows)


def _stretch(environment: str, iterations: int) -> Callable[[], Any]:
    settings = TASKS[parse_environment(environment)[0]].settings
    run = RunConfig(environment, "adam", 10**7, tuple(range(SEEDS)), settings)
    program, numbers, keys = compiled(run)
    state = program.init(numbers, keys)

    def stretch() -> Any:
        nonlocal state  # the one that is given goes into the one that comes out
        state, found = program.advance(numbers, state, jnp.int32(iterations))
        return jax.block_until_ready(found)

    return stretch


if __name__ == "__main__":
    main()
