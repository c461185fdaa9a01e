"""Muon, SOAP, Kron and Adam side by side in PPO, by steps and by wall time.

    python -m experiments.benchmarks.matrices --out runs/matrices [--envs ...] [--optimizers ...]

Every optimizer gets the same sweep: four learning rates, two seeds each, all in one compiled
program, by the mean return over the whole run; where the best is the smallest or the largest, four
more in that direction. All other numbers are the defaults. Other seeds are then trained at the best
rate, in turn, on a machine that should have nothing else to do. Wall time is that of all seeds
together, without compilation.

`sweep.csv` keeps all scores; `table.md`, `table.csv` and `curves.png` are made from the runs, also
by `--table` alone. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.sweeping import FURTHER, RATES, SEEDS, areas, train_at_best
from experiments.command_line.main import prepare_xla
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, parse_environment
from experiments.reports import figures, statistics
from experiments.reports.summary import estimate
from experiments.reports.tables import csv_bytes, image_files, interval, write_files
from experiments.runs import parsing
from experiments.runs.reading import Run, load_runs
from experiments.settings import change_settings

OPTIMIZERS = ("adam", "muon", "soap", "kron")
STEPS = {
    "Breakout-MinAtar": 500_000,
    "SpaceInvaders-MinAtar": 500_000,
    "inverted_pendulum:backend=spring": 150_000,
}
SETTINGS = {"inverted_pendulum:backend=spring": ("num_envs=64", "num_steps=32", "minibatches=8")}


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer on a task: means over seeds, with 95 % bootstrap intervals.

    Attributes:
        environment: the task.
        optimizer: its text.
        area: mean return over the run.
        beyond_adam: area minus Adam's, paired by seed.
        final: mean return over the last tenth of the run.
        at_adams_time: return once the wall time of Adam's whole run has passed.
        seconds: wall time of all seeds.
    """

    environment: str
    optimizer: str
    area: float
    area_low: float
    area_high: float
    beyond_adam: float
    beyond_adam_low: float
    beyond_adam_high: float
    final: float
    final_low: float
    final_high: float
    at_adams_time: float
    at_adams_time_low: float
    at_adams_time_high: float
    seconds: float


def run_at(environment: str, optimizer: str, rate: float) -> RunConfig:
    """An optimizer's run at a learning rate."""
    task = TASKS[parse_environment(environment)[0]]
    settings = change_settings(task.settings, SETTINGS.get(environment, ()))
    text = f"{optimizer}:learning_rate={rate}"
    return RunConfig(environment, text, STEPS[environment], SEEDS, settings, label=optimizer)


def clock(run: Run) -> np.ndarray:
    """Wall seconds at each point, without the compilation before the first."""
    lines = parsing.read_lines(run.path / "timing.csv", ("point", "seconds"))
    seconds = np.array([line.number("seconds") for line in lines])
    # All stretches but the last are equally long, and the first one's time is not known.
    return seconds - seconds[0] + (seconds[-1] - seconds[0]) / max(len(seconds) - 1, 1)


def rows(runs: Sequence[Run]) -> list[Row]:
    """Of all runs of a task, the largest area first."""
    base = next((run for run in runs if run.label == "adam"), None)
    return sorted((_row(run, base) for run in runs), key=lambda row: -row.area)


def _row(run: Run, base: Run | None) -> Row:
    curves, time = run.curves(), clock(run)
    area = curves.mean(axis=1)
    final = curves[:, -max(1, round(0.1 * curves.shape[1])) :].mean(axis=1)
    beyond, at_time = np.full_like(area, np.nan), np.full_like(area, np.nan)
    if base is not None:
        beyond = area - base.curves().mean(axis=1)
        reached = int(np.searchsorted(time, clock(base)[-1], side="right"))
        if reached:
            at_time = curves[:, max(0, reached - 3) : reached].mean(axis=1)
    statistic = lambda values: estimate((values[:, None],), statistics.mean)  # noqa: E731
    return Row(
        run.task[0],
        run.config["optimizer"],
        *statistic(area),
        *statistic(beyond),
        *statistic(final),
        *statistic(at_time),
        float(time[-1]),
    )


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| task | optimizer | area [95 %] | beyond Adam's [95 %] | at the end [95 %] "
        "| after Adam's time [95 %] | wall seconds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        places = 0 if row.area > 50 else 2
        cells = [
            "" if math.isnan(value) else f"{value:.{places}f} {interval(low, high, places)}"
            for value, low, high in (
                (row.area, row.area_low, row.area_high),
                (row.beyond_adam, row.beyond_adam_low, row.beyond_adam_high),
                (row.final, row.final_low, row.final_high),
                (row.at_adams_time, row.at_adams_time_low, row.at_adams_time_high),
            )
        ]
        task = row.environment.partition(":")[0]
        lines.append(f"| {task} | `{row.optimizer}` | {' | '.join(cells)} | {row.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def report(out: Path) -> None:
    """Writes the tables and the figure of the runs that are there."""
    every = load_runs([out])
    names = {task: parse_environment(task)[0] for task in STEPS}  # the backend is told apart
    runs = {task: [run for run in every if run.task[0] == name] for task, name in names.items()}
    found = [row for group in runs.values() for row in rows(group)]
    if not found:
        return
    panels = []
    for x_label in ("Environment steps", "Wall seconds of all seeds"):
        for task, group in runs.items():
            curves = []
            for run in sorted(group, key=lambda run: OPTIMIZERS.index(run.label)):
                x = run.steps if "steps" in x_label else clock(run)
                curves.append(figures.Curve(run.label, x, run.curves()))
            if curves:
                panels.append(figures.Panel(task.partition(":")[0], curves, x_label=x_label))
    images = image_files("curves", figures.learning_curves(panels))
    write_files(out, {"table.csv": csv_bytes(found), "table.md": table(found).encode(), **images})
    print(table(found))


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/matrices"), help="directory")
    parser.add_argument("--envs", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS, choices=OPTIMIZERS)
    parser.add_argument("--table", action="store_true", help="only report what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        prepare_xla()
        for environment in arguments.envs:
            for name in arguments.optimizers:
                made = functools.partial(run_at, environment, name)
                train_at_best(arguments.out, name, made, areas, RATES, FURTHER)
    report(arguments.out)


if __name__ == "__main__":
    main()
