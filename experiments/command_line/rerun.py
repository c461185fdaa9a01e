"""`rl-optim rerun`: runs once more, from what their directories say."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from experiments.command_line.arguments import FLAG, Command, option
from experiments.command_line.compare import train_in_turn
from experiments.reports.files import check_free_for_report
from experiments.runs.directory import RunDirectory, check_free


@dataclasses.dataclass(frozen=True)
class Rerun(Command):
    """Run once more what is in a directory of compare, train or sweep, from config.json alone.

    What is not as it was then (versions, revision, machine) is named, and at the end whether the
    metrics are the same, bit for bit.

    Example: rl-optim rerun runs/mine --out runs/again
    """

    computes = True
    spoken: ClassVar[Mapping[str, str]] = {"paths": "DIR"}

    dir: Annotated[Path, tyro.conf.Positional, option("DIR")]
    """Directory in which run directories are looked for, at any depth."""
    out: Annotated[Path, option("DIR")]
    """Directory to write to; each run has the same place in it as in the other one."""
    resume: Annotated[bool, FLAG] = False
    """Continue an interrupted run."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace runs that are already in the directory."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

    def check(self) -> None:
        """See `Command`."""
        if not self.dir.is_dir():
            raise ValueError(f"DIR must be a directory; got {str(self.dir)!r}.")
        if self.out.resolve() == self.dir.resolve():
            raise ValueError("--out must be another directory than DIR.")
        paths = self.paths()
        check_free(paths, resume=self.resume, overwrite=self.overwrite)
        check_free_for_report(self.out, paths, self.overwrite)

    def paths(self) -> dict[Path, Path]:
        """The run directories to run again, by where they are to be written.

        Raises:
            ValueError: if there are none.
        """
        from experiments.runs.reading import directories_with

        found = directories_with([self.dir], "config.json", "metrics.csv")
        if not found:
            raise ValueError(
                f"DIR must hold run directories of compare, train or sweep; found none below "
                f"{str(self.dir)!r}."
            )
        return {self.out / path.relative_to(self.dir): path for path in found}

    def logs(self) -> list[Path]:
        """See `Command`."""
        return [path / "metrics.csv" for path in self.paths()]

    def run(self) -> None:
        """Trains one run after the other, reports, and compares the metrics.

        Raises:
            ValueError: if a run cannot be run again.
            OSError: if something cannot be read or written.
            MemoryError: if a run does not fit into memory.
        """
        from experiments.command_line.devices import keep_compiled_programs
        from experiments.online.rerun import run_again
        from experiments.runs.circumstances import changes

        how = {"resume": self.resume, "overwrite": self.overwrite}
        paths = self.paths()
        runs = {path: run_again(old) for path, old in paths.items()}
        for path, run in runs.items():
            RunDirectory.check(path, run.config(), **how)
        said: dict[str, None] = {}
        for old in paths.values():
            told = changes(json.loads((old / "config.json").read_text()))
            said |= dict.fromkeys(told)
        if said:
            print(f"note: not as it was then: {'; '.join(said)}.", file=sys.stderr)
        if self.cache:
            keep_compiled_programs()
        train_in_turn(runs, resume=self.resume, overwrite=self.overwrite)
        from experiments.reports.report import report  # draws, for which nobody waits before

        report(list(runs), self.out, overwrite=self.overwrite)
        for path, old in paths.items():
            print(f"{path / 'metrics.csv'}: {_compared(path, old)}.")


def _compared(path: Path, old: Path) -> str:
    """Whether the metrics of two run directories are the same."""
    ours, theirs = ((each / "metrics.csv").read_bytes() for each in (path, old))
    if ours == theirs:
        return f"as in {old}, bit for bit"
    rows = [content.splitlines() for content in (ours, theirs)]
    same = next((i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b), None)
    if same is None:
        return f"as in {old} up to line {min(map(len, rows))}, where one of them ends"
    return f"not as in {old}, from line {same + 1} on"
