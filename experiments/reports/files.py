"""Files of reports: which of them may be replaced, and how they name the runs reported on.

`summary.csv` names the directory of each run, as seen from its own folder. By that a later report
knows what it would replace.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

# Neither NumPy nor Matplotlib at import: a command asks before it loads anything.

IMAGES = ("png", "svg", "pdf")  # kinds of files that each figure is written as


def _images(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{kind}" for stem in stems for kind in IMAGES)


SUMMARY = "summary.csv"
_FILES = (
    *(SUMMARY, "summary.md", "summary.tex", "aggregate.csv", "collapse.csv", "phases.csv"),
    *_images("curves", "critic", "profiles", "phases", "plasticity"),
)
_AGE_FILES = _images("returns_by_age", "meta_gradient")
SWEEP = "sweep.csv"
_SWEEP_FILES = (SWEEP, "sweep.md", *_images("sweep"))
META_TRAINING = "meta_training.csv"
_META_TRAINING_FILES = (META_TRAINING, "meta_training.md", *_images("meta_training"))
META_SWEEP = "meta_sweep.csv"
_META_SWEEP_FILES = (META_SWEEP, "meta_sweep.md", *_images("meta_sweep"))
_BETWEEN = "; "  # directories of a pooled run
R = TypeVar("R")


def check_free_for_report(out: Path, directories: Iterable[Path], overwrite: bool) -> None:
    """Makes sure that a report may be written.

    It may replace an earlier report on the same runs, on some of them, or on runs at or below
    `out`: those `rl-optim report` finds again. Everything else is somebody's own, or a report on
    other runs, and stays.

    Args:
        out: the directory to write into.
        directories: run directories that are to be reported on; they need not be there yet.
        overwrite: whether to replace whatever is there.

    Raises:
        ValueError: if a file is in the way; the sentence names it.
    """
    _check_free(out, _FILES, directories, overwrite)


def check_free_for_sweep(out: Path, directories: Iterable[Path], overwrite: bool) -> None:
    """The same for the files of a sweep, whose `sweep.csv` names its runs.

    Raises:
        ValueError: if a file is in the way; the sentence names it.
    """
    _check_free(out, _SWEEP_FILES, directories, overwrite)


def check_free_for_meta_training(out: Path, directories: Iterable[Path], overwrite: bool) -> None:
    """The same for the files on meta-training, whose `meta_training.csv` names its runs.

    Raises:
        ValueError: if a file is in the way; the sentence names it.
    """
    _check_free(out, _META_TRAINING_FILES, directories, overwrite)


def check_free_for_meta_sweep(out: Path, directories: Iterable[Path], overwrite: bool) -> None:
    """The same for the files of a sweep of meta-training, whose `meta_sweep.csv` names its runs.

    Raises:
        ValueError: if a file is in the way; the sentence names it.
    """
    _check_free(out, _META_SWEEP_FILES, directories, overwrite)


def _check_free(
    out: Path, names: Sequence[str], directories: Iterable[Path], overwrite: bool
) -> None:
    """See `check_free_for_report`; the first of the names is of the file that names the runs."""
    if there := _there(out, names, overwrite):
        present = {Path(directory).resolve() for directory in directories}
        named = _named_runs(out / names[0])
        if not named or not all(_is_covered(text, out, present) for text in named):
            raise _in_the_way(there)


def check_free_for_ages(out: Path, directories: Iterable[Path], overwrite: bool) -> None:
    """The same for the figure of return against age, which names no runs.

    It may be replaced where one of the meta-trainings that are drawn lies at or below `out`.

    Raises:
        ValueError: if a file is in the way; the sentence names it.
    """
    there = _there(out, _AGE_FILES, overwrite)
    if there and not any(_is_below(directory, out) for directory in directories):
        raise _in_the_way(there)


def names_of(directories: Iterable[Path]) -> str:
    """How a row names a run's directories."""
    return _BETWEEN.join(directory.as_posix() for directory in directories)


def is_pooled(run_directory: str) -> bool:
    """Whether a row names several directories."""
    return _BETWEEN in run_directory


def seen_from(out: Path, rows: Sequence[R]) -> list[R]:
    """Rows whose `run_directory` is relative to the directory of the report."""

    def relative(row: Any) -> Any:
        return dataclasses.replace(row, run_directory=relative_names(out, row.run_directory))

    return [relative(row) for row in rows]


def relative_names(out: Path, run_directory: str) -> str:
    """How a row of a table in `out` names a run's directories."""
    names = (os.path.relpath(name, out) for name in run_directory.split(_BETWEEN))
    return names_of(map(Path, names))


def _there(out: Path, names: Sequence[str], overwrite: bool) -> Path | None:
    """The first of the files that is there and may not simply be replaced."""
    if overwrite:
        return None
    return next((out / name for name in names if (out / name).exists()), None)


def _in_the_way(path: Path) -> ValueError:
    return ValueError(
        f"{path} exists already and is not part of a report on these runs; "
        "move it away, or use --overwrite to replace it."
    )


def _named_runs(path: Path) -> list[str]:
    """The directories that a report's table names; none if there is no such file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        texts = [row["run_directory"].split(_BETWEEN) for row in rows if row["optimizer"]]
    except (OSError, ValueError, csv.Error, KeyError, AttributeError):
        return []
    return [name for names in texts for name in names]


def _is_covered(name: str, out: Path, present: set[Path]) -> bool:
    path = Path(os.path.abspath(out / name))
    if not path.exists() and Path(name).exists():  # as earlier versions named directories
        path = Path(name)
    return bool(name) and (_is_below(path, out) or path.resolve() in present)


def _is_below(path: Path, out: Path) -> bool:
    # By name, not by what links point at: links below `out` are followed when runs are looked for.
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(out))
