"""What diagnoses of plasticity add to the time of training.

    python -m experiments.benchmarks.diagnostics [--out diagnostics.csv] [--every 50] [--repeats 5]

Breakout-MinAtar with its published settings, Adam, four seeds, on as many devices as the command
line would use. A stretch is `--every` iterations of the compiled program, from the state at which
the one before it ended; stretches with a diagnosis at their end alternate with stretches without.
`ratio` is the median over rounds of the time with over the time without, in the same round. The
diagnosis alone is timed in each round too: `diagnosis_share` is the median of its time over that of
the round's stretch without one, which the noise of the stretches themselves does not drown.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from experiments.command_line.main import prepare_xla
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS
from experiments.online.training import compiled

TASK = "Breakout-MinAtar"
SEEDS = 4


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("diagnostics.csv"), help="CSV to write")
    parser.add_argument("--every", type=int, default=50, help="iterations (default: 50)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    arguments = parser.parse_args()
    if arguments.every < 1 or arguments.repeats < 1:
        parser.error("--every and --repeats must be at least 1.")
    prepare_xla()  # before the first use of a device
    circumstances = timing.circumstances()
    run = RunConfig(TASK, "adam", 10**7, tuple(range(SEEDS)), TASKS[TASK].settings)
    program, numbers, keys = compiled(run)
    state = program.init(numbers, keys)
    initial_params = jax.tree.map(jnp.copy, state.params)  # the state's own are used up

    def stretch() -> Any:
        nonlocal state  # the one that is given goes into the one that comes out
        state, found = program.advance(numbers, state, jnp.int32(arguments.every))
        return jax.block_until_ready(found)

    def diagnosis() -> Any:
        return jax.device_get(program.diagnose(numbers, state, initial_params))

    seconds = timing.interleaved(
        {
            "without": stretch,
            "with": lambda: (stretch(), diagnosis()),
            "diagnosis": diagnosis,
        },
        arguments.repeats,
    )
    median = {name: statistics.median(times) for name, times in seconds.items()}
    row = {
        "task": TASK,
        "seeds": SEEDS,
        "iterations": arguments.every,
        "rounds": arguments.repeats,
        "seconds_without": f"{median['without']:.3f}",
        "seconds_with": f"{median['with']:.3f}",
        "ratio": f"{timing.median_ratio(seconds['with'], seconds['without']):.4f}",
        "seconds_of_diagnosis": f"{median['diagnosis']:.3f}",
        "diagnosis_share": f"{timing.median_ratio(seconds['diagnosis'], seconds['without']):.4f}",
    }
    timing.write(arguments.out, [row | circumstances])


if __name__ == "__main__":
    main()
