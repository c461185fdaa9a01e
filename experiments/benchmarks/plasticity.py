"""Optimizers that are to keep networks able to learn, on tasks that change in phases.

    python -m experiments.benchmarks.plasticity --out runs/plasticity [--tasks ...] [--arms ...]

Tasks, networks and settings are those of the presets `collapse` and `collapse_minatar`. Every arm
gets the same sweep: four learning rates, two seeds each, all in one compiled program, by the mean
return over the whole run (the area under the curve); where the best is the smallest or the largest,
four more in that direction. Other seeds are then trained at the best rate. All other numbers are
the defaults, but for three: CBP's maturity, which would be most of a run, and FIRE and Shrink &
Perturb at changes, which are told the length of a phase; the latter goes half of the way to initial
weights there.

`sweep.csv` keeps all scores; `table.md`, `table.csv` and `areas.png` are made from the runs, also
by `--table` alone. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import optim
from experiments.benchmarks.sweeping import FURTHER, RATES, SEEDS, areas, train_at_best
from experiments.command_line.main import prepare_xla
from experiments.online.presets import PRESETS, Arm
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, parse_environment
from experiments.reports import statistics
from experiments.reports.drawing import STYLE
from experiments.reports.phases import measure
from experiments.reports.summary import estimate
from experiments.reports.tables import csv_bytes, image_files, interval, write_files
from experiments.runs.reading import Run, load_runs, read_metric
from experiments.settings import change_settings

DIAGNOSES = 20  # in each run


@dataclasses.dataclass(frozen=True)
class Changing:
    """A task that changes: a preset's first environment, with its settings.

    Attributes:
        preset: name of the preset.
        phase_updates: updates of the optimizer in a phase.
    """

    preset: str
    phase_updates: int

    @property
    def environment(self) -> str:
        """Its environment."""
        return PRESETS[self.preset].envs[0]

    def run(self, arm: Arm, rate: float) -> RunConfig:
        """One arm's run at a learning rate."""
        preset = PRESETS[self.preset]
        task = TASKS[parse_environment(self.environment)[0]]
        settings = change_settings(task.settings, (*preset.settings, *arm.settings))
        mark = "," if ":" in arm.optimizer else ":"
        run = RunConfig(
            self.environment,
            f"{arm.optimizer}{mark}learning_rate={rate}",
            preset.steps,
            SEEDS,
            settings,
            label=arm.label,
        )
        return dataclasses.replace(run, diagnostics_every=run.iterations // DIAGNOSES)


CHANGING = {
    "cartpole": Changing("collapse", phase_updates=640),
    "breakout": Changing("collapse_minatar", phase_updates=800),
}


def arms(phase_updates: int) -> dict[str, Arm]:
    """What is compared, by name."""
    at_changes = f"period={phase_updates}"
    found = [
        Arm("adam", "adam"),
        Arm("from scratch", "adam", ("restart=true",)),
        Arm("equal betas", "adam:b1=0.99,b2=0.99"),
        Arm("l2", "adam:l2=1e-3"),
        Arm("adamw", "adamw:weight_decay=1e-2"),
        Arm("adam_rel", "adam_rel"),
        Arm("adam_reset", "adam_reset"),
        Arm("trac", "trac"),
        Arm("adamo", "adamo:kappa=1,tau=0.05"),
        Arm("weight_clipping", "weight_clipping"),
        Arm("l2_init", "l2_init"),
        Arm("shrink_perturb", "shrink_perturb"),
        Arm("shrink_perturb at changes", f"shrink_perturb:shrink=0.5,perturb=0.5,{at_changes}"),
        Arm("parseval", "parseval"),
        Arm("spectral_regularization", "spectral_regularization"),
        Arm("fire at changes", f"fire:{at_changes}"),
        Arm("normalize_project", "normalize_project"),
        Arm("redo", "redo"),
        Arm("cbp", "cbp:maturity=1000"),
        Arm("regrama", "regrama"),
        Arm("upgd", "upgd"),
        Arm("ada_upgd", "ada_upgd"),
    ]
    return {arm.name: arm for arm in found}


@dataclasses.dataclass(frozen=True)
class Row:
    """An arm on a task: means over seeds, with 95 % bootstrap intervals of area and difference.

    Attributes:
        environment: the task.
        arm: the arm.
        optimizer: its text.
        area: mean return over the run.
        beyond_adam: area minus Adam's, paired by seed.
        first_end: return at the end of the first phase.
        last_end: at the end of the last.
        dormant: share of the actor's units, at the last diagnosis.
        rank: effective rank of the actor's features, then.
        weight_norm: of the actor, then.
        diverged: seeds that are not finite at the end.
    """

    environment: str
    arm: str
    optimizer: str
    area: float
    area_low: float
    area_high: float
    beyond_adam: float
    beyond_adam_low: float
    beyond_adam_high: float
    first_end: float
    last_end: float
    dormant: float
    rank: float
    weight_norm: float
    diverged: int


def rows(runs: Sequence[Run]) -> list[Row]:
    """Of all runs of a task, the largest area first."""
    base = next((run for run in runs if run.label == "adam"), None)
    return sorted((_row(run, base) for run in runs), key=lambda row: -row.area)


def _row(run: Run, base: Run | None) -> Row:
    phases = measure(run)
    area = phases.means.mean(axis=1)
    beyond = np.full_like(area, np.nan)
    if base is not None:
        beyond = area - measure(base).means.mean(axis=1)

    def last(column: str) -> float:
        values = read_metric(run, column)
        known = values[:, np.isfinite(values).any(axis=0)]
        return float(np.nanmean(known[:, -1])) if known.size else np.nan

    return Row(
        run.task[0],
        run.label,
        run.config["optimizer"],
        *estimate((area[:, None],), statistics.mean),
        *estimate((beyond[:, None],), statistics.mean),
        float(phases.ends[:, 0].mean()),
        float(phases.ends[:, -1].mean()),
        last("actor_dormant"),
        last("actor_rank"),
        last("actor_weight_norm"),
        int(run.diverged.sum()),
    )


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| task | arm | learning rate | area [95 %] | beyond Adam's [95 %] | first phase's end "
        "| last phase's end | dormant | rank | weight norm |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        places = 0 if row.area > 50 else 2
        area, beyond, first, last = (
            f"{value:.{places}f}"
            for value in (row.area, row.beyond_adam, row.first_end, row.last_end)
        )
        rate = optim.OptimizerSpec.parse(row.optimizer).learning_rate
        diverged = f", {row.diverged} of {len(SEEDS)} diverged" if row.diverged else ""
        lines.append(
            f"| {row.environment.partition(':')[0]} | {row.arm}{diverged} | {rate:g} "
            f"| {area} {interval(row.area_low, row.area_high, places)} "
            f"| {beyond} {interval(row.beyond_adam_low, row.beyond_adam_high, places)} "
            f"| {first} | {last} | {row.dormant:.2f} | {row.rank:.1f} | {row.weight_norm:.1f} |"
        )
    return "\n".join(lines) + "\n"


def figure(found: Sequence[Row]) -> Figure:
    """Area of each arm with its interval, and both ends: a panel for each task."""
    tasks = list(dict.fromkeys(row.environment for row in found))
    tallest = max(sum(row.environment == task for row in found) for task in tasks)
    drawn = Figure(figsize=(4.7 * len(tasks), 1.2 + 0.22 * tallest), layout="constrained")
    for ax, task in zip(drawn.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        shown = [row for row in found if row.environment == task][::-1]
        places = np.arange(len(shown))
        area = np.array([[row.area, row.area_low, row.area_high] for row in shown])
        ax.hlines(places, area[:, 1], area[:, 2], colors="#0072b2", linewidth=2)
        ax.plot(area[:, 0], places, "o", color="#0072b2", label="whole run, 95 % interval")
        ends = np.array([[row.first_end, row.last_end] for row in shown])
        ax.plot(ends[:, 0], places, "|", color="#555555", label="end of the first phase")
        ax.plot(ends[:, 1], places, ">", color="#d55e00", markersize=4, label="of the last phase")
        adam = next((row.area for row in shown if row.arm == "adam"), None)
        if adam is not None:
            ax.axvline(adam, color="#999999", linewidth=0.8, linestyle="--", zorder=0)
        ax.set_yticks(places, [row.arm for row in shown])
        ax.set_ylim(-0.7, len(shown) - 0.3)
        ax.set_title(task.partition(":")[0])
        ax.set_xlabel("Mean return")
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return drawn


def report(out: Path) -> None:
    """Writes the tables and the figure of the runs that are there."""
    runs = load_runs([out])
    found = [
        row
        for task in CHANGING.values()
        for row in rows([run for run in runs if run.task[0] == task.environment])
    ]
    if not found:
        return
    with matplotlib.rc_context(STYLE):
        images = image_files("areas", figure(found))
    write_files(out, {"table.csv": csv_bytes(found), "table.md": table(found).encode(), **images})
    print(table(found))


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/plasticity"), help="directory")
    parser.add_argument("--tasks", nargs="+", default=list(CHANGING), choices=list(CHANGING))
    parser.add_argument("--arms", nargs="+", default=list(arms(1)), choices=list(arms(1)))
    parser.add_argument("--table", action="store_true", help="only report what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        prepare_xla()
        for name in arguments.tasks:
            task = CHANGING[name]
            for arm in arguments.arms:
                run_at = functools.partial(task.run, arms(task.phase_updates)[arm])
                train_at_best(arguments.out, arm, run_at, areas, RATES, FURTHER)
    report(arguments.out)


if __name__ == "__main__":
    main()
