"""Prints and writes the report on run directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.report import aggregate, load_runs, print_table, summarise, write_report


def report(directories: Sequence[Path], out: Path | None = None) -> None:
    """Prints the table, writes tables and figures, and says where.

    Args:
        directories: where run directories are looked for, at any depth.
        out: where to write; by default the first of the directories.

    Raises:
        ValueError: if there are no run directories, or one cannot be read.
    """
    if not directories:
        raise ValueError("at least one directory must be given.")
    runs = load_runs(directories)
    console = Console()
    print_table(summarise(runs), console, aggregate(runs))
    paths = write_report(runs, out or directories[0])
    console.print("Written: " + ", ".join(str(path) for path in paths), soft_wrap=True)
