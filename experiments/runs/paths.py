"""Names of run directories, which texts that name a run are turned into."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def run_paths(
    out: Path, environments: Iterable[str], optimizers: Iterable[str]
) -> dict[tuple[str, str], Path]:
    """Where a comparison trains each environment under each optimizer.

    Raises:
        ValueError: if a text is given twice, or two differ only in what no directory name holds.

    Examples:
        >>> run_paths(Path("runs"), ["ant:backend=spring"], ["adam"])
        {('ant:backend=spring', 'adam'): PosixPath('runs/ant-backend=spring/adam')}
    """
    names = [unique_names(texts) for texts in (environments, optimizers)]
    return {
        (environment, optimizer): out / names[0][environment] / names[1][optimizer]
        for environment in names[0]
        for optimizer in names[1]
    }


def unique_names(texts: Iterable[str]) -> dict[str, str]:
    """A name for each text that a directory can have.

    Raises:
        ValueError: if a text is given twice, or two differ only in what no directory name holds.
    """
    names: dict[str, str] = {}
    for text in texts:
        name = "".join(c if c.isalnum() or c in "._=,-" else "-" for c in text)
        if text in names:
            raise ValueError(f"{text!r} is given twice.")
        if name in names.values():
            raise ValueError(f"{text!r} and another would share the directory {name!r}.")
        names[text] = name
    return names
