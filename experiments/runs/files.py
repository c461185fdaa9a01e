"""Files that are written so that a process killed at any moment leaves them whole, or as before."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that at any moment it is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a CSV file, whole."""
    write_atomically(path, csv_text(rows, header=True))


def csv_text(
    rows: Sequence[Mapping[str, Any]], header: bool, columns: Sequence[str] | None = None
) -> str:
    r"""Rows as they stand in a CSV file.

    Args:
        rows: at least one.
        header: whether the columns' names come first.
        columns: those of the file, of which the rows may have others or not all; by default those
            of the first row.

    Examples:
        >>> print(csv_text([{"point": 0, "loss": 0.5}], header=True).splitlines())
        ['point,loss', '0,0.5']
        >>> csv_text([{"point": 0, "loss": 0.5}], header=False, columns=["loss", "old"])
        '0.5,\n'
    """
    stream = io.StringIO()
    names = list(rows[0] if columns is None else columns)
    writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def whole_rows(path: Path) -> list[str]:
    """The header of a file and its rows up to the first that is cut off or holds no numbers."""
    if not path.is_file():
        return []
    header, *rows = path.read_bytes().decode(errors="replace").splitlines(keepends=True) or [""]
    whole = [header]
    for row in rows:
        cells = row.removesuffix("\n").split(",")
        if not row.endswith("\n") or len(cells) != header.count(",") + 1:
            break
        if not all(cell == "" or _is_number(cell) for cell in cells):
            break
        whole.append(row)
    return whole


def keep_rows(path: Path, rows: Sequence[str]) -> list[str]:
    """Leaves a CSV file with its header and these rows, or no file if there are none.

    Args:
        path: the file.
        rows: some of its `whole_rows`.

    Returns:
        What it holds then.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return []
    whole = [whole_rows(path)[0], *rows]
    write_atomically(path, "".join(whole))
    return whole


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
