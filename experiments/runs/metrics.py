"""The file with the logged points of a run, and a digest of what was logged there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runs.files import csv_text, keep_rows, whole_rows


class Metrics:
    """The rows of a run, which come point by point.

    Args:
        path: the file.
        seeds: the run's seeds, in the order of the rows of a point; None if a point has one row,
            which says nothing of a seed.
    """

    def __init__(self, path: Path, seeds: Sequence[int] | None) -> None:
        self.path = path
        self._seeds = seeds
        self._written = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Digest of what was logged, whatever has become of the file since."""
        return self._written.hexdigest()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs rows, after a header if the file is new.

        A file that is there, which an earlier version may have begun, keeps its columns.
        """
        columns = None
        if self.path.is_file():
            with open(self.path, newline="") as stream:
                columns = stream.readline().removesuffix("\n").split(",")
        text = csv_text(rows, header=columns is None, columns=columns)
        with open(self.path, "a", newline="") as stream:
            stream.write(text)
        self._written.update(text.encode())

    def points(self) -> int:
        """How many points are in the file as they should be, from the first on."""
        return len(self._rows())

    def are(self, points: int, sha256: str) -> bool:
        """Whether so many points, and the header, are those of a digest."""
        rows = [row for rows in self._rows()[:points] for row in rows]
        text = "".join([*whole_rows(self.path)[:1], *rows])
        return hashlib.sha256(text.encode()).hexdigest() == sha256

    def keep(self, points: int) -> None:
        """Forgets all but so many points, which count as logged."""
        kept = keep_rows(self.path, [row for rows in self._rows()[:points] for row in rows])
        self._written = hashlib.sha256("".join(kept).encode())

    def _rows(self) -> list[list[str]]:
        """The rows, point by point, up to the first that is not as written."""
        points: list[list[str]] = []
        point: list[str] = []
        for row in whole_rows(self.path)[1:]:
            cells = row.split(",")
            seed = cells[2:3] if self._seeds is None else [str(self._seeds[len(point)])]
            if (cells[0], cells[2:3]) != (str(len(points)), seed):
                break
            point.append(row)
            if len(point) == (1 if self._seeds is None else len(self._seeds)):
                points.append(point)
                point = []
        return points
