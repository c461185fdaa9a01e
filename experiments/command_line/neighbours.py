"""Runs of earlier commands in the directory of a comparison, which its report is on as well."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def runs_beside(out: Path, ours: Iterable[Path], *, offline: bool) -> list[Path]:
    """Run directories two levels below `out`, where comparisons have them, but for our own.

    What is there and cannot be reported beside our own is named on standard error.

    Args:
        out: the directory of the comparison.
        ours: its own run directories.
        offline: whether our own learn from data sets.
    """
    from experiments.runs.reading import is_offline, load_runs  # NumPy, for which nobody waits

    seen = {path.resolve() for path in ours}
    found = []
    for config in sorted(out.glob("*/*/config.json")):
        path = config.parent
        if path.resolve() in seen or not (path / "metrics.csv").is_file():
            continue
        seen.add(path.resolve())
        try:
            (run,) = load_runs([path])
            other = "it learned " + ("from a data set" if is_offline(run) else "in an environment")
            reason = other if is_offline(run) != offline else ""
        except (ValueError, OSError) as error:
            reason = str(error).removesuffix(".")
        if reason:
            print(f"Left out of the report: {path}, {reason}.", file=sys.stderr)
        else:
            found.append(path)
    return found


def say_beside(out: Path, others: Iterable[Path]) -> None:
    """Says which runs a report is on that the command did not ask for."""
    if names := ", ".join(str(path.relative_to(out)) for path in others):
        print(f"The report also holds runs that were in {out} before: {names}.")
