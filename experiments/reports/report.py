"""Reports runs of every kind: a table on the console, tables and figures in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.reports import (
    ages,
    files,
    meta_figures,
    meta_gradients,
    meta_training,
    offline,
    online,
    tables,
)
from experiments.reports.aggregate import Normalisers
from experiments.runs.reading import directories_with, is_offline, load_runs


def report(
    directories: Sequence[Path],
    out: Path | None = None,
    *,
    normalisers: Normalisers | None = None,
    overwrite: bool = False,
) -> None:
    """Prints the table, writes tables and figures, and says where.

    Of meta-training, there are `meta_training.csv` and `.md` with a row for each, and its curves,
    `meta_training.png`, `.svg` and `.pdf`; of pipeline training also a figure of return against
    age, `returns_by_age.png`, and one of what the meta-gradient was worth, `meta_gradient.png`.

    Args:
        directories: where run directories are looked for, at any depth, through links as well.
        out: where to write; by default the first of the directories.
        normalisers: what the aggregate over several tasks divides final returns by, by task as
            tables call it, e.g. `{"CartPole-v1": 500.0}`; or "min-max" for each task's own range.
            By default, what is published.
        overwrite: replace whatever is in the way, see `files.check_free_for_report`.

    Raises:
        ValueError: if there are no run directories, one cannot be read, a task is named that no run
            has, or a file is in the way.
    """
    if not directories:
        raise ValueError("at least one directory must be given.")
    out_dir = out or directories[0]
    console = Console()
    meta_trained = _report_meta_training(directories, out_dir, console, overwrite)
    if meta_trained and not directories_with(directories, "config.json", "metrics.csv"):
        return  # there is nothing but meta-training
    runs = load_runs(directories)
    kinds = {is_offline(run) for run in runs}
    if len(kinds) > 1:
        raise ValueError(
            "runs with an environment and runs from data sets cannot share a report; got "
            f"{runs[0].path} and {len(runs) - 1} more."
        )
    # Files come first: what reads the printed text may close its end at any moment.
    if kinds == {True}:
        if normalisers is not None:
            raise ValueError("--normalisers are for runs with an environment, not from data sets.")
        written = offline.write_report(runs, out_dir, overwrite)
        offline.print_report(runs, console)
    else:
        written = online.write_report(runs, out_dir, normalisers, overwrite)
        online.print_report(runs, console, normalisers)
    _say_written(console, written)


def _report_meta_training(
    directories: Sequence[Path], out_dir: Path, console: Console, overwrite: bool
) -> bool:
    """Reports what there is of meta-training; says whether there is any.

    Raises:
        ValueError: see `report`.
    """
    trainings = meta_training.load_trainings(directories)
    aged = directories_with(directories, ages.NAME)
    if trainings:
        paths = [training.path for training in trainings]
        files.check_free_for_meta_training(out_dir, paths, overwrite)
    if aged:
        files.check_free_for_ages(out_dir, aged, overwrite)
    contents = meta_training.contents(trainings, out_dir) if trainings else {}
    if aged:
        returns = meta_figures.returns_by_age(ages.age_panels(aged))
        contents |= tables.image_files("returns_by_age", returns)
        if gradients := meta_gradients.gradient_panels(aged):
            worth = meta_figures.meta_gradients(gradients)
            contents |= tables.image_files("meta_gradient", worth)
    if contents:
        written = tables.write_files(out_dir, contents)
        if trainings:
            meta_training.print_table(trainings, console)
        _say_written(console, written)
    return bool(contents)


def _say_written(console: Console, paths: Sequence[Path]) -> None:
    console.print("Written: " + ", ".join(map(str, paths)), soft_wrap=True)
