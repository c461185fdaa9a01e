"""Reports runs of every kind: a table on the console, tables and figures in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.reports import figures, offline, online, tables
from experiments.reports.ages import age_panels
from experiments.runs.reading import is_offline, load_runs


def report(directories: Sequence[Path], out: Path | None = None) -> None:
    """Prints the table, writes tables and figures, and says where.

    Of pipeline training, there is a figure of return against age, `returns_by_age.png` and `.svg`.

    Args:
        directories: where run directories are looked for, at any depth.
        out: where to write; by default the first of the directories.

    Raises:
        ValueError: if there are no run directories, or one cannot be read.
    """
    if not directories:
        raise ValueError("at least one directory must be given.")
    out_dir = out or directories[0]
    console = Console()
    if panels := age_panels(directories):
        images = tables.image_files("returns_by_age", figures.returns_by_age(panels))
        _say_written(console, tables.write_files(out_dir, images))
        if not any(True for top in directories for _ in top.rglob("metrics.csv")):
            return  # there is nothing but meta-training
    runs = load_runs(directories)
    kinds = {is_offline(run) for run in runs}
    if len(kinds) > 1:
        raise ValueError(
            "runs with an environment and runs from data sets cannot share a report; got "
            f"{runs[0].path} and {len(runs) - 1} more."
        )
    kind = offline if kinds == {True} else online
    # Files come first: what reads the printed text may close its end at any moment.
    written = kind.write_report(runs, out_dir)
    kind.print_report(runs, console)
    _say_written(console, written)


def _say_written(console: Console, paths: Sequence[Path]) -> None:
    console.print("Written: " + ", ".join(map(str, paths)), soft_wrap=True)
