"""Reports meta-training of every method: what was optimised, and how the weights were evaluated."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.reports import files, meta_figures, tables
from experiments.reports.meta_figures import Array, TrainingPanel
from experiments.runs import parsing
from experiments.runs.reading import directories_with

METRICS = "meta_metrics.csv"
_OBJECTIVES = {  # by method: column, what it is called, whether its axis is logarithmic
    "es": ("fitness_mean", "Fitness", False),
    "pipeline": ("meta_loss", "Meta-loss", False),
    "imitation": ("meta_loss", "Meta-loss", True),
}
_RULES = (
    "Objective: with es the fitness of the population, the mean over the members that did not "
    "fail, as a band from the worst to the best; otherwise the meta-loss, which is minimised.",
    "Evaluation: final returns of agents that learn with the weights, on seeds that serve nothing "
    "else, each divided by its task's normaliser, and averaged over seeds and tasks. 'First' is "
    "the first that was made, not that of the weights at the start. 'Best' was selected among all "
    "of a run, so it is too high by luck.",
    "Nothing is smoothed. Vertical lines are where a curriculum changes the task.",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """One meta-training, as far as it was logged.

    Attributes:
        path: its directory.
        optimizer: the learned optimizer's text.
        method: es, pipeline or imitation.
        tasks: environments that it was trained on, as the user named them.
        seed: of everything.
        planned: generations.
        curriculum: generations after which the next task takes its turn.
        generations: how many were done, shape (points,).
        env_steps: environment steps until then, shape (points,).
        objective: what is optimised, shape (points,).
        band: the lowest and highest member's fitness, each of shape (points,); None if there are no
            members.
        evaluations: of the weights on each task, shape (tasks, points), NaN where there is none.
        seconds: of wall time; NaN where not logged.
    """

    path: Path
    optimizer: str
    method: str
    tasks: tuple[str, ...]
    seed: int
    planned: int
    curriculum: tuple[int, ...]
    generations: Array
    env_steps: Array
    objective: Array
    band: tuple[Array, Array] | None
    evaluations: Array
    seconds: float

    @property
    def evaluation(self) -> Array:
        """Mean of the evaluations over tasks, shape (points,)."""
        return np.asarray(self.evaluations.mean(axis=0))

    @property
    def title(self) -> str:
        """The optimizer and its task, or how many it has."""
        return f"{self.optimizer} on {self._tasks}"

    @property
    def _tasks(self) -> str:
        return self.tasks[0] if len(self.tasks) == 1 else f"{len(self.tasks)} tasks"


@dataclasses.dataclass(frozen=True)
class MetaRow:
    """One meta-training in numbers; the fields are the columns of `meta_training.csv`.

    NaN is unknown. In the file, `run_directory` is as seen from the file's folder.
    """

    optimizer: str
    method: str
    tasks: tuple[str, ...]
    seed: int
    generations: int
    planned_generations: int
    env_steps: int
    first_objective: float
    last_objective: float
    first_evaluation: float
    best_evaluation: float
    best_generations: int | None  # after how many it was made
    last_evaluation: float
    wall_seconds: float
    run_directory: str


def load_trainings(directories: Sequence[Path]) -> list[Training]:
    """Reads every meta-training at or below the directories that has logged a generation.

    Args:
        directories: see `directories_with`.

    Raises:
        ValueError: a directory is none, or a file is not as meta-training writes it; the sentence
            names it.
    """
    found = map(_read, directories_with(directories, "config.json", METRICS))
    return [training for training in found if len(training.generations)]


def _read(path: Path) -> Training:
    config_file = path / "config.json"
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        column = _OBJECTIVES[config["method"]][0]
        tasks = tuple(str(task["environment"]) for task in config["tasks"].values())
        curriculum = tuple(map(int, config.get("curriculum") or ()))
        optimizer, method, seed = str(config["optimizer"]), str(config["method"]), config["seed"]
        planned = int(config["generations"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{config_file} is not as meta-training writes it.") from None
    names = [f"evaluation_{i}" for i in range(len(tasks))]
    ends = ["fitness_worst", "fitness_best"] if method == "es" else []
    columns = ["generation", "env_steps", column, *ends, *names]
    lines = parsing.read_lines(path / METRICS, columns)

    def numbers(name: str) -> Array:
        return np.array([line.number(name, empty=math.nan) for line in lines], np.float64)

    low, high = (numbers(end) for end in ends) if ends else (None, None)
    timing = path / "timing.csv"
    times = parsing.read_lines(timing, ("seconds",)) if timing.is_file() else []
    return Training(
        path=path,
        optimizer=optimizer,
        method=method,
        tasks=tasks,
        seed=seed,
        planned=planned,
        curriculum=curriculum,
        generations=numbers("generation") + 1.0,
        env_steps=numbers("env_steps"),
        objective=numbers(column),
        band=None if low is None or high is None else (low, high),
        evaluations=np.stack([numbers(name) for name in names]),
        seconds=times[-1].number("seconds") if times else math.nan,
    )


def row_of(training: Training) -> MetaRow:
    """The numbers of a meta-training.

    Examples:
        >>> evaluations = np.array([[np.nan, 0.5, 0.25]])
        >>> training = Training(Path("run"), "open", "imitation", ("Catch",), 0, 3, (),
        ...                     np.array([1.0, 2.0, 3.0]), np.array([8.0, 16.0, 24.0]),
        ...                     np.array([3.0, 2.0, 1.0]), None, evaluations, 9.5)
        >>> row = row_of(training)
        >>> row.best_evaluation, row.best_generations, row.last_evaluation, row.last_objective
        (0.5, 2, 0.25, 1.0)
    """
    evaluation = training.evaluation
    (at,) = np.nonzero(np.isfinite(evaluation))
    first, last = (evaluation[at[0]], evaluation[at[-1]]) if len(at) else (math.nan, math.nan)
    best = at[np.argmax(evaluation[at])] if len(at) else None
    return MetaRow(
        optimizer=training.optimizer,
        method=training.method,
        tasks=training.tasks,
        seed=training.seed,
        generations=int(training.generations[-1]),
        planned_generations=training.planned,
        env_steps=int(training.env_steps[-1]),
        first_objective=float(training.objective[0]),
        last_objective=float(training.objective[-1]),
        first_evaluation=float(first),
        best_evaluation=math.nan if best is None else float(evaluation[best]),
        best_generations=None if best is None else int(training.generations[best]),
        last_evaluation=float(last),
        wall_seconds=training.seconds,
        run_directory=files.names_of([training.path]),
    )


def panels_of(trainings: Sequence[Training]) -> list[TrainingPanel]:
    """What each optimised, and its evaluations if it has any, in a panel each."""
    titles = [training.title for training in trainings]
    panels = []
    for training, title in zip(trainings, titles, strict=True):
        if titles.count(title) > 1:
            title = f"{title} ({training.path.name})"
        _, name, logarithmic = _OBJECTIVES[training.method]
        label = "mean, worst to best" if training.band else name
        changes, generations = training.curriculum, training.generations
        lines = {label: training.objective}
        panels.append(
            TrainingPanel(title, name, generations, lines, training.band, changes, logarithmic)
        )
        tasks = [
            f"{task} ({i})" if training.tasks.count(task) > 1 else task
            for i, task in enumerate(training.tasks)
        ]
        evaluated = dict(zip(tasks, training.evaluations, strict=True))
        if len(evaluated) > 1:
            evaluated["all tasks"] = training.evaluation
        if np.isfinite(training.evaluations).any():
            panels.append(TrainingPanel(title, "Evaluation", generations, evaluated, None, changes))
    return panels


def contents(trainings: Sequence[Training], out: Path) -> dict[str, bytes]:
    """Files of the report, by name.

    Args:
        trainings: as `load_trainings` gives them, at least one.
        out: the directory that they are for.
    """
    rows = files.seen_from(out, [row_of(training) for training in trainings])
    image = tables.image_files("meta_training", meta_figures.training_curves(panels_of(trainings)))
    sections = [
        "# Meta-training",
        tables.markdown_table(_lines(rows)),
        "![Objectives and evaluations](meta_training.png)",
        "## Rules\n\n" + "\n".join(f"* {rule}" for rule in _RULES),
    ]
    text = ("\n\n".join(sections) + "\n").encode()
    return {files.META_TRAINING: tables.csv_bytes(rows), "meta_training.md": text} | image


def print_table(trainings: Sequence[Training], console: Console) -> None:
    """Prints a row for each meta-training, to be read at 80 columns."""
    hidden = {"Tasks", "Seed", "Steps", "First objective", "Wall s"}
    lines = _lines([row_of(training) for training in trainings])
    tables.print_table(console, "Meta-training", lines, hidden)


def _lines(rows: Sequence[MetaRow]) -> list[tuple[dict[str, str], bool]]:
    """For each row its cells by column. None is marked as the best: tasks differ."""
    return [(_cells(row), False) for row in rows]


def _cells(row: MetaRow) -> dict[str, str]:
    places = tables.decimals_for([row.first_evaluation, row.best_evaluation, row.last_evaluation])
    return {
        "Optimizer": row.optimizer,
        "Method": row.method,
        "Tasks": ", ".join(row.tasks),
        "Seed": str(row.seed),
        "Done": f"{row.generations}/{row.planned_generations}",
        "Steps": tables.thousands(row.env_steps),
        "First objective": _short(row.first_objective),
        "Objective": _short(row.last_objective),
        "First": tables.number(row.first_evaluation, places),
        "Best": tables.number(row.best_evaluation, places),
        "At": tables.NONE if row.best_generations is None else str(row.best_generations),
        "Last": tables.number(row.last_evaluation, places),
        "Wall s": tables.number(row.wall_seconds),
    }


def _short(value: float) -> str:
    return tables.NONE if math.isnan(value) else f"{value:.4g}"
