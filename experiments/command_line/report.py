"""`rl-optim report`: tables and figures from run directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command_line.arguments import Command, option


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Rebuild tables and figures from run directories alone; nothing is trained."""

    dirs: Annotated[tuple[Path, ...], tyro.conf.Positional, option("DIR")]
    """Directories in which run directories are looked for, at any depth."""
    out: Annotated[Path | None, option("DIR", "the first of the directories")] = None
    """Directory for tables and figures."""

    def run(self) -> None:
        """See `Command`."""
        from experiments.reports.report import report

        report(self.dirs, self.out)
