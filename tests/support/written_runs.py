"""Run directories written by hand, for what reads them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.runs import reading

HEADER = "point,step,seed,episode_return,episodes,episode_length,diverged,loss\n"
Cell = tuple[float | str, int, int]  # episode return, episodes, diverged


def write_run(
    directory: Path,
    cells: Sequence[Sequence[Cell]],
    *,
    evaluation: Sequence[float | str] | None = None,
    first_evaluation: Sequence[float | str] | None = None,
    seconds: Sequence[float] | None = None,
    stretch: int = 100,
    **config: Any,
) -> Path:
    """Writes a run; `cells[seed][point]` is what metrics.csv says there.

    With a `first_evaluation`, evaluation.csv says which dynamics were played.
    """
    points = len(cells[0])
    settings = {
        "format": 1,
        "environment": "Breakout-MinAtar",
        "backend": None,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "steps": points * stretch,
        "seeds": list(range(len(cells))),
        "iterations": points,
        "algorithm": "ppo",
        "settings": {},
        "normaliser": None,
        "versions": {"jax": "1.2.3"},
        "git_revision": "abc1234",
        "machine": {"device": "cpu"},
    } | config
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(settings))
    lines = [HEADER]
    for point in range(points):
        for seed, row in zip(settings["seeds"], cells, strict=True):
            value, episodes, diverged = row[point]
            step = (point + 1) * stretch
            lines.append(f"{point},{step},{seed},{value},{episodes},9.5,{diverged},0.1\n")
    (directory / "metrics.csv").write_text("".join(lines))
    if evaluation is not None:
        rows = (f"{s},{v},32,9.5\n" for s, v in zip(settings["seeds"], evaluation, strict=True))
        head = "seed,episode_return,episodes,episode_length\n"
        (directory / "evaluation.csv").write_text(head + "".join(rows))
    if evaluation is not None and first_evaluation is not None:
        both = (("last", evaluation), ("first", first_evaluation))
        rows = (
            f"{dynamics},{seed},{value},32,9.5\n"
            for dynamics, values in both
            for seed, value in zip(settings["seeds"], values, strict=True)
        )
        (directory / "evaluation.csv").write_text(f"dynamics,{head}" + "".join(rows))
    if seconds is not None:
        rows = (f"{point},{value}\n" for point, value in enumerate(seconds))
        (directory / "timing.csv").write_text("point,seconds\n" + "".join(rows))
    return directory


def curves(*seeds: Sequence[float]) -> list[list[Cell]]:
    """Seeds that score these values, one a point; NaN where they complete no episode."""
    return [[("", 0, 0) if math.isnan(v) else (float(v), 10, 0) for v in seed] for seed in seeds]


def flat(*values: float, points: int = 4) -> list[list[Cell]]:
    """Seeds that score the same value all along."""
    return [[(value, 10, 0)] * points for value in values]


def load(directory: Path) -> reading.Run:
    (run,) = reading.load_runs([directory])
    return run


def write_offline_run(
    directory: Path, cells: Sequence[Sequence[Cell]], mean_abs_q: float = 1.0, **changes: Any
) -> Path:
    """Writes a run that learned from a data set; its critic has one mean |Q| all along."""
    config = {
        "environment": "toy, td3_bc",
        "dataset": "toy",
        "algorithm": "td3_bc",
        "reference_returns": None,
        "collapse_line": 100.0,
    }
    write_run(directory, cells, **config | changes)
    metrics = directory / "metrics.csv"
    head, *lines = metrics.read_text().splitlines()
    lines = [f"{head},mean_abs_q,critic_loss", *(f"{line},{mean_abs_q},0.5" for line in lines)]
    metrics.write_text("".join(f"{line}\n" for line in lines))
    return directory


def write_meta_run(
    directory: Path,
    objective: Sequence[float | str],
    evaluations: Sequence[Sequence[float | str]],
    *,
    method: str = "es",
    tasks: Sequence[str] = ("Catch-bsuite",),
    **config: Any,
) -> Path:
    """Writes a meta-training; `evaluations[task][generation]` may be empty texts.

    With `es` the worst member's fitness is 1 below the mean, and the best one's 2 above.
    """
    settings = {
        "format": 2,
        "method": method,
        "optimizer": "optim4rl",
        "tasks": {str(i): {"environment": task} for i, task in enumerate(tasks)},
        "generations": len(objective),
        "curriculum": None,
        "seed": 0,
    } | config
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(settings))
    names = [
        "generation",
        "env_steps",
        "meta_loss",
        *(f"evaluation_{i}" for i in range(len(tasks))),
    ]
    if method == "es":
        names[2:3] = ["fitness_mean", "fitness_best", "fitness_worst"]
    lines = [",".join(names)]
    for i, value in enumerate(objective):
        ends = [float(value) + 2.0, float(value) - 1.0] if method == "es" else []
        row = [i, 100 * (i + 1), value, *ends, *(task[i] for task in evaluations)]
        lines.append(",".join(map(str, row)))
    (directory / "meta_metrics.csv").write_text("\n".join([*lines, ""]))
    times = "".join(f"{i},{2.0 * (i + 1)}\n" for i in range(len(objective)))
    (directory / "timing.csv").write_text(f"point,seconds\n{times}")
    return directory
