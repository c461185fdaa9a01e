"""`rl-optim report`: tables and figures from run directories."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from experiments.command_line.arguments import FLAG, Command, option


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Rebuild tables and figures from run directories alone; nothing is trained."""

    spoken: ClassVar[Mapping[str, str]] = {"paths": "DIR"}

    dirs: Annotated[tuple[Path, ...], tyro.conf.Positional, option("DIR")]
    """Directories in which run directories are looked for, at any depth."""
    out: Annotated[Path | None, option("DIR", "the first of the directories")] = None
    """Directory for tables and figures."""
    normalisers: Annotated[
        tuple[str, ...], option("TASK=RETURN", "published returns of tuned Adam")
    ] = ()
    """What final returns are divided by in the aggregate over several tasks, with tasks as tables
    call them, e.g. CartPole-v1=500 'ant (spring)=4000'; or min-max alone, for scores over each
    task's own range of returns."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace files that are not part of an earlier report on the same runs."""

    def check(self) -> None:
        """See `Command`."""
        for path in self.dirs:
            if not path.is_dir():
                raise ValueError(f"DIR must be a directory; got {str(path)!r}.")

    def run(self) -> None:
        """See `Command`."""
        from experiments.reports.aggregate import read_normalisers
        from experiments.reports.report import report

        normalisers = read_normalisers(self.normalisers)
        report(self.dirs, self.out, normalisers=normalisers, overwrite=self.overwrite)
