"""Environment steps per second of PPO with Adam, all parts included, after compilation.

    python -m experiments.benchmarks.throughput [--out throughput.csv] [--repeats 5]

Breakout and Ant with their published settings, one seed and four, each on as many devices as the
command line would use. Set nothing in XLA_FLAGS to measure what `rl-optim` does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from experiments.command_line.main import prepare_xla
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, parse_environment
from experiments.online.training import compiled

BENCHMARKED = ("Breakout-MinAtar", "ant:backend=spring")
SEEDS = (1, 4)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("throughput.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    arguments = parser.parse_args()
    prepare_xla()  # before the first use of a device
    circumstances = timing.circumstances()
    rows = []
    for task in BENCHMARKED:
        for seeds in SEEDS:
            settings = TASKS[parse_environment(task)[0]].settings
            config = RunConfig(task, "adam", 10**7, tuple(range(seeds)), settings)
            program, numbers, keys = compiled(config)
            state = program.init(numbers, keys)
            iterations = jnp.int32(4)
            state, _ = jax.block_until_ready(program.advance(numbers, state, iterations))
            rates = []
            for _ in range(arguments.repeats):
                start = time.perf_counter()
                state, _ = jax.block_until_ready(program.advance(numbers, state, iterations))
                seconds = time.perf_counter() - start
                rates.append(4 * config.steps_per_iteration * seeds / seconds)
            rows.append(
                {
                    "task": task,
                    "seeds": seeds,
                    "steps_per_second": f"{statistics.median(rates):.0f}",
                    "min": f"{min(rates):.0f}",
                    "max": f"{max(rates):.0f}",
                }
                | circumstances
            )
    timing.write(arguments.out, rows)


if __name__ == "__main__":
    main()
