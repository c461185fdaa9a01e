"""Compares the optimizers that a learning rate is enough for, each at the best of a small sweep.

    python -m experiments.benchmarks.suite --out runs/suite [--optimizers ...] [--envs ...]

Every optimizer gets the same sweep: `len(FACTORS)` learning rates, its centre times each factor,
two seeds each, all in one compiled program. The rate with the best mean final return (a seed that
diverged or ended no episode counts as the worst) is kept; where it is the smallest or the largest,
the sweep goes on once in that direction. Then other seeds are trained at that rate by
`experiments.online.training.train`, so that `rl-optim report runs/suite` makes the tables.
`sweep.csv` keeps all scores. What is there already is not done again, so that a run that was killed
goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import optim
from experiments.benchmarks.sweeping import lanes, train_at_best
from experiments.command_line.main import prepare_xla
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, parse_environment
from experiments.reports.summary import summarise
from experiments.reports.tables import interval
from experiments.runs.reading import load_runs
from experiments.settings import change_settings

FACTORS = (0.3, 1.0, 3.0)
FURTHER = (0.03, 30.0)  # times the first rates: those below, and those above
SWEEP_SEEDS = (1000, 1001)
SEEDS = tuple(range(len(FACTORS) * len(SWEEP_SEEDS)))  # as many lanes: the same compiled program
FINAL = 0.2  # share of the iterations that a sweep's score is taken over
STEPS = {"Breakout-MinAtar": 250_000, "inverted_pendulum:backend=spring": 150_000}
SETTINGS = {"inverted_pendulum:backend=spring": ("num_envs=64", "num_steps=32", "minibatches=8")}
# Centre of the sweep in units of the task's learning rate for Adam, where that is not 1: those
# whose steps are not of Adam's size.
CENTRES = {
    "aegd": 30.0,
    "sania": 100.0,
    "sgdp": 100.0,
    "subspace_momentum": 100.0,
    "adahessian": 10.0,
    "trac": 10.0,
    "tvlars": 1000.0,
    "upgd": 100.0,
}


def names() -> list[str]:
    """Adam first, then our own optimizers."""
    return ["adam", *(name for name in optim.optimizer_names() if optim.details(name))]


def sweep(run: RunConfig, rates: list[float]) -> np.ndarray:
    """Final returns under several learning rates, shape (rates, sweep seeds)."""
    program, numbers, state = lanes(run, rates, SWEEP_SEEDS)
    final = max(1, round(FINAL * run.iterations))
    state, _ = program.advance(numbers, state, jnp.int32(run.iterations - final))
    _, (sums, _, finite) = program.advance(numbers, state, jnp.int32(final))
    episodes = np.asarray(sums["episodes"])
    returns = np.asarray(sums["episode_return_sum"]) / np.maximum(episodes, 1)
    known = np.asarray(finite) & (episodes > 0) & np.isfinite(returns)
    return np.where(known, returns, -np.inf).reshape(len(rates), len(SWEEP_SEEDS))


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/suite"), help="directory of runs")
    parser.add_argument("--envs", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--optimizers", nargs="+", default=names(), help="names (default: ours)")
    parser.add_argument(
        "--table", action="store_true", help="only print what is there, as Markdown"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.out))
        return
    prepare_xla()
    for environment in arguments.envs:
        for name in arguments.optimizers:
            compare(arguments.out, environment, name)


def compare(out: Path, environment: str, name: str) -> None:
    """Chooses one optimizer's learning rate on one environment, and trains it."""
    task = TASKS[parse_environment(environment)[0]]
    settings = change_settings(task.settings, SETTINGS.get(environment, ()))
    centre = task.learning_rate * CENTRES.get(name, 1.0)

    def run_at(rate: float) -> RunConfig:
        text = f"{name}:learning_rate={rate}"
        return RunConfig(environment, text, STEPS[environment], SEEDS, settings)

    first = [centre * factor for factor in FACTORS]
    train_at_best(out, name, run_at, sweep, first, FURTHER)


def table(out: Path) -> str:
    """Final returns of all runs in Markdown, an optimizer a line, by their mean rank."""
    rows = summarise(load_runs([out]))
    tasks = sorted({row.environment for row in rows})
    cells: dict[str, dict[str, str]] = {}
    ranks: dict[str, list[int]] = {}
    for task in tasks:
        ordered = sorted(
            (row for row in rows if row.environment == task), key=lambda row: -row.final_return_iqm
        )
        for rank, row in enumerate(ordered):
            name = row.optimizer.partition(":")[0]
            ranks.setdefault(name, []).append(rank)
            decimals = 1 if row.final_return_iqm < 100 else 0
            low_high = interval(row.final_return_iqm_low, row.final_return_iqm_high, decimals)
            diverged = f", {row.diverged_seeds} diverged" if row.diverged_seeds else ""
            cells.setdefault(name, {})[task] = (
                f"{row.learning_rate:g} | {row.final_return_iqm:.{decimals}f} {low_high}{diverged}"
            )
    lines = [
        "| optimizer | " + " | ".join(f"learning rate | {task}" for task in tasks) + " |",
        "|---|" + "---:|---:|" * len(tasks),
    ]
    for name in sorted(cells, key=lambda name: (-len(ranks[name]), np.mean(ranks[name]))):
        line = " | ".join(cells[name].get(task, " | ") for task in tasks)
        lines.append(f"| `{name}` | {line} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
